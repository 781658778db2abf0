/**
 * Whether several guests have I/O at present, in whatever threads of this process their rings are: they share its disks,
 * processors and libuv's thread pool. All threads write to it.
 */

/** For so long after another guest's pass, a guest is not alone. */
export const MEMORY_MS = 1000;
/**
 * For so long after the last small I/O, a guest is one that has such: more than the time between two of a guest at work,
 * and so little that one which writes a line now and then does not slow a copy beside it.
 */
export const SMALL_MEMORY_MS = 50;
const DOMID = 0;
const CHANGED_AT = 1;
/** How many guests have I/O in flight. */
const BUSY = 2;
/** Disks and threads in which a guest has I/O in flight, by its domid modulo GUESTS: two that share a place count as one. */
const FIRST = 3;
const GUESTS = 256;
/** Disks and threads in which a guest has small I/O in flight, and when there last ceased to be any in one of them. */
const SMALL = FIRST + GUESTS;
const SMALL_UNTIL = SMALL + 1;

/** Milliseconds of a clock that all threads share; it wraps around. */
const milliseconds = (): number => (performance.timeOrigin + performance.now()) | 0;

export class Activity {
  static readonly BYTES = 4 * (SMALL_UNTIL + 1);
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #clock: () => number;

  /** `buffer` is that of another thread's. */
  constructor(buffer?: SharedArrayBuffer, clock = milliseconds) {
    this.#clock = clock;
    this.buffer = buffer ?? new SharedArrayBuffer(Activity.BYTES);
    this.#words = new Int32Array(this.buffer);
    if (buffer !== undefined) return;
    this.#words[DOMID] = -1;
    this.#words[CHANGED_AT] = this.#words[SMALL_UNTIL] = this.#clock() - 2 * MEMORY_MS;
  }

  /** A ring of this domain makes a pass. */
  note(domid: number): void {
    if (this.#words[DOMID] === domid) return;
    // The first is no other.
    if (this.#words[DOMID] !== -1) this.#words[CHANGED_AT] = this.#clock();
    this.#words[DOMID] = domid;
  }

  /** The domain has I/O in flight in a thread, and had none there before. One that is slow makes no pass meanwhile. */
  begin(domid: number): void {
    if (Atomics.add(this.#words, FIRST + (domid % GUESTS), 1) === 0) Atomics.add(this.#words, BUSY, 1);
  }

  end(domid: number): void {
    if (Atomics.sub(this.#words, FIRST + (domid % GUESTS), 1) === 1) Atomics.sub(this.#words, BUSY, 1);
  }

  /** A guest has small I/O in flight at a disk in a thread, and had none there before. */
  beginSmall(): void {
    Atomics.add(this.#words, SMALL, 1);
  }

  endSmall(): void {
    this.#words[SMALL_UNTIL] = this.#clock();
    Atomics.sub(this.#words, SMALL, 1);
  }

  /**
   * Among how many what all guests but one may have in flight is to be divided: the guests that have I/O now, but for
   * one, and a guest's disks and threads.
   */
  sharers(domid: number): number {
    return Math.max(1, this.#words[BUSY] - 1) * Math.max(1, this.#words[FIRST + (domid % GUESTS)]);
  }

  /** Whether more than one guest has I/O in flight, or has made a pass lately. */
  get shared(): boolean {
    return this.#words[BUSY] > 1 || this.#lately(CHANGED_AT, MEMORY_MS);
  }

  /** Whether a guest has small I/O in flight, or had some lately: it waits for every other I/O at its disk. */
  get small(): boolean {
    return this.#words[SMALL] > 0 || this.#lately(SMALL_UNTIL, SMALL_MEMORY_MS);
  }

  #lately(word: number, milliseconds: number): boolean {
    return (this.#clock() - this.#words[word]) >>> 0 < milliseconds;
  }
}
