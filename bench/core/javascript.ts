/**
 * The core's work in plain JavaScript, as one would write it by hand: a DataView on the shared memory, objects for
 * requests, a u64 as two u32. It is what `npm run bench:core` measures the core against, beside peer.c; like that one it
 * gives the same bytes for the same ring as assembly/, and leaves out trimming. Its parts are
 * in files of their own, as the core's are.
 */
import * as abi from "../../assembly/abi.js";
import { Decoder } from "./javascript-decode.js";
import { Grants } from "./javascript-grants.js";
import { Ios } from "./javascript-ios.js";
import { Order } from "./javascript-order.js";
import { Flag, Request, State } from "./javascript-request.js";

const STRIDE = 112;

export interface PlainConfig {
  readonly entries: number;
  readonly features: number;
  readonly domid: number;
  readonly base: number;
  readonly sectors: number;
  readonly sectorUnits: number;
  readonly maxIndirect: number;
  readonly maxIo: number;
  readonly batch: number;
  readonly maxPersistent: number;
}

export class JavascriptCore {
  readonly counters = new Array<number>(abi.COUNTER_COUNT).fill(0);
  readonly #view: DataView;
  readonly #config: PlainConfig;
  readonly #requests: Request[];
  readonly #order: Order;
  readonly #grants: Grants;
  readonly #decoder: Decoder;
  readonly #ios: Ios;
  readonly #journal = new Uint8Array(abi.MAX_SLOTS * STRIDE);
  readonly #journalView = new DataView(this.#journal.buffer);
  readonly #freeSlots: number[] = [];
  /** Answered, but not yet published. */
  readonly #answered: number[] = [];
  readonly #freeLarge: number[] = [];
  readonly #ready: number[] = [];
  #pass: number[] = [];
  #reqCons = 0;
  #rspProd = 0;
  #rspPublished = 0;
  #inRound = false;
  #halted = false;
  #stalled = false;

  constructor(buffer: ArrayBuffer, config: PlainConfig) {
    this.#view = new DataView(buffer);
    this.#config = config;
    this.#requests = Array.from({ length: config.entries }, (_, slot) => new Request(slot));
    for (let i = config.entries - 1; i >= 0; i--) this.#freeSlots.push(i);
    for (let i = 0; i < abi.MAX_LARGE; i++) this.#freeLarge.push(i);
    this.#order = new Order(this.#requests, this.#ready, this.counters);
    this.#grants = new Grants(this.#view, config, this.#requests, this.counters);
    this.#decoder = new Decoder(this.#view, this.#journal, config, this.counters);
    this.#ios = new Ios(this.#view, config, this.#requests, this.#grants, this.counters);
  }

