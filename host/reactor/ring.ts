/**
 * One ring at work: whenever its event channel rings or an I/O ends, a pass of the core, the grant operations and
 * I/Os that it asks for, and the notification that it allows.
 */
import * as abi from "../../assembly/abi.js";
import { BlkifCore, type CoreIo, type Counters, type RingConfig } from "../core/blkif.js";
import { coreModule } from "../core/load.js";
import { type LinearMemory, PAGE_SIZE } from "../core/memory.js";
import { type EventChannels, Gntst, type GrantTable } from "../platform/ports.js";
import { type BlockDevice, type IoVector, Result } from "../storage/device.js";
import { returnMemory, takeMemory } from "./memory-pool.js";

export interface RingOptions {
  readonly config: RingConfig;
  /** Grant references of the ring's pages, in order. */
  readonly ringRefs: Uint32Array;
  readonly grants: GrantTable;
  readonly events: EventChannels;
  /** Our end of the event channel. */
  readonly port: number;
  readonly device: BlockDevice;
  /** The ring takes no more requests: the guest has spoilt it, or the core failed over it. Called at most once. */
  readonly onHalt: (why: string) => void;
  /** An I/O failed. */
  readonly onError: (operation: string, error: Error | undefined) => void;
}

const OPERATIONS = ["read", "write", "flush", "discard"];
/** A few are normal: a request may be taken before its event is seen. */
const TOLERATED_IDLE_EVENTS = 16;
const MAX_MASK_MS = 64;
/** How often idle persistent grants are looked at: Linux's LRU_INTERVAL. */
const TRIM_INTERVAL_MS = 100;

export class Ring {
  readonly #options: RingOptions;
  readonly #memory: LinearMemory;
  readonly #core: BlkifCore;
  readonly #trimTimer: NodeJS.Timeout | null;
  /** Completions that the next pass takes in. */
  #completions = 0;
  #scheduled = false;
  #halted = false;
  #detached = false;
  /** The core threw. It is not called any more; I/Os that are under way still have the memory. */
  #broken = false;
  #ios = 0;
  /** Events in a row since a request was last taken. */
  #idleEvents = 0;
  #reqCons = 0;
  #finalCounters: Counters | null = null;
  #whenIdle: (() => void) | null = null;

