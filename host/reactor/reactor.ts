/**
 * A reactor: rings that share a thread, with one handle on event channels and one on grants for all of them. It does
 * what there is to do and never waits: that is for whoever drives it, Node's event loop (event-loop.ts) or a loop that
 * blocks in io_uring (uring-loop.ts).
 */
import type { EventChannels, GrantTable } from "../platform/ports.js";
import { Activity } from "./activity.js";
import { Gate } from "./gate.js";
import { IdleWindows } from "./idle-windows.js";
import { Ring, type RingOptions } from "./ring.js";
import { bind } from "./start.js";
import { type Credit, Turns } from "./turns.js";

const MAX_PORTS_A_READ = 64;
const MAX_READS = 64;
/** Rings that a driver may look at again and again. */
const MAX_WATCHED = 16;
/** How often persistent grants are looked at: Linux's LRU_INTERVAL, and a longer time while no ring is in use. */
const TRIM_INTERVAL_MS = 100;
const IDLE_TRIM_INTERVAL_MS = 5000;

export class Reactor {
  /** Called when a ring wants {@link turn} and none did before, and where one wants another. */
  onReady: () => void = () => {};
  /** Whether {@link quiet} and its like are going to be called. */
  watching = false;
  /** Passes that rings have made, and reads of event channels. */
  passes = 0;
  eventReads = 0;

