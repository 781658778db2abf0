/** A handle on event channels: the hypervisor binds and closes; events go from process to process without it. */
import { closeSync, constants, openSync } from "node:fs";
import { readNonBlocking, SystemError } from "../libc.js";
import { type MappedFile, mapFile } from "../mapping.js";
import type { EventChannels } from "../ports.js";
import type { Connection } from "./connection.js";
import { openDoorbell, ringDoorbell } from "./doorbell.js";
import * as words from "./evtchn-words.js";
import { paths } from "./layout.js";

const MAX_READ_BYTES = 256;

interface Doorbell {
  handle: number;
  fd: number;
}

export class LoopbackEventChannels implements EventChannels {
  readonly fd: number;
  readonly inbox = new Uint32Array(new ArrayBuffer(MAX_READ_BYTES));
  readonly #directory: string;
  readonly #connection: Connection;
  readonly #handle: number;
  readonly #own: MappedFile;
  readonly #peers = new Map<number, MappedFile>();
  /** By local port: the FIFO of whoever owns the peer's. */
  readonly #doorbells = new Map<number, Doorbell>();
  readonly #link: words.Link = { domid: 0, port: 0, generation: 0 };
  #closed = false;

  /** `handle` is the hypervisor's name for this handle; its FIFO exists. */
  constructor(directory: string, domid: number, connection: Connection, handle: number) {
    this.#directory = directory;
    this.#connection = connection;
    this.#handle = handle;
    this.#own = mapFile(paths.evtchn(directory, domid), words.EVTCHN_BYTES);
    // For reading and writing: it never reports an end of file, and we queue our own ports in `unmask`.
    this.fd = openSync(paths.doorbell(directory, handle), constants.O_RDWR | constants.O_NONBLOCK);
  }

  async bindInterdomain(remoteDomid: number, remotePort: number): Promise<number> {
    const request = { handle: this.#handle, domid: remoteDomid, port: remotePort };
    return (await this.#connection.request("bindInterdomain", request)).port as number;
  }

  async allocUnbound(remoteDomid: number): Promise<number> {
    const request = { handle: this.#handle, domid: remoteDomid };
    return (await this.#connection.request("allocUnbound", request)).port as number;
  }

  async unbind(port: number): Promise<void> {
    this.#dropDoorbell(port);
    await this.#connection.request("unbind", { handle: this.#handle, port });
  }

  notify(port: number): void {
    if (!this.#owns(port)) return;
    const link = this.#link;
    if (!words.readLink(this.#own.memory.i32, port, link)) return;
    const peer = this.#peer(link.domid);
    if (peer === null) return;
    // The owner is read before the port is raised: if that works, the port has not changed hands since.
    const handle = words.ownerOf(peer, link.port);
    if (handle === 0 || !words.raise(peer, link.port, link.generation)) return;
    this.#ring(port, handle, link.port);
  }

  read(ports: Uint32Array): number {
    if (this.#closed || ports.length === 0) return 0;
    const buffer = new Uint8Array(this.inbox.buffer, 0, Math.min(4 * ports.length, MAX_READ_BYTES));
    // All that was read may have been leftovers of closed ports: then there may be more behind them.
    for (;;) {
      const bytes = readNonBlocking(this.fd, buffer);
      if (bytes === 0) return 0;
      const count = this.received(bytes, ports);
      if (count > 0) return count;
    }
  }

  received(result: number, ports: Uint32Array): number {
    if (result < 0) throw new SystemError("read", -result, "event channels");
    let count = 0;
    for (let i = 0; i < result / 4; i++) {
      const port = this.inbox[i];
      if (!isPort(port)) continue;
      if (words.take(this.#own.memory.i32, port, this.#handle)) ports[count++] = port;
    }
    return count;
  }

  unmask(port: number): void {
    if (this.#closed || !isPort(port)) return;
    if (words.unmask(this.#own.memory.i32, port, this.#handle)) ringDoorbell(this.fd, port);
  }

  /** A port is re-armed in memory. */
  unmaskBy(): void {}

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const port of [...this.#doorbells.keys()]) this.#dropDoorbell(port);
    for (const peer of this.#peers.values()) peer.close();
    this.#peers.clear();
    this.#own.close();
    closeSync(this.fd);
    await this.#connection.release("closeEvtchn", { handle: this.#handle });
  }

  #owns(port: number): boolean {
    return !this.#closed && isPort(port) && words.ownerOf(this.#own.memory.i32, port) === this.#handle;
  }

  #ring(port: number, handle: number, remotePort: number): void {
    let doorbell = this.#doorbells.get(port);
    if (doorbell === undefined || doorbell.handle !== handle) {
      this.#dropDoorbell(port);
      const fd = openDoorbell(this.#directory, handle);
      if (fd === null) return;
      this.#doorbells.set(port, (doorbell = { handle, fd }));
    }
    if (!ringDoorbell(doorbell.fd, remotePort)) this.#dropDoorbell(port);
  }

  #dropDoorbell(port: number): void {
    const doorbell = this.#doorbells.get(port);
    if (doorbell === undefined) return;
    this.#doorbells.delete(port);
    closeSync(doorbell.fd);
  }

  /** The words of another domain; null when it does not exist any more. */
  #peer(domid: number): Int32Array | null {
    const known = this.#peers.get(domid);
    if (known !== undefined && !words.isDead(known.memory.i32)) return known.memory.i32;
    known?.close();
    this.#peers.delete(domid);
    try {
      const peer = mapFile(paths.evtchn(this.#directory, domid), words.EVTCHN_BYTES);
      this.#peers.set(domid, peer);
      return peer.memory.i32;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
      throw error;
    }
  }
}

function isPort(port: number): boolean {
  return port > 0 && port < words.EVTCHN_PORTS;
}
