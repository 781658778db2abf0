/**
 * One ring at work: whenever its event channel rings or an I/O ends, a pass of the core, the grant operations and
 * I/Os that it asks for, and the notification that it allows.
 */
import { randomInt } from "node:crypto";
import * as abi from "../../assembly/abi.js";
import { BlkifCore, DEFAULT_BATCH, IO_OPERATIONS, type RingConfig } from "../core/blkif.js";
import type { Counters } from "../core/counters.js";
import { coreModule } from "../core/load.js";
import { type LinearMemory, PAGE_SIZE } from "../core/memory.js";
import type { EventChannels, GrantTable } from "../platform/ports.js";
import { Result } from "../storage/device.js";
import { DataWindow } from "./data-window.js";
import type { Gate, GateRing } from "./gate.js";
import type { IdleWindows } from "./idle-windows.js";
import type { IoOwner, IoQueue } from "./io-queue.js";
import { LatencyTable } from "./latency.js";
import type { RingObserver } from "./observer.js";
import { RingGrants } from "./ring-grants.js";
import { begin, type Start } from "./start.js";
import type { Throttle } from "./throttle.js";
import { type Credit, UNLIMITED } from "./turns.js";

export interface RingOptions {
  readonly config: RingConfig;
  /** Grant references of the ring's pages, in order. */
  readonly ringRefs: Uint32Array;
  /** All zeros, MEMORY_BYTES; the ring's until {@link Ring.detach} has resolved. */
  readonly memory: LinearMemory;
  readonly start: Start;
  /** As {@link Ring.setThrottle} has it; from the first request on. */
  readonly throttle?: Throttle | null;
  /** What its I/O goes to; all rings of one disk have the same. */
  readonly device: object;
  readonly makeQueue: (core: BlkifCore, owner: IoOwner) => IoQueue;
  /** The ring takes no more requests: the guest has spoilt it, or the core failed over it. Called at most once. */
  readonly onHalt: (why: string) => void;
  /** An I/O failed. */
  readonly onError: (operation: string, error: Error | undefined, result: Result) => void;
}

/** What a ring needs of the reactor that it is attached to. */
export interface RingPlace {
  readonly grants: GrantTable;
  readonly events: EventChannels;
  /** Our end of the event channel. */
  readonly port: number;
  /** The ring wants {@link Ring.run} to be called, after others had their turn. */
  readonly onReady: (ring: Ring) => void;
  /** The ring wants {@link Ring.run} at {@link Ring.resumeAt}. */
  readonly onThrottled: (ring: Ring) => void;
  /** Starts the I/Os of all rings of its disk. */
  readonly gate: Gate;
  /** Where it notes that its data window is used. */
  readonly windows: IdleWindows;
}

const GRANT_OPERATIONS = abi.STEP_COPY | abi.STEP_MAP;
/** A few are normal: a request may be taken before its event is seen. */
const TOLERATED_IDLE_EVENTS = 16;
const MAX_MASK_MS = 64;

export class Ring implements IoOwner, GateRing {
  readonly port: number;
  readonly domid: number;
  /** For the reactor: it is on its list of rings that were at work lately. */
  recent = false;
  readonly #options: RingOptions;
  readonly #place: RingPlace;
  readonly #core: BlkifCore;
  readonly #queue: IoQueue;
  readonly #grants: RingGrants;
  readonly #window: DataWindow;
  /** Completions that the next pass takes in. */
  #completions = 0;
  #ready = false;
  #halted = false;
  #detached = false;
  /** The throttle lets it take nothing. */
  #blocked = false;
  /** The core threw. It is not called any more; I/Os that are under way still have the memory. */
  #broken = false;
  #ios = 0;
  /** A pass has begun, and ends when the guest has credit again; what the last step of it returned. */
  #inPass = false;
  /** Something came in the midst of the pass that another one has to look at: completions, events, the throttle's leave. */
  #another = false;
  #flags = 0;
  /** Entries of the table of copies that are done, and all copies of the pass, which are paid for. */
  #copied = 0;
  #charged = 0;
  /** Bytes taken before the pass. */
  #bytesTaken = 0;
  /** When the pass began. */
  #began = 0;
  #rung = false;
  /** Events in a row since a request was last taken. */
  #idleEvents = 0;
  #reqCons = 0;
  readonly #latency: LatencyTable;
  /** How fast it may take requests; null: as fast as it can. */
  #throttle: Throttle | null = null;
  /** When it may take requests again, by performance.now(): Infinity while nothing is in its way, or it is paused. */
  resumeAt = Number.POSITIVE_INFINITY;
  #observer: RingObserver | null = null;
  /** An observer that begins when nothing is in flight; until then nothing is taken. */
  #awaited: RingObserver | null = null;
  #finalCounters: Counters | null = null;
  #whenIdle: (() => void) | null = null;

