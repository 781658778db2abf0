/**
 * A limit on the requests and bytes that a vbd's rings take in a second, with bursts: a token bucket for each, kept as
 * the moment at which it is full again (the generic cell rate algorithm). All rings of a vbd share one, in whatever
 * threads they are; a bucket may go into debt, and nothing more is taken until that is paid.
 */

import { DEFAULT_BATCH } from "../core/blkif.js";

/** What a vbd may take. 0: as much as it likes. */
export interface Limits {
  /** Requests a second. */
  readonly iops: number;
  /** Bytes a second, reads and writes together. */
  readonly bps: number;
  /** How many seconds' worth may be taken at once after a rest. */
  readonly burst: number;
}

export const NO_LIMITS: Limits = { iops: 0, bps: 0, burst: 1 };

const NS = 1e9;
/** Index of the buckets, each an i64 of nanoseconds. */
const REQUESTS = 0;
const BYTES = 1;

export class Throttle {
  static readonly BYTES = 64;
  readonly buffer: SharedArrayBuffer;
  /** When each bucket is full again. */
  readonly #full: BigInt64Array;
  /** Nanoseconds for a request and for a byte, and of the burst. */
  readonly #rates: Float64Array;
  readonly #paused: Int32Array;

  constructor(buffer = new SharedArrayBuffer(Throttle.BYTES)) {
    this.buffer = buffer;
    this.#full = new BigInt64Array(buffer, 0, 2);
    this.#rates = new Float64Array(buffer, 16, 3);
    this.#paused = new Int32Array(buffer, 40, 1);
  }

  set(limits: Limits, paused: boolean): void {
    this.#rates[REQUESTS] = limits.iops > 0 ? NS / limits.iops : 0;
    this.#rates[BYTES] = limits.bps > 0 ? NS / limits.bps : 0;
    this.#rates[2] = limits.burst * NS;
    Atomics.store(this.#paused, 0, paused ? 1 : 0);
  }

  get paused(): boolean {
    return Atomics.load(this.#paused, 0) !== 0;
  }

  /** Requests that may be taken now, at most a pass's worth. */
  admit(now = process.hrtime.bigint()): number {
    if (this.paused) return 0;
    if (this.#rates[BYTES] > 0 && this.#credit(BYTES, now) < 0) return 0;
    const cost = this.#rates[REQUESTS];
    if (cost === 0) return DEFAULT_BATCH;
    // What other rings have taken since may be more than there was.
    return Math.max(0, Math.min(Math.floor(this.#credit(REQUESTS, now) / cost), DEFAULT_BATCH));
  }

  /** Requests and bytes that were taken. */
  charge(requests: number, bytes: number): void {
    Atomics.add(this.#full, REQUESTS, BigInt(Math.round(requests * this.#rates[REQUESTS])));
    Atomics.add(this.#full, BYTES, BigInt(Math.round(bytes * this.#rates[BYTES])));
  }

  /** Milliseconds until something may be taken, where nothing may now; Infinity while it is paused. */
  wait(now = process.hrtime.bigint()): number {
    if (this.paused) return Number.POSITIVE_INFINITY;
    const requests = this.#rates[REQUESTS] - this.#credit(REQUESTS, now);
    const bytes = -this.#credit(BYTES, now);
    return Math.max(requests, bytes, 0) / 1e6;
  }

  /** Nanoseconds' worth that may be taken, at most the burst. */
  #credit(bucket: number, now: bigint): number {
    // One request at least fits into the bucket, however slow.
    const burst = Math.max(this.#rates[2], this.#rates[bucket]);
    const full = Atomics.load(this.#full, bucket);
    const earliest = now - BigInt(Math.round(burst));
    if (full >= earliest) return Number(now - full);
    // Another ring that was faster has done the same.
    Atomics.compareExchange(this.#full, bucket, full, earliest);
    return burst;
  }
}
