/**
 * What is in flight at one disk in a reactor thread, of all its rings together. While other guests have I/O as well, that
 * is bounded in bytes: whoever comes then finds no more of it before him in the disk's queue, in libuv's thread
 * pool, or in what the kernel carries out at once, from the page cache, in this thread.
 */
import { type Most, WHOLE } from "../storage/transfer.js";
import type { Activity } from "./activity.js";

/**
 * In flight for each {@link LATENCY_MS} that the disk needs at its quickest, that is 2.5 GB/s, of all guests but one. One
 * I/O that is larger goes alone. Where somebody has small I/O it is a quarter for those that are not: a disk that has as
 * much before each small one as it can carry does half of them only.
 */
export const SHARED_BYTES = 256 << 10;
export const SHARED_BESIDE_SMALL = 64 << 10;
const LATENCY_MS = 0.1;
/**
 * What a disk is given at once of an I/O while other guests have I/O: a longer one is done in such parts, one after the
 * other. A virtqueue, for one, has 256 entries for all that is in flight at a disk. Who has small I/O waits for a part
 * each time; guests that all stream would only lose by parts as small as those.
 */
export const PART: Most = { bytes: 64 << 10, entries: 16 };
export const PART_BESIDE_SMALL: Most = { bytes: 16 << 10, entries: 4 };
/** Bytes of an I/O that is small. */
export const SMALL_BYTES = 16 << 10;

/** What a disk is given at once of an I/O, at present. */
export function partAmong(activity: Activity): Most {
  if (!activity.shared) return WHOLE;
  return activity.small ? PART_BESIDE_SMALL : PART;
}

/** A guest alone: more than any disk needs, and less than whoever comes would notice for long. */
const ALONE_BYTES = 16 << 20;
/** What an I/O counts at least: a flush or a discard moves no data. */
const LEAST_BYTES = 4096;
/** Entries behind which those that have started are dropped. */
const MOST_STARTED = 512;

const cost = (bytes: number): number => Math.max(bytes, LEAST_BYTES);

/** A ring, of which the gate starts I/Os. */
export interface GateRing {
  /** Starts the I/O of a slot. */
  startIo(slot: number): void;
}

export class Gate {
  readonly #activity: Activity;
  readonly #domid: number;
  readonly #clock: () => number;
  #inFlight = 0;
  /** When the only I/O in flight was started; 0 when there is none, or another has been started since. */
  #startedAt = 0;
  /**
   * The shortest time that an I/O took which was alone here, in {@link LATENCY_MS}, at least one: for each the disk may have so
   * much in flight. 0 until it is known: one I/O, which tells.
   */
  #latencies = 0;
  /** The activity knows that there is something in flight. */
  #busy = false;
  /** Small I/Os in flight. */
  #small = 0;
  /** I/Os that wait, oldest first, from `#head` on. */
  readonly #rings: GateRing[] = [];
  readonly #slots: number[] = [];
  readonly #bytes: number[] = [];
  #head = 0;

  constructor(activity: Activity, domid: number, clock = () => performance.now()) {
    this.#activity = activity;
    this.#domid = domid;
    this.#clock = clock;
  }

  /** Starts an I/O of so many bytes, now or when others have ended. */
  start(ring: GateRing, slot: number, bytes: number): void {
    if (this.#waiting === 0 && this.#admits(bytes)) {
      this.#go(ring, slot, bytes);
      return;
    }
    this.#rings.push(ring);
    this.#slots.push(slot);
    this.#bytes.push(bytes);
  }

  /** An I/O has ended, of the same number of bytes. */
  ended(bytes: number): void {
    this.#inFlight -= cost(bytes);
    if (bytes <= SMALL_BYTES && --this.#small === 0) this.#activity.endSmall();
    if (this.#startedAt !== 0 && bytes > 0) this.#measure(bytes);
    if (this.#inFlight > 0 && this.#rings.length === 0) return;
    while (this.#waiting > 0 && this.#admits(this.#bytes[this.#head])) {
      const at = this.#head++;
      this.#go(this.#rings[at], this.#slots[at], this.#bytes[at]);
    }
    if (this.#inFlight === 0) {
      this.#busy = false;
      this.#activity.end(this.#domid);
    }
    if (this.#head > MOST_STARTED || this.#head === this.#rings.length) this.#drop();
  }

  /** An I/O has ended that was alone. */
  #measure(bytes: number): void {
    const took = (this.#clock() - this.#startedAt) / Math.max(1, bytes / PART.bytes);
    this.#startedAt = 0;
    const latencies = Math.max(1, took / LATENCY_MS);
    if (this.#latencies === 0 || latencies < this.#latencies) this.#latencies = latencies;
  }

  /** Forgets those that have started. */
  #drop(): void {
    for (const list of [this.#rings, this.#slots, this.#bytes]) {
      list.copyWithin(0, this.#head);
      list.length -= this.#head;
    }
    this.#head = 0;
  }

  get #waiting(): number {
    return this.#rings.length - this.#head;
  }

  #admits(bytes: number): boolean {
    const inFlight = this.#inFlight;
    if (inFlight === 0) return true;
    const after = inFlight + cost(bytes);
    if (after > ALONE_BYTES) return false;
    const each = bytes > SMALL_BYTES && this.#activity.small ? SHARED_BESIDE_SMALL : SHARED_BYTES;
    if (after <= (each * this.#latencies) / this.#activity.sharers(this.#domid)) return true;
    return !this.#activity.shared;
  }

  #go(ring: GateRing, slot: number, bytes: number): void {
    if (!this.#busy) {
      this.#busy = true;
      this.#activity.begin(this.#domid);
    }
    this.#startedAt = this.#inFlight === 0 ? this.#clock() : 0;
    this.#inFlight += cost(bytes);
    if (bytes <= SMALL_BYTES && ++this.#small === 1) this.#activity.beginSmall();
    ring.startIo(slot);
  }
}
