/**
 * Whether several guests have I/O at present, in whatever threads of this process their rings are: they share its disks,
 * processors and libuv's thread pool. All threads write to it, without locks: it is an estimate.
 */

/** For so long after another guest's pass, a guest is not alone. */
const MEMORY_MS = 20;
const DOMID = 0;
const CHANGED_AT = 1;

/** Milliseconds of a clock that all threads share; it wraps around. */
const milliseconds = (): number => (performance.timeOrigin + performance.now()) | 0;

export class Activity {
  static readonly BYTES = 8;
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
    this.#words[CHANGED_AT] = clock() - 2 * MEMORY_MS;
  }

  /** A ring of this domain makes a pass. */
  note(domid: number): void {
    if (this.#words[DOMID] === domid) return;
    this.#words[DOMID] = domid;
    this.#words[CHANGED_AT] = this.#clock();
  }

  /** Whether passes of more than one guest were made lately. */
  get shared(): boolean {
    return (this.#clock() - this.#words[CHANGED_AT]) >>> 0 < MEMORY_MS;
  }
}
