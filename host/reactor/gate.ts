/**
 * What is in flight at one disk in a reactor thread, of all its rings together. While other guests have I/O as well, that
 * is bounded in bytes: whoever comes then finds no more of it before him in the disk's queue, in libuv's thread
 * pool, or in what the kernel carries out at once, from the page cache, in this thread.
 */
import type { Activity } from "./activity.js";

/** In flight for each {@link LATENCY_MS} that the disk needs at its quickest: 2.5 GB/s. One I/O that is larger goes alone. */
export const SHARED_BYTES = 256 << 10;
const LATENCY_MS = 0.1;
/** A guest alone: more than any disk needs, and less than whoever comes would notice for long. */
const ALONE_BYTES = 16 << 20;
/** What an I/O counts at least: a flush or a discard moves no data. */
const LEAST_BYTES = 4096;

const cost = (bytes: number): number => Math.max(bytes, LEAST_BYTES);
/** Entries behind which those that have started are dropped. */
const MOST_STARTED = 512;

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
  /** When the first I/O was started, until one has ended. */
  #startedAt = 0;
  /** The shortest time from the start of a first I/O to the end of one: what the disk needs without others' I/O. */
  #quickest = Number.POSITIVE_INFINITY;
  /** Bytes in flight while others have I/O. Known to be more than {@link SHARED_BYTES} only of a disk that is slow. */
  #bound = SHARED_BYTES;
  /** The activity knows that there is something in flight. */
  #busy = false;
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
    const before = this.#inFlight;
    const after = before + cost(bytes);
    if (before > 0 && after <= this.#bound && this.#waiting === 0) {
      // As nearly all are.
      this.#inFlight = after;
      ring.startIo(slot);
    } else if (this.#waiting === 0 && this.#admits(bytes)) this.#go(ring, slot, bytes);
    else {
      this.#rings.push(ring);
      this.#slots.push(slot);
      this.#bytes.push(bytes);
    }
  }

  /** An I/O has ended, of the same number of bytes. */
  ended(bytes: number): void {
    this.#inFlight -= cost(bytes);
    if (this.#startedAt !== 0) this.#measure();
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

  /** The first I/O to end since none was in flight. */
  #measure(): void {
    const took = this.#clock() - this.#startedAt;
    this.#startedAt = 0;
    if (took >= this.#quickest) return;
    this.#quickest = took;
    this.#bound = Math.min(ALONE_BYTES, SHARED_BYTES * Math.max(1, took / LATENCY_MS));
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
    const after = inFlight + cost(bytes);
    if (inFlight === 0 || after <= this.#bound) return true;
    return after <= ALONE_BYTES && !this.#activity.shared;
  }

  #go(ring: GateRing, slot: number, bytes: number): void {
    if (!this.#busy) {
      this.#busy = true;
      this.#activity.begin(this.#domid);
    }
    if (this.#inFlight === 0) this.#startedAt = this.#clock();
    this.#inFlight += cost(bytes);
    ring.startIo(slot);
  }
}
