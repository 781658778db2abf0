/**
 * Event channels as the hypervisor knows them: it alone gives out, binds and closes ports, and tells the
 * processes by writing links (evtchn-words.ts). States and errors are Xen's (xen/common/event_channel.c).
 */
import * as words from "./evtchn-words.js";
import { HypervisorError } from "./wire.js";

/** A domain's side: `words` is its `evtchn` file, `ports` what is in use. */
export interface PortSpace {
  readonly domid: number;
  readonly words: Int32Array;
  readonly ports: Map<number, Port>;
}

export interface Port {
  readonly space: PortSpace;
  readonly number: number;
  readonly handle: number;
  /** Who may bind to it while it has no peer; the peer's domain otherwise. */
  readonly remoteDomid: number;
  peer: Port | null;
}

/** What one handle owns. `queued`: ports that it closed while their numbers were in its FIFO. */
export interface Handle {
  readonly id: number;
  readonly space: PortSpace;
  readonly ports: Set<Port>;
  readonly queued: Set<number>;
}

export class Arbiter {
  readonly #ring: (handle: number, port: number) => void;

  /** `ring` writes a port's number into a handle's FIFO. */
  constructor(ring: (handle: number, port: number) => void) {
    this.#ring = ring;
  }

  allocUnbound(handle: Handle, remoteDomid: number): Port {
    return this.#allocate(handle, remoteDomid);
  }

  bindInterdomain(handle: Handle, remote: PortSpace, remotePort: number): Port {
    const peer = remote.ports.get(remotePort);
    const { domid } = handle.space;
    if (peer === undefined || peer.peer !== null || peer.remoteDomid !== domid) {
      const what = `port ${remotePort} of domain ${remote.domid} is not waiting for domain ${domid}`;
      throw new HypervisorError("EINVAL", what);
    }
    const port = this.#allocate(handle, remote.domid);
    port.peer = peer;
    peer.peer = port;
    writeLink(port, peer);
    writeLink(peer, port);
    // The remote side may have raised an event while nobody was bound to it.
    const { number, space } = port;
    if (words.raise(space.words, number, words.generationOf(space.words, number))) {
      this.#ring(port.handle, number);
    }
    return port;
  }

  close(handle: Handle, port: Port): void {
    const { space, number, peer } = port;
    handle.ports.delete(port);
    space.ports.delete(number);
    words.close(space.words, number);
    if (words.isQueued(space.words, number)) handle.queued.add(number);
    if (peer === null) return;
    // Unbound again, for the same domain as before.
    peer.peer = null;
    words.clearLink(peer.space.words, peer.number);
    // Our owner may have been killed between raising the peer's port and queueing it.
    if (words.isQueued(peer.space.words, peer.number)) this.#ring(peer.handle, peer.number);
  }

  /** Closes all that a handle has. Its FIFO must be gone from view before. */
  closeHandle(handle: Handle): void {
    for (const port of [...handle.ports]) this.close(handle, port);
    for (const number of handle.queued) {
      if (!handle.space.ports.has(number)) words.forget(handle.space.words, number);
    }
    handle.queued.clear();
  }

  #allocate(handle: Handle, remoteDomid: number): Port {
    const { space } = handle;
    const number = freePort(space);
    const port: Port = { space, number, handle: handle.id, remoteDomid, peer: null };
    words.open(space.words, number, handle.id);
    space.ports.set(number, port);
    handle.ports.add(port);
    return port;
  }
}

function freePort({ domid, words: file, ports }: PortSpace): number {
  for (let number = 1; number < words.EVTCHN_PORTS; number++) {
    if (!ports.has(number) && !words.isQueued(file, number)) return number;
  }
  throw new HypervisorError("ENOSPC", `domain ${domid} has all ${words.EVTCHN_PORTS - 1} ports in use`);
}

function writeLink(from: Port, to: Port): void {
  const generation = words.generationOf(to.space.words, to.number);
  words.writeLink(from.space.words, from.number, { domid: to.space.domid, port: to.number, generation });
}
