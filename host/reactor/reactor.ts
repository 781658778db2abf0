/**
 * A reactor: the event loop that owns rings. It holds one handle on event channels for all of them and lets every
 * ring whose channel rang make a bounded pass in turn.
 */
import { type Poll, pollReadable } from "../platform/libc.js";
import type { EventChannels, GrantTable } from "../platform/ports.js";
import { Ring, type RingOptions } from "./ring.js";

/** What a ring is attached with; the reactor adds its own handles. */
export type AttachOptions = Omit<RingOptions, "grants" | "events" | "port"> & {
  /** The frontend's end of the event channel, unbound for us. */
  readonly remotePort: number;
};

/** A ring in a reactor's care. */
export interface AttachedRing {
  /** Our end of its event channel. */
  readonly port: number;
  readonly ring: Ring;
  /** Stops the ring, waits for its I/O, and lets go of everything of the guest's. */
  detach(): Promise<void>;
}

const MAX_PORTS_A_READ = 64;

export class Reactor {
  readonly #events: EventChannels;
  readonly #grants: GrantTable;
  readonly #poll: Poll;
  readonly #rings = new Map<number, Ring>();
  readonly #ports = new Uint32Array(MAX_PORTS_A_READ);

  /** Takes both handles over; `close` closes them. */
  constructor(events: EventChannels, grants: GrantTable) {
    this.#events = events;
    this.#grants = grants;
    this.#poll = pollReadable(events.fd, () => this.#dispatch());
  }

  /** Pages of guests that are mapped now. */
  get mappedPages(): number {
    return this.#grants.mappedPages;
  }

  /** Maps a ring, binds its event channel and serves it. Rejects with what went wrong; nothing is held then. */
  async attach(options: AttachOptions): Promise<AttachedRing> {
    const { remotePort, ...rest } = options;
    const events = this.#events;
    const port = await events.bindInterdomain(options.config.domid, remotePort);
    let ring: Ring;
    try {
      ring = new Ring({ ...rest, grants: this.#grants, events, port });
    } catch (error) {
      await events.unbind(port).catch(() => {});
      throw error;
    }
    this.#rings.set(port, ring);
    // The channel is pending from the start, but its event may have been read before the ring was known.
    ring.run();
    const detach = async (): Promise<void> => {
      await ring.detach();
      this.#rings.delete(port);
      await events.unbind(port);
    };
    return { port, ring, detach };
  }

  async close(): Promise<void> {
    this.#poll.close();
    await this.#events.close();
    this.#grants.close();
  }

  #dispatch(): void {
    const count = this.#events.read(this.#ports);
    for (let i = 0; i < count; i++) {
      const port = this.#ports[i];
      // An event on a channel that was just closed is nobody's (XSA-331).
      const ring = this.#rings.get(port);
      const delay = ring?.event() ?? 0;
      if (delay === 0) this.#events.unmask(port);
      else setTimeout(() => this.#rings.get(port) === ring && this.#events.unmask(port), delay).unref();
    }
  }
}
