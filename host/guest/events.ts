/** Delivers events of one handle on event channels to the disks that share it. */
import { type Poll, pollReadable } from "../platform/libc.js";
import type { EventChannels } from "../platform/ports.js";

const dispatchers = new WeakMap<EventChannels, PortDispatcher>();

export class PortDispatcher {
  readonly #events: EventChannels;
  readonly #handlers = new Map<number, () => void>();
  readonly #ports = new Uint32Array(64);
  #poll: Poll | null = null;

  private constructor(events: EventChannels) {
    this.#events = events;
  }

  /** A handle is read in one place only, or one disk would swallow another's events. */
  static of(events: EventChannels): PortDispatcher {
    let dispatcher = dispatchers.get(events);
    if (!dispatcher) dispatchers.set(events, (dispatcher = new PortDispatcher(events)));
    return dispatcher;
  }

  /** Calls `handler` for events of a local port; the port is unmasked when it returns. */
  add(port: number, handler: () => void): void {
    this.#handlers.set(port, handler);
    this.#poll ??= pollReadable(this.#events.fd, () => this.#deliver());
  }

  remove(port: number): void {
    this.#handlers.delete(port);
    if (this.#handlers.size > 0) return;
    this.#poll?.close();
    this.#poll = null;
  }

  /** What does not fit into one read is delivered by the next poll. */
  #deliver(): void {
    const count = this.#events.read(this.#ports);
    for (let i = 0; i < count; i++) {
      const port = this.#ports[i];
      const handler = this.#handlers.get(port);
      if (!handler) continue;
      handler();
      // After the work: an event that came meanwhile waits behind the mask and is delivered again.
      this.#events.unmask(port);
    }
  }
}