  step(completions: number): number {
    const grants = this.#grants;
    if (this.#inRound) {
      grants.settleMaps();
      grants.settleCopies();
    } else {
      this.#complete(completions);
      for (const slot of this.#ready) {
        const request = this.#requests[slot];
        if (request.state === State.Ready) request.state = State.Admitted;
        this.#pass.push(slot);
      }
      this.#ready.length = 0;
      this.#takeRequests();
    }
    this.#advanceAll();
    this.#inRound = grants.copies > 0 || grants.maps > 0;
    this.#view.setUint32(abi.OUT_COPIES, grants.copies, true);
    this.#view.setUint32(abi.OUT_MAPS, grants.maps, true);
    const notify = this.#publish() ? abi.STEP_NOTIFY : 0;
    this.#view.setUint32(abi.OUT_INFLIGHT, this.#config.entries - this.#freeSlots.length, true);
    if (!this.#inRound) return this.#endOfPass() | notify;
    return (grants.copies > 0 ? abi.STEP_COPY : 0) | (grants.maps > 0 ? abi.STEP_MAP : 0) | notify;
  }

  // ---- The ring ----

  #unconsumed(): number {
    return (this.#view.getUint32(abi.SRING_REQ_PROD, true) - this.#reqCons) >>> 0;
  }

  #takeRequests(): void {
    const { batch, entries } = this.#config;
    this.#stalled = batch === 0;
    if (this.#halted || this.#stalled) return;
    const claimed = this.#unconsumed();
    this.#halted = claimed > entries - ((this.#reqCons - this.#rspPublished) >>> 0);
    if (this.#halted) return;
    for (let left = Math.min(claimed, batch); left > 0; left--) {
      const slot = this.#freeSlots.pop() as number;
      const from = abi.SRING_ENTRIES + (this.#reqCons & (entries - 1)) * STRIDE;
      const copy = slot * STRIDE;
      for (let i = 0; i < STRIDE; i += 4)
        this.#journalView.setUint32(copy + i, this.#view.getUint32(from + i, true), true);
      const large =
        this.#journal[copy] === abi.BLKIF_OP_INDIRECT &&
        this.#journalView.getUint16(copy + 2, true) > abi.MAX_DIRECT_SEGMENTS;
      if (large && this.#freeLarge.length === 0) {
        this.#freeSlots.push(slot);
        this.#stalled = true;
        return;
      }
      const request = this.#requests[slot];
      this.#reqCons = (this.#reqCons + 1) >>> 0;
      request.state = State.Taken;
      if (!this.#decoder.decode(request, copy)) {
        this.#answer(request);
        continue;
      }
      if (large) {
        request.large = this.#freeLarge.pop() as number;
        request.flags |= Flag.Large;
      }
      this.#pass.push(slot);
    }
  }

  #respond(request: Request): void {
    const to = abi.SRING_ENTRIES + (this.#rspProd & (this.#config.entries - 1)) * STRIDE;
    this.#view.setUint32(to, request.idLow, true);
    this.#view.setUint32(to + 4, request.idHigh, true);
    this.#view.setUint8(to + 8, request.operation);
    this.#view.setInt16(to + 10, request.status, true);
    this.#rspProd = (this.#rspProd + 1) >>> 0;
  }

  #publish(): boolean {
    this.#view.setUint32(abi.OUT_REQ_CONS, this.#reqCons, true);
    this.#view.setUint32(abi.OUT_RSP_PROD, this.#rspProd, true);
    const fresh = (this.#rspProd - this.#rspPublished) >>> 0;
    if (fresh === 0) return false;
    this.counters[abi.COUNT_RESPONSES] += fresh;
    this.counters[abi.COUNT_PUSHES]++;
    this.#view.setUint32(abi.SRING_RSP_PROD, this.#rspProd, true);
    this.#rspPublished = this.#rspProd;
    for (const slot of this.#answered) this.#freeSlots.push(slot);
    this.#answered.length = 0;
    if ((this.#rspProd - this.#view.getUint32(abi.SRING_RSP_EVENT, true)) >>> 0 >= fresh) return false;
    this.counters[abi.COUNT_NOTIFICATIONS]++;
    return true;
  }

  #finalCheck(): boolean {
    if (this.#unconsumed() !== 0) return true;
    this.#view.setUint32(abi.SRING_REQ_EVENT, this.#reqCons + 1, true);
    return this.#unconsumed() !== 0;
  }

  // ---- The pass ----

  #advanceAll(): void {
    let fetching = false;
    for (let i = 0; i < this.#pass.length; i++) {
      const request = this.#requests[this.#pass[i]];
      this.#advance(request, fetching);
      if (request.state === State.Done) this.#answer(request);
      else if (request.state <= State.Fetching && request.state !== State.Free) fetching = true;
    }
  }

  #advance(request: Request, behindFetch: boolean): void {
    const grants = this.#grants;
    switch (request.state) {
      case State.Taken:
        if (!(request.flags & Flag.Indirect)) {
          if (!behindFetch) this.#enter(request);
        } else if (grants.roomFor(1)) {
          grants.fetch(request, this.#journalView.getUint32(request.slot * STRIDE + 28, true));
        }
        return;
      case State.Fetching:
        if (!behindFetch && !this.#failed(request)) this.#enter(request);
        return;
      case State.Admitted:
        this.#place(request);
        return;
      case State.Mapping:
        this.#settleMapping(request);
        return;
      case State.Copying:
        if (!this.#failed(request)) request.state = State.Loaded;
        return;
      case State.ReadDone:
        if (!grants.roomFor(request.segments)) return;
        grants.copySegments(request, true);
        request.state = State.CopyingOut;
        return;
      case State.CopyingOut:
        if (!this.#failed(request)) this.#finish(request, abi.BLKIF_RSP_OKAY);
        return;
    }
  }

  #enter(request: Request): void {
    if (!this.#decoder.validate(request)) return;
    const discard = request.operation === abi.BLKIF_OP_DISCARD;
    this.counters[discard ? abi.COUNT_DISCARD : abi.COUNT_READ + request.operation]++;
    if (request.flags & Flag.Indirect) this.counters[abi.COUNT_INDIRECT]++;
    if (discard && request.sectors === 0) {
      this.#finish(request, abi.BLKIF_RSP_OKAY);
      return;
    }
    this.#order.admit(request);
    if (request.state === State.Admitted) this.#place(request);
  }

  #place(request: Request): void {
    if (request.segments === 0) {
      request.state = State.Loaded;
      return;
    }
    const persistent = this.#config.features & abi.FEATURE_PERSISTENT && !(request.flags & Flag.Unmappable);
    const hits = persistent ? this.#grants.useSegments(request) : -1;
    if (hits < 0) {
      this.#grants.copyIn(request);
      return;
    }
    request.flags |= Flag.Mapped;
    request.state = State.Mapping;
    if (hits === request.segments) this.#mapped(request);
  }

  #mapped(request: Request): void {
    this.#releaseLarge(request);
    request.state = State.Loaded;
  }

  #settleMapping(request: Request): void {
    if (this.#grants.allMapped(request)) {
      this.#mapped(request);
      return;
    }
    this.#grants.leaveSegments(request);
    request.flags |= Flag.Unmappable;
    request.state = State.Admitted;
    this.#grants.copyIn(request);
  }

  #failed(request: Request): boolean {
    if (!(request.flags & Flag.Fault)) return false;
    this.counters[abi.COUNT_BAD_GRANT]++;
    this.#finish(request, abi.BLKIF_RSP_ERROR);
    return true;
  }

  #endOfPass(): number {
    const ios = this.#ios;
    ios.begin();
    for (const slot of this.#pass) {
      const request = this.#requests[slot];
      if (request.state === State.Loaded) ios.plan(request);
    }
    this.#pass.length = 0;
    this.#view.setUint32(abi.OUT_IOS, ios.count, true);
    const flags = ios.count > 0 ? abi.STEP_IO : 0;
    if (this.#halted) return flags | abi.STEP_HALTED;
    return this.#ready.length > 0 || (!this.#stalled && this.#finalCheck()) ? flags | abi.STEP_MORE : flags;
  }

  // ---- Ends of requests ----

  #complete(n: number): void {
    for (let i = 0; i < n; i++) {
      const completion = this.#view.getUint32(abi.COMPLETIONS + i * 4, true);
      const result = completion >>> 16;
      let request = this.#requests[completion & 0xffff];
      if (request?.state !== State.Busy) continue;
      const split = result !== abi.IO_RESULT_SUCCESS && request.ioRequests > 1;
      if (split) this.counters[abi.COUNT_SPLITS]++;
      for (let left = request.ioRequests; left > 0; left--) {
        const next = this.#requests[request.next];
        if (split) {
          request.flags |= Flag.Alone;
          request.state = State.Loaded;
          this.#ready.push(request.slot);
        } else {
          this.#completeOne(request, result);
        }
        request = next;
      }
    }
  }

  #completeOne(request: Request, result: number): void {
    const copyOut = request.operation === abi.BLKIF_OP_READ && !(request.flags & Flag.Mapped);
    if (result === abi.IO_RESULT_SUCCESS && copyOut) {
      request.state = State.ReadDone;
      this.#ready.push(request.slot);
      this.#order.retire(request);
      return;
    }
    this.#finish(request, this.#statusOf(request, result));
    this.#answer(request);
  }

  #statusOf(request: Request, result: number): number {
    if (result === abi.IO_RESULT_SUCCESS) return abi.BLKIF_RSP_OKAY;
    this.counters[abi.COUNT_IO_ERRORS]++;
    const optional = request.operation > abi.BLKIF_OP_WRITE;
    return optional && result === abi.IO_RESULT_UNSUPPORTED ? abi.BLKIF_RSP_EOPNOTSUPP : abi.BLKIF_RSP_ERROR;
  }

  #finish(request: Request, status: number): void {
    if (request.flags & Flag.Active) this.#order.retire(request);
    request.status = status;
    request.state = State.Done;
  }

  #answer(request: Request): void {
    this.#grants.leaveSegments(request);
    this.#releaseLarge(request);
    this.#respond(request);
    request.state = State.Free;
    this.#answered.push(request.slot);
  }

  #releaseLarge(request: Request): void {
    if (!(request.flags & Flag.Large)) return;
    request.flags &= ~Flag.Large;
    this.#freeLarge.push(request.large);
  }
}
