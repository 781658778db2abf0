/**
 * Delivers events of one handle on event channels to the disks that share it. Where responses come soon, it looks for
 * more of them by itself for a while and asks for no events, as a guest's CPU polls before it halts (Linux's haltpoll): to
 * be woken takes longer than many a response does, and costs both sides.
 */
import { availableParallelism } from "node:os";
import { type Poll, pollReadable } from "../platform/libc.js";
import type { EventChannels } from "../platform/ports.js";

/** Whom the events of a port are for. */
export interface PortHandler {
  /** Whether there is anything to wait for. */
  readonly waits: boolean;
  /** The port's event came: as {@link look}. */
  event(): void;
  /** Does what there is to do, and asks for no event. False if there was nothing. */
  look(): boolean;
  /** As {@link look}, and asks for an event at whatever comes next. */
  listen(): boolean;
}

/** How long to look in vain, in milliseconds, and how long at a time before Node's event loop has its turn. */
const PATIENCE_MS = 0.05;
const SPIN_MS = 0.01;
/** An event so soon after the last one was delivered tells that looking would nearly have found it. */
const SOON_MS = 0.15;

const dispatchers = new WeakMap<EventChannels, PortDispatcher>();

export class PortDispatcher {
  /** Whether to look at all: on one CPU the backend would wait for us meanwhile. */
  static looks = availableParallelism() > 1;

  readonly #events: EventChannels;
  readonly #handlers = new Map<number, PortHandler>();
  readonly #ports = new Uint32Array(64);
  #poll: Poll | null = null;
  /** Those that have asked for no events. */
  readonly #quiet = new Set<PortHandler>();
  #looking = false;
  /** When something was last found or delivered, by performance.now(). */
  #lastFound = Number.NEGATIVE_INFINITY;
  readonly #look = () => this.#lookAgain();

  private constructor(events: EventChannels) {
    this.#events = events;
  }

  /** A handle is read in one place only, or one disk would swallow another's events. */
  static of(events: EventChannels): PortDispatcher {
    let dispatcher = dispatchers.get(events);
    if (!dispatcher) dispatchers.set(events, (dispatcher = new PortDispatcher(events)));
    return dispatcher;
  }

  /** Delivers the events of a local port to `handler`; the port is unmasked when that returns. */
  add(port: number, handler: PortHandler): void {
    this.#handlers.set(port, handler);
    this.#poll ??= pollReadable(this.#events.fd, () => this.#deliver());
  }

  remove(port: number): void {
    const handler = this.#handlers.get(port);
    if (handler) this.#quiet.delete(handler);
    this.#handlers.delete(port);
    if (this.#handlers.size > 0) return;
    this.#poll?.close();
    this.#poll = null;
  }

  /** What does not fit into one read is delivered by the next poll. */
  #deliver(): void {
    const looks = this.#looking || this.#isSoon();
    const count = this.#events.read(this.#ports);
    for (let i = 0; i < count; i++) {
      const port = this.#ports[i];
      const handler = this.#handlers.get(port);
      if (!handler) continue;
      handler.event();
      // It may have found its backend lying, and given the port up.
      if (this.#handlers.get(port) !== handler) continue;
      if (looks) this.#quiet.add(handler);
      else handler.listen();
      // After the work: an event that came meanwhile waits behind the mask and is delivered again.
      this.#events.unmask(port);
    }
    this.#lastFound = performance.now();
    if (this.#quiet.size === 0 || this.#looking) return;
    this.#looking = true;
    setImmediate(this.#look);
  }

  #isSoon(): boolean {
    return PortDispatcher.looks && performance.now() - this.#lastFound < SOON_MS;
  }

  #lookAgain(): void {
    const start = performance.now();
    let now = start;
    do {
      if (this.#lookOnce()) {
        // Requests that were made in answer become visible when this function has returned.
        this.#lastFound = now;
        break;
      }
      now = performance.now();
      if (now - this.#lastFound > PATIENCE_MS || !this.#waits()) {
        if (!this.#stopLooking()) return;
        break;
      }
    } while (now - start < SPIN_MS);
    setImmediate(this.#look);
  }

  #lookOnce(): boolean {
    let found = false;
    for (const handler of this.#quiet) if (handler.look()) found = true;
    return found;
  }

  #waits(): boolean {
    for (const handler of this.#quiet) if (handler.waits) return true;
    return false;
  }

  /** Asks for events again. True if there was something to do after all: then it goes on. */
  #stopLooking(): boolean {
    let found = false;
    for (const handler of this.#quiet) if (handler.listen()) found = true;
    if (found) this.#lastFound = performance.now();
    else {
      this.#quiet.clear();
      this.#looking = false;
    }
    return found;
  }
}