  readonly events: EventChannels;
  readonly #grants: GrantTable;
  readonly #rings = new Map<number, Ring>();
  readonly #ports = new Uint32Array(MAX_PORTS_A_READ);
  readonly #turns = new Turns<Ring>((ring, credit) => this.#run(ring, credit));
  /** Rings that were at work since {@link listen}; frontends of theirs are asked for events, or not. */
  readonly #recent: Ring[] = [];
  #listening = true;
  /** Channels that stay masked for a while: when they may be heard again. */
  readonly #masked: { port: number; ring: Ring; until: number }[] = [];
  /** Rings that wait for their throttle. */
  readonly #throttled: Ring[] = [];
  /** When persistent grants are looked at; Infinity while there are none. */
  #trimAt = Number.POSITIVE_INFINITY;
  #active = false;
  readonly #windows = new IdleWindows();
  readonly #activity: Activity;
  /** By which disks' latencies are measured. */
  readonly #clock: () => number;
  /** By the disk, which is one guest's. A guest's other disks do not wait for one that hangs. */
  readonly #gates = new WeakMap<object, Gate>();
  readonly #onRingReady = (ring: Ring): void => {
    const { waiting } = this.#turns;
    this.#turns.enqueue(ring);
    if (!waiting) this.onReady();
  };

  readonly #onRingThrottled = (ring: Ring): void => {
    if (!this.#throttled.includes(ring)) this.#throttled.push(ring);
  };

  /** Takes both handles over; `close` closes them. `activity` is that of all reactors of the process. */
  constructor(
    events: EventChannels,
    grants: GrantTable,
    activity = new Activity(),
    clock = () => performance.now(),
  ) {
    this.events = events;
    this.#clock = clock;
    this.#activity = activity;
    this.#grants = grants;
  }

  /** Pages of guests that are mapped now. */
  get mappedPages(): number {
    return this.#grants.mappedPages;
  }

  /** Whether a ring wants {@link turn}. */
  get ready(): boolean {
    return this.#turns.waiting;
  }

  /** When {@link tick} is due, by performance.now(); Infinity when nothing is. */
  get due(): number {
    let due = Math.min(this.#trimAt, this.#windows.due);
    for (const { until } of this.#masked) due = Math.min(due, until);
    for (const { resumeAt } of this.#throttled) due = Math.min(due, resumeAt);
    return due;
  }

  /**
   * Binds a ring's event channel, maps the ring and starts on it. `remotePort` is the frontend's end of the channel,
   * unbound for us. Rejects with what went wrong; nothing is held then.
   */
  async attach(options: RingOptions, remotePort: number): Promise<Ring> {
    const { events } = this;
    const port = await bind(events, options.config.domid, remotePort, options.start);
    let ring: Ring;
    const { domid } = options.config;
    this.#turns.add(domid);
    try {
      ring = new Ring(options, {
        grants: this.#grants,
        events,
        port,
        onReady: this.#onRingReady,
        onThrottled: this.#onRingThrottled,
        windows: this.#windows,
        gate: this.#gateOf(options.device, domid),
      });
    } catch (error) {
      this.#turns.remove(domid);
      await events.unbind(port).catch(() => {});
      throw error;
    }
    this.#rings.set(port, ring);
    // The channel is pending from the start, but its event may have been read before the ring was known. Its first pass is
    // one of a turn: after that the driver looks at what is due, as where the throttle is to be waited for.
    ring.wake();
    return ring;
  }

  /** Stops a ring, waits for its I/O, and lets go of everything of the guest's. */
  async detach(ring: Ring): Promise<void> {
    await ring.detach();
    this.#turns.remove(ring.domid);
    this.#rings.delete(ring.port);
    await this.events.unbind(ring.port);
  }

  #gateOf(device: object, domid: number): Gate {
    const gate = this.#gates.get(device) ?? new Gate(this.#activity, domid, this.#clock);
    this.#gates.set(device, gate);
    return gate;
  }

  /** Reads events, a bounded number: each ring whose channel rang wants a pass. */
  dispatch(): void {
    this.eventReads++;
    this.#take(this.events.read(this.#ports));
  }

  /** The same for events that were read into the inbox of `events`: `result` is what read(2) returned, or -errno. */
  received(result: number): void {
    this.eventReads++;
    this.#take(this.events.received(result, this.#ports));
  }

  /** Takes these events, and what is behind them: after an overflow there may be more without anything to read. */
  #take(count: number): void {
    let got = count;
    this.#rang(got);
    for (let round = 1; got === MAX_PORTS_A_READ && round < MAX_READS; round++) {
      this.eventReads++;
      got = this.events.read(this.#ports);
      this.#rang(got);
    }
  }

  #rang(count: number): void {
    for (let i = 0; i < count; i++) {
      const port = this.#ports[i];
      // An event on a channel that was just closed is nobody's (XSA-331).
      const ring = this.#rings.get(port);
      if (ring === undefined) this.events.unmask(port);
      else ring.rang();
    }
  }

  /** Rings that want one make a pass, as {@link Turns} has it; some may have to wait for another turn. */
  turn(): void {
    this.#turns.take();
    if (this.#turns.waiting) this.onReady();
  }

  /**
   * For a driver that looks for requests again and again instead of sleeping: asks the frontends of rings that were
   * at work lately for no events. False when they are too many to look at. {@link listen} must come before a sleep.
   */
  quiet(): boolean {
    if (this.#recent.length > MAX_WATCHED) return false;
    this.#listening = false;
    for (const ring of this.#recent) ring.askForNoEvents();
    return true;
  }

  /** Those of these rings that have new requests want a pass: true if one had. */
  look(): boolean {
    let found = false;
    for (let i = 0; i < this.#recent.length; i++) {
      const ring = this.#recent[i];
      if (!ring.hasRequests) continue;
      found = true;
      ring.wake();
    }
    return found;
  }

  /** Asks for events where {@link quiet} has asked for none. A pass does that: true if some are to come. */
  listen(): boolean {
    const recent = this.#recent;
    const quiet = !this.#listening;
    this.#listening = true;
    if (quiet) for (const ring of recent) ring.wake();
    for (const ring of recent) ring.recent = false;
    recent.length = 0;
    return quiet;
  }

  /** What is due by the clock. */
  tick(): void {
    const now = performance.now();
    for (let i = this.#masked.length - 1; i >= 0; i--) {
      const { port, ring, until } = this.#masked[i];
      if (until > now) continue;
      this.#masked.splice(i, 1);
      if (this.#rings.get(port) === ring) this.events.unmask(port);
    }
    if (now >= this.#trimAt) this.#trim(now);
    if (now >= this.#windows.due) this.#windows.tick(now);
    this.#resume(now);
  }

  /** A ring that is to wait on says so again. */
  #resume(now: number): void {
    for (let i = this.#throttled.length - 1; i >= 0; i--) {
      const ring = this.#throttled[i];
      if (ring.resumeAt > now && ring.resumeAt !== Number.POSITIVE_INFINITY) continue;
      this.#throttled.splice(i, 1);
      if (ring.resumeAt <= now) ring.wake();
    }
  }

  /** To be called when all rings are detached. */
  async close(): Promise<void> {
    await this.events.close();
    this.#grants.close();
  }

  #run(ring: Ring, credit: Credit): void {
    this.#noteUse(ring);
    ring.run(credit);
    if (!ring.wasRung) return;
    // Until now it stayed masked: a guest that waits for its turn cannot ring again and again.
    const delay = ring.answerEvent();
    if (delay === 0) this.events.unmask(ring.port);
    else this.#masked.push({ port: ring.port, ring, until: performance.now() + delay });
  }

  #noteUse(ring: Ring): void {
    this.passes++;
    this.#activity.note(ring.domid);
    if (this.watching && !ring.recent) {
      ring.recent = true;
      this.#recent.push(ring);
    }
    if (this.#active || !ring.keepsPages) return;
    this.#active = true;
    this.#trimAt = Math.min(this.#trimAt, performance.now() + TRIM_INTERVAL_MS);
  }

  #trim(now: number): void {
    let kept = false;
    for (const ring of this.#rings.values()) {
      ring.trim(Math.floor(now / TRIM_INTERVAL_MS));
      kept ||= ring.keepsPages;
    }
    const interval = this.#active ? TRIM_INTERVAL_MS : IDLE_TRIM_INTERVAL_MS;
    this.#trimAt = kept ? now + interval : Number.POSITIVE_INFINITY;
    this.#active = false;
  }
}