  /** Maps the ring and starts on it. Throws an Error with a clear message if the guest's pages or indices are wrong. */
  constructor(options: RingOptions) {
    this.#options = options;
    const { config, ringRefs, grants } = options;
    this.#memory = takeMemory();
    try {
      this.#mapRing(ringRefs);
      this.#core = new BlkifCore(coreModule(), this.#memory);
      const code = this.#core.attach(config);
      if (code === abi.ATTACH_BAD_RING) throw new Error("req_prod is more than a ring ahead of rsp_prod");
      if (code !== abi.ATTACH_OK) throw new Error(`the core refused its configuration (${code})`);
    } catch (error) {
      grants.unmap(this.#memory, abi.SRING, ringRefs.length);
      returnMemory(this.#memory);
      throw error;
    }
    const persistent = (config.features & abi.FEATURE_PERSISTENT) !== 0;
    this.#trimTimer = persistent ? setInterval(() => this.#trim(), TRIM_INTERVAL_MS) : null;
    this.#trimTimer?.unref();
  }

  #mapRing(ringRefs: Uint32Array): void {
    const { config, grants } = this.#options;
    const status = new Int16Array(ringRefs.length);
    grants.map(this.#memory, abi.SRING, config.domid, ringRefs, true, status);
    const bad = status.findIndex((s) => s !== Gntst.okay);
    if (bad < 0) return;
    const [name] = Object.entries(Gntst).find(([, code]) => code === status[bad]) ?? ["unknown"];
    throw new Error(
      `can't map grant ref ${ringRefs[bad]} of domain ${config.domid}: ${name} (${status[bad]})`,
    );
  }

  /** Requests taken from the ring and not yet answered. */
  get inflight(): number {
    return this.#detached || this.#broken ? this.#ios : this.#core.inflight;
  }

  /** Since the ring was attached; they stay after it was detached. */
  counters(): Counters {
    return this.#finalCounters ?? this.#core.counters();
  }

  resize(sectors: number): void {
    this.#core.resize(sectors);
  }

  /**
   * The event channel rang: makes a pass. Returns for how many milliseconds the channel had better stay masked: 0,
   * unless the guest rings again and again without putting a request on the ring (XSA-332).
   */
  event(): number {
    this.#idleEvents++;
    this.run();
    const excess = this.#idleEvents - TOLERATED_IDLE_EVENTS;
    return excess <= 0 ? 0 : Math.min(2 ** excess, MAX_MASK_MS);
  }

  /** Something happened: makes a pass. Returns at once, and never throws. */
  run(): void {
    if (this.#detached) return;
    try {
      if (!this.#broken) this.#pass();
    } catch (error) {
      // Other rings go on.
      this.#broken = true;
      this.#halt(`the ring failed: ${(error as Error).message}`);
    }
    if (this.#whenIdle && this.#ios === 0 && (this.#broken || this.#core.inflight === 0)) this.#whenIdle();
  }

  #pass(): void {
    const completions = this.#completions;
    this.#completions = 0;
    let flags = this.#core.step(completions);
    while (flags & (abi.STEP_COPY | abi.STEP_MAP)) {
      this.#notify(flags);
      if (flags & abi.STEP_MAP) this.#map();
      if (flags & abi.STEP_COPY) this.#options.grants.copy(this.#memory, abi.COPIES, this.#core.copies);
      flags = this.#core.step(0);
    }
    if (this.#core.reqCons !== this.#reqCons) this.#idleEvents = 0;
    this.#reqCons = this.#core.reqCons;
    if (flags & abi.STEP_IO) for (let i = 0; i < this.#core.ios; i++) this.#start(this.#core.io(i));
    this.#notify(flags);
    if (flags & abi.STEP_MORE) this.#schedule();
    if (flags & abi.STEP_HALTED) this.#halt("the frontend claims more requests than its ring holds");
  }

  #halt(why: string): void {
    if (this.#halted) return;
    this.#halted = true;
    this.#options.onHalt(why);
  }

  /**
   * Takes no more requests, lets those in flight end, unmaps everything, and gives the memory back. The caller
   * unbinds the event channel. Responses are still written for what was in flight. To be called once.
   */
  async detach(): Promise<void> {
    this.#core.stopTaking();
    this.#schedule();
    await new Promise<void>((resolve) => {
      this.#whenIdle = resolve;
    });
    this.#finalCounters = this.#core.counters();
    this.#detached = true;
    if (this.#trimTimer) clearInterval(this.#trimTimer);
    const { grants, ringRefs } = this.#options;
    grants.unmap(this.#memory, abi.PERSISTENT, abi.MAX_PERSISTENT);
    grants.unmap(this.#memory, abi.SRING, ringRefs.length);
    returnMemory(this.#memory);
  }

  /** A pass later, when the events that are there now have all been seen: completions come in bunches. */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.run();
    });
  }

  #notify(flags: number): void {
    if (flags & abi.STEP_NOTIFY) this.#options.events.notify(this.#options.port);
  }

  #complete(io: CoreIo, result: Result, error: Error | undefined): void {
    this.#ios--;
    if (result !== Result.Success) this.#options.onError(OPERATIONS[io.operation], error);
    if (!this.#broken) this.#core.setCompletion(this.#completions++, io.slot, result);
    this.#schedule();
  }

  #start(io: CoreIo): void {
    const { device } = this.#options;
    const done = (result: Result, error?: Error): void => this.#complete(io, result, error);
    this.#ios++;
    if (io.operation === abi.IO_FLUSH) device.flush(done);
    else if (io.operation === abi.IO_DISCARD) {
      device.discard(io.position, io.length, (io.flags & abi.IO_SECURE) !== 0, done);
    } else {
      const vector: IoVector = { memory: this.#memory, table: io.table, count: io.iovecs, bytes: io.length };
      if (io.operation === abi.IO_READ) device.read(io.position, vector, done);
      else this.#write(io, vector, done);
    }
  }

  /** A write, with the flushes around it that a flush or barrier with data asks for. */
  #write(io: CoreIo, vector: IoVector, done: (result: Result, error?: Error) => void): void {
    const { device } = this.#options;
    const after =
      io.flags & abi.IO_FUA
        ? (result: Result, error?: Error) =>
            result === Result.Success ? device.flush(done) : done(result, error)
        : done;
    if (!(io.flags & abi.IO_PREFLUSH)) {
      device.write(io.position, vector, after);
      return;
    }
    device.flush((result, error) => {
      if (result === Result.Success) device.write(io.position, vector, after);
      else done(result, error);
    });
  }

  /** Maps what the core asks for, pages that are neighbours in one call. */
  #map(): void {
    const { grants, config } = this.#options;
    const count = this.#core.maps;
    for (let start = 0; start < count; ) {
      const { page } = this.#core.map(start);
      let end = start + 1;
      while (end < count && this.#core.map(end).page === page + (end - start)) end++;
      const refs = new Uint32Array(end - start);
      for (let i = 0; i < refs.length; i++) refs[i] = this.#core.map(start + i).gref;
      const status = new Int16Array(refs.length);
      grants.map(this.#memory, abi.PERSISTENT + page * PAGE_SIZE, config.domid, refs, true, status);
      for (let i = 0; i < refs.length; i++) this.#core.setMapStatus(start + i, status[i]);
      start = end;
    }
  }

  #trim(): void {
    if (this.#broken) return;
    const pages = this.#core.trim(Math.floor(performance.now() / TRIM_INTERVAL_MS));
    for (let start = 0; start < pages.length; ) {
      let end = start + 1;
      while (end < pages.length && pages[end] === pages[start] + (end - start)) end++;
      this.#options.grants.unmap(this.#memory, abi.PERSISTENT + pages[start] * PAGE_SIZE, end - start);
      start = end;
    }
  }
}
