/** Which request must wait for which, in the plain JavaScript peer: assembly/hazards.ts by other means. */
import * as abi from "../../assembly/abi.js";
import { Flag, type Request, State } from "./javascript-request.js";

const changes = (request: Request): boolean =>
  request.operation !== abi.BLKIF_OP_READ && request.sectors !== 0;
const isBarrier = (request: Request): boolean => request.operation === abi.BLKIF_OP_WRITE_BARRIER;
const isFlush = (request: Request): boolean => request.operation === abi.BLKIF_OP_FLUSH_DISKCACHE;
const firstBucket = (request: Request): number => Math.floor(request.sector / 256);
const lastBucket = (request: Request): number => Math.floor((request.sector + request.sectors - 1) / 256);
const isWide = (request: Request): boolean =>
  Math.floor((request.sector + request.sectors) / 256) - firstBucket(request) >= 16;

function mustFollow(later: Request, earlier: Request): boolean {
  if (isBarrier(later) || isBarrier(earlier)) return true;
  if (isFlush(later) && changes(earlier)) return true;
  return (
    (changes(later) || changes(earlier)) &&
    later.sectors !== 0 &&
    earlier.sectors !== 0 &&
    later.sector < earlier.sector + earlier.sectors &&
    earlier.sector < later.sector + later.sectors
  );
}

export class Order {
  readonly #requests: Request[];
  readonly #ready: number[];
  readonly #counters: number[];
  readonly #any = new Uint16Array(abi.HAZARD_BUCKETS);
  readonly #writers = new Uint16Array(abi.HAZARD_BUCKETS);
  /** A bit for each slot of an active request. */
  readonly #slots = new Int32Array(abi.MAX_SLOTS / 32);
  #active = 0;
  #admitted = 0;
  #low = 0;
  #high = 0;
  #changingLow = 0;
  #changingHigh = 0;
  #changing = 0;
  #barriers = 0;
  #held = 0;
  #wide = 0;

  constructor(requests: Request[], ready: number[], counters: number[]) {
    this.#requests = requests;
    this.#ready = ready;
    this.#counters = counters;
  }

  #mayConflict(request: Request): boolean {
    if (this.#active === 0) return false;
    if (this.#barriers > 0 || isBarrier(request) || (isFlush(request) && this.#changing > 0)) return true;
    const writer = changes(request);
    if (request.sectors === 0 || (!writer && this.#changing === 0)) return false;
    // Outside of all that is active, as the next request of a sequential stream is.
    const end = request.sector + request.sectors;
    if (request.sector >= (writer ? this.#high : this.#changingHigh)) return false;
    if (end <= (writer ? this.#low : this.#changingLow)) return false;
    if (this.#wide > 0 || isWide(request)) return true;
    const table = writer ? this.#any : this.#writers;
    const last = lastBucket(request);
    for (let bucket = firstBucket(request); bucket <= last; bucket++)
      if (table[bucket % abi.HAZARD_BUCKETS] !== 0) return true;
    return false;
  }

  #note(request: Request, by: number): void {
    this.#active += by;
    if (isBarrier(request)) this.#barriers += by;
    if (request.sectors === 0) return;
    const writer = changes(request);
    if (writer) this.#changing += by;
    if (isWide(request)) {
      this.#wide += by;
      return;
    }
    const last = lastBucket(request);
    for (let bucket = firstBucket(request); bucket <= last; bucket++) {
      this.#any[bucket % abi.HAZARD_BUCKETS] += by;
      if (writer) this.#writers[bucket % abi.HAZARD_BUCKETS] += by;
    }
  }

  #widen(request: Request): void {
    const { sector } = request;
    const end = sector + request.sectors;
    const first = this.#active === 0;
    this.#low = first ? sector : Math.min(this.#low, sector);
    this.#high = first ? end : Math.max(this.#high, end);
    if (!changes(request)) return;
    const firstWriter = this.#changing === 0;
    this.#changingLow = firstWriter ? sector : Math.min(this.#changingLow, sector);
    this.#changingHigh = firstWriter ? end : Math.max(this.#changingHigh, end);
  }

  /** The first active slot from `slot` on, or -1. */
  #next(slot: number): number {
    for (let word = slot >> 5, mask = -1 << (slot & 31); word < this.#slots.length; word++, mask = -1) {
      const bits = this.#slots[word] & mask;
      if (bits !== 0) return word * 32 + 31 - Math.clz32(bits & -bits);
    }
    return -1;
  }

  /** Lets a valid request in: it becomes Admitted or Held. */
  admit(request: Request): void {
    let waits = 0;
    if (this.#mayConflict(request)) {
      for (let slot = this.#next(0); slot >= 0; slot = this.#next(slot + 1))
        if (mustFollow(request, this.#requests[slot])) waits++;
    }
    if (request.sectors > 0) this.#widen(request);
    this.#note(request, 1);
    this.#slots[request.slot >> 5] |= 1 << (request.slot & 31);
    request.order = ++this.#admitted;
    request.flags |= Flag.Active;
    request.waits = waits;
    request.state = waits > 0 ? State.Held : State.Admitted;
    if (waits === 0) return;
    this.#held++;
    this.#counters[abi.COUNT_HELD]++;
  }

  /** A request has had its effect: those that waited for it may become Ready. */
  retire(request: Request): void {
    request.flags &= ~Flag.Active;
    this.#note(request, -1);
    this.#slots[request.slot >> 5] &= ~(1 << (request.slot & 31));
    if (this.#held === 0) return;
    for (let slot = this.#next(0); slot >= 0; slot = this.#next(slot + 1)) {
      const other = this.#requests[slot];
      if (other.state !== State.Held || other.order < request.order) continue;
      if (!mustFollow(other, request) || --other.waits > 0) continue;
      other.state = State.Ready;
      this.#held--;
      this.#ready.push(other.slot);
    }
  }
}