  /** Maps the ring and starts on it. Throws an Error with a clear message if the guest's pages or indices are wrong. */
  constructor(options: RingOptions, place: RingPlace) {
    this.#options = options;
    this.#place = place;
    this.port = place.port;
    this.domid = options.config.domid;
    const { config, ringRefs, memory } = options;
    this.#throttle = options.throttle ?? null;
    this.#grants = new RingGrants(place.grants, memory, this.domid, ringRefs);
    try {
      this.#core = new BlkifCore(coreModule(), memory);
      this.#latency = new LatencyTable(this.#core);
      begin(this.#core, { ...config, hashKey: randomInt(2 ** 32) }, options.start);
      // What others took is not this process's to charge.
      this.#reqCons = this.#core.reqCons;
      this.#queue = options.makeQueue(this.#core, this);
      this.#window = new DataWindow(this.#core, undefined, this.#queue.discardData);
      // Whoever went before may have been killed between publishing responses and telling of them.
      if (options.start !== "attach") place.events.notify(place.port);
    } catch (error) {
      this.#grants.unmapRing();
      throw error;
    }
  }

  /** Requests taken from the ring and not yet answered. */
  get inflight(): number {
    return this.#detached || this.#broken ? this.#ios : this.#core.inflight;
  }

  /** Whether it has let go of the guest. */
  get detached(): boolean {
    return this.#detached;
  }

  /** Whether it waits for {@link run}. */
  get ready(): boolean {
    return this.#ready;
  }

  /** Whether the frontend has put requests on the ring since the last pass. */
  get hasRequests(): boolean {
    if (this.#halted || this.#detached || this.#broken || this.#blocked) return false;
    return this.#core.reqProd !== this.#reqCons;
  }

  /** Asks the frontend for no events. The next pass, which must come soon, asks for them again. */
  askForNoEvents(): void {
    // An index that was passed already is never passed again: see RING_PUSH_REQUESTS_AND_CHECK_NOTIFY.
    if (!this.#detached) this.#core.setReqEvent(this.#reqCons);
  }

  /** Whether there are persistent grants that {@link trim} should look at. */
  get keepsPages(): boolean {
    return !this.#detached && !this.#broken && this.#core.persistentPages !== 0;
  }

  /** Since the ring was attached; they stay after it was detached. */
  counters(): Counters {
    return this.#finalCounters ?? this.#core.counters();
  }

  /** Sets or changes how fast it may take requests; null takes the limit away. */
  setThrottle(throttle: Throttle | null): void {
    if (this.#whenIdle || this.#detached) return;
    this.#endPassNow();
    this.#throttle = throttle;
    this.#takeAsAllowed();
  }

  /** Takes what it may from the next pass on, which looks whether the throttle agrees. */
  #takeAsAllowed(): void {
    this.#blocked = this.#awaited !== null;
    this.resumeAt = Number.POSITIVE_INFINITY;
    this.#core.setBatch(this.#blocked ? 0 : DEFAULT_BATCH);
    this.wake();
  }

  /** Lets somebody look at its passes; null ends that. Throws where somebody does. */
  observe(observer: RingObserver | null): void {
    if (this.#whenIdle || this.#detached) throw new Error("the ring is being closed");
    this.#endPassNow();
    if (observer && this.#broken) throw new Error("the ring has failed");
    if (observer && (this.#observer ?? this.#awaited)) throw new Error("it is already traced or recorded");
    this.#observer = observer?.wantsRest ? null : observer;
    const waited = this.#awaited;
    this.#awaited = observer?.wantsRest ? observer : null;
    this.#observer?.begin(this.#core);
    if (waited !== this.#awaited) this.#takeAsAllowed();
  }

  /** What was in flight has ended: drops every page, and lets the observer begin. */
  #beginToObserve(): void {
    const core = this.#core;
    if (core.inflight !== 0 || this.#ios !== 0 || this.#completions !== 0) return;
    // The first marks all pages as used now, the second comes a minute later.
    for (const now of [0, 600]) this.#grants.drop(core.trim(now), this.#queue);
    core.tidy();
    this.#observer = this.#awaited;
    this.#awaited = null;
    this.#observer?.begin(core);
    this.#takeAsAllowed();
  }

  #endObservation(why: string): void {
    (this.#observer ?? this.#awaited)?.end(why);
    this.#observer = this.#awaited = null;
  }

  resize(sectors: number): void {
    if (this.#detached) return;
    this.#endPassNow();
    this.#core.resize(sectors);
    this.#observer?.resized(sectors);
  }

  /** The event channel rang: it wants a pass. */
  rang(): void {
    this.#idleEvents++;
    this.#rung = true;
    this.wake();
  }

  /** Whether a pass for the last event has ended, and {@link answerEvent} is to be called. */
  get wasRung(): boolean {
    return this.#rung && !this.#inPass;
  }

  /**
   * Returns for how many milliseconds the channel had better stay masked: 0, unless the guest rings again and again
   * without putting a request on the ring (XSA-332).
   */
  answerEvent(): number {
    this.#rung = false;
    if (this.#idleEvents > 0 && !this.#detached && !this.#broken) this.#notify(this.#core.idle());
    const excess = this.#idleEvents - TOLERATED_IDLE_EVENTS;
    return excess <= 0 ? 0 : Math.min(2 ** excess, MAX_MASK_MS);
  }

  /**
   * Makes a pass, or goes on with one, for as much as the guest has credit, and deducts it. Returns at once, and never
   * throws.
   */
  run(credit: Credit): void {
    this.#ready = false;
    this.#runWith(credit);
  }

  #runWith(credit: Credit): void {
    if (this.#detached) return;
    try {
      if (!this.#broken) this.#pass(credit);
    } catch (error) {
      // Other rings go on.
      this.#broken = true;
      this.#inPass = false;
      this.#place.windows.forget(this.#window);
      this.#endObservation("the ring failed");
      this.#halt(`the ring failed: ${(error as Error).message}`);
    }
    if (this.#whenIdle && this.#ios === 0 && (this.#broken || this.#core.inflight === 0)) this.#whenIdle();
  }

  #pass(credit: Credit): void {
    if (!this.#inPass) this.#beginPass(credit);
    while (this.#flags & GRANT_OPERATIONS) {
      this.#copy(credit);
      if (this.#copied < this.#copies) {
        // Others have their turn before the rest of them.
        this.#enqueue();
        return;
      }
      this.#observer?.granted(this.#flags);
      this.#step(0);
    }
    this.#endPass(credit);
  }

  /**
   * What is left of a pass that has begun, for those who may only come between passes. The ring keeps its place among those
   * that are ready: it may have an event to answer, and it is asked for that after a {@link run}.
   */
  #endPassNow(): void {
    if (this.#inPass) this.#runWith(UNLIMITED);
  }

  #beginPass(credit: Credit): void {
    const core = this.#core;
    const completions = this.#completions;
    this.#completions = 0;
    const now = performance.now();
    this.#began = now;
    for (let i = 0; i < completions; i++) this.#latency.end(core.completionSlot(i), now);
    if (this.#throttle) this.#admit(this.#throttle, now);
    core.setBudget(
      Math.min(credit.segments, abi.MAX_PASS_SEGMENTS),
      Math.min(credit.bytes, abi.MAX_PASS_BYTES),
    );
    this.#inPass = true;
    this.#another = false;
    this.#charged = 0;
    this.#observer?.passBegins(completions);
    this.#step(completions);
  }

  #step(completions: number): void {
    this.#flags = this.#core.step(completions);
    this.#copied = 0;
    this.#observer?.stepped();
    if (!(this.#flags & GRANT_OPERATIONS)) return;
    this.#notify(this.#flags);
    if (this.#flags & abi.STEP_MAP) this.#grants.map(this.#core, this.#queue);
    if (this.#flags & abi.STEP_COPY) this.#place.windows.note(this.#window, this.#core);
  }

  get #copies(): number {
    return this.#flags & abi.STEP_COPY ? this.#core.copies : 0;
  }

  /** Carries out what there is credit for. */
  #copy(credit: Credit): void {
    const most = Math.min(credit.segments, Math.ceil(credit.bytes / PAGE_SIZE));
    const count = Math.min(this.#copies - this.#copied, most);
    if (count <= 0) return;
    this.#grants.copy(this.#copied, count);
    this.#copied += count;
    this.#charged += count;
    credit.segments -= count;
    credit.bytes -= count * PAGE_SIZE;
  }

  #endPass(credit: Credit): void {
    const core = this.#core;
    const flags = this.#flags;
    this.#inPass = false;
    // What was copied is paid for; a write's data are copied, and go to the disk besides.
    credit.segments -= Math.max(core.segmentsUsed - this.#charged, 0);
    if (this.#throttle) {
      this.#throttle.charge((core.reqCons - this.#reqCons) | 0, core.bytesTaken - this.#bytesTaken);
    }
    if (core.reqCons !== this.#reqCons) this.#idleEvents = 0;
    this.#reqCons = core.reqCons;
    if (flags & abi.STEP_IO) credit.bytes -= this.#startIos();
    this.#notify(flags);
    this.#observer?.passEnds(flags);
    if (flags & abi.STEP_MORE || this.#another) this.wake();
    if (this.#awaited) this.#beginToObserve();
    if (flags & abi.STEP_HALTED) this.#halt("the frontend claims more requests than its ring holds");
  }

  /** Returns how many bytes they read and write. */
  #startIos(): number {
    const core = this.#core;
    const { ios } = core;
    let bytes = 0;
    for (let i = 0; i < ios; i++) {
      this.#ios++;
      const slot = core.ioSlot(i);
      this.#latency.start(slot, this.#began);
      bytes += core.ioBytes(slot);
      this.#place.gate.start(this, slot, this.#weight(slot));
    }
    return bytes;
  }

  /** Bytes of an I/O, or of the pages that they are scattered over. */
  #weight(slot: number): number {
    return Math.max(this.#core.ioBytes(slot), this.#core.ioEntries(slot) * PAGE_SIZE);
  }

  startIo(slot: number): void {
    this.#queue.start(slot);
  }

  /** Lets the next step take what the throttle allows. */
  #admit(throttle: Throttle, now: number): void {
    const batch = this.#awaited ? 0 : throttle.admit();
    this.#core.setBatch(batch);
    this.#blocked = batch === 0;
    this.resumeAt = batch === 0 ? now + Math.max(throttle.wait(), 1) : Number.POSITIVE_INFINITY;
    if (batch === 0) this.#place.onThrottled(this);
    this.#bytesTaken = this.#core.bytesTaken;
  }

  #halt(why: string): void {
    if (this.#halted) return;
    this.#halted = true;
    this.#options.onHalt(why);
  }

  /**
   * Takes no more requests, lets those in flight end, and unmaps everything: then the memory is free for other use,
   * and not before. The caller unbinds the event channel. Responses are still written for what was in flight. To be
   * called once.
   */
  async detach(): Promise<void> {
    this.#throttle = null;
    if (this.#awaited) this.#endObservation("the ring was closed");
    this.#core.setBatch(0);
    this.wake();
    await new Promise<void>((resolve) => {
      this.#whenIdle = resolve;
    });
    this.#endObservation("the ring was closed");
    this.#finalCounters = this.#core.counters();
    this.#detached = true;
    this.#place.windows.forget(this.#window);
    this.#queue.close();
    this.#grants.unmapAll();
  }

  ended(slot: number, result: Result, error?: Error): void {
    this.#ios--;
    this.#place.gate.ended(this.#weight(slot));
    if (result !== Result.Success) {
      // What was read up to the error may be in the window, and is never copied from it.
      if (!this.#broken) this.#place.windows.note(this.#window, this.#core);
      this.#options.onError(IO_OPERATIONS[this.#core.ioOperation(slot)] ?? "I/O", error, result);
    }
    if (!this.#broken) this.#core.setCompletion(this.#completions++, slot, result);
    this.wake();
  }

  /** It wants a pass: later, when the events that are there now have all been seen; completions come in bunches. */
  wake(): void {
    if (this.#inPass) this.#another = true;
    this.#enqueue();
  }

  #enqueue(): void {
    if (this.#ready || this.#detached) return;
    this.#ready = true;
    this.#place.onReady(this);
  }

  #notify(flags: number): void {
    if (flags & abi.STEP_NOTIFY) this.#place.events.notify(this.port);
  }

  /** Drops persistent grants that are not worth keeping; `now` in tenths of a second. */
  trim(now: number): void {
    if (!this.keepsPages) return;
    this.#endPassNow();
    // That pass may have failed.
    if (this.#broken) return;
    this.#grants.drop(this.#core.trim(now), this.#queue);
    this.#observer?.trimmed(now);
  }
}
