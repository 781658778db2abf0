/**
 * How long I/Os take: from the pass of a ring that starts one to the pass that takes in its end. The table lies in the
 * ring's memory, so that any thread can read it; one thread writes it, and the clock is read once a pass.
 */
import { MAX_SLOTS } from "../../assembly/abi.js";
import { IO_OPERATIONS, type IoOperation } from "../core/blkif.js";
import type { RingView } from "../core/ring-view.js";
import { HOST_AREA } from "../core/windows.js";

/** Bucket i counts I/Os that took less than 2^i microseconds, and no less than half of that; the last one all longer ones. */
export const LATENCY_BUCKETS = 25;

/** Of one operation. */
export interface OperationLatency {
  /** I/Os by {@link LATENCY_BUCKETS}. */
  readonly buckets: number[];
  /** Seconds that all of them took together. */
  readonly seconds: number;
}
export type Latency = Record<IoOperation, OperationLatency>;

/** f64 of an operation: the buckets, then the milliseconds of all; a power of two. */
const STRIDE = 32;

export class LatencyTable {
  readonly #table: Float64Array;
  readonly #ring: RingView;
  readonly #started = new Float64Array(MAX_SLOTS);

  constructor(ring: RingView) {
    this.#table = tableOf(ring);
    this.#ring = ring;
  }

  /** Milliseconds of any clock. */
  start(slot: number, now: number): void {
    this.#started[slot] = now;
  }

  /** To be called before the core takes the end in: it gives the slot away. */
  end(slot: number, now: number): void {
    const operation = this.#ring.ioOperation(slot);
    const ms = now - this.#started[slot];
    const bucket = Math.min(32 - Math.clz32(ms * 1000), LATENCY_BUCKETS - 1);
    const at = operation * STRIDE;
    this.#table[at + bucket]++;
    this.#table[at + LATENCY_BUCKETS] += ms;
  }
}

/** The table that lies in a ring's memory. */
export function readLatency(ring: RingView): Latency {
  const table = tableOf(ring);
  const entries = IO_OPERATIONS.map((name, operation) => {
    const at = operation * STRIDE;
    const buckets = Array.from(table.subarray(at, at + LATENCY_BUCKETS));
    return [name, { buckets, seconds: table[at + LATENCY_BUCKETS] / 1000 }];
  });
  return Object.fromEntries(entries) as Latency;
}

export function noLatency(): Latency {
  const none = (): OperationLatency => ({ buckets: new Array(LATENCY_BUCKETS).fill(0), seconds: 0 });
  return { read: none(), write: none(), flush: none(), discard: none() };
}

/** A new table of both. */
export function sumOfLatency(one: Latency, other: Latency): Latency {
  const entries = IO_OPERATIONS.map((name) => [
    name,
    {
      buckets: one[name].buckets.map((count, i) => count + other[name].buckets[i]),
      seconds: one[name].seconds + other[name].seconds,
    },
  ]);
  return Object.fromEntries(entries) as Latency;
}

function tableOf({ memory }: RingView): Float64Array {
  return new Float64Array(memory.memory.buffer, HOST_AREA.start, IO_OPERATIONS.length * STRIDE);
}
