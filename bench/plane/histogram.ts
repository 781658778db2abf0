/**
 * Latencies in buckets that grow with them, as HdrHistogram's: 128 for each power of two, so that a percentile is
 * right within 1 %. Values are whole nanoseconds up to 4.29 s; longer ones count as that.
 */
const BITS = 7;
const BUCKETS = 1 << BITS;
const LONGEST = 0xffffffff;

export interface Latency {
  readonly mean: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

export class Histogram {
  readonly #counts = new Float64Array((33 - BITS) * BUCKETS);
  #count = 0;
  #sum = 0;
  #max = 0;

  record(nanoseconds: number): void {
    const value = Math.min(nanoseconds, LONGEST) >>> 0;
    this.#counts[bucketOf(value)]++;
    this.#count++;
    this.#sum += value;
    if (value > this.#max) this.#max = value;
  }

  /** The smallest value that so many of a hundred are not above; 0 when there are none. */
  percentile(percent: number): number {
    let left = (this.#count * percent) / 100;
    for (let bucket = 0; bucket < this.#counts.length; bucket++) {
      left -= this.#counts[bucket];
      if (left <= 0) return Math.min(lastOf(bucket), this.#max);
    }
    return this.#max;
  }

  /** In nanoseconds. */
  latency(): Latency {
    return {
      mean: this.#count === 0 ? 0 : Math.round(this.#sum / this.#count),
      p50: this.percentile(50),
      p90: this.percentile(90),
      p99: this.percentile(99),
      p999: this.percentile(99.9),
      max: this.#max,
    };
  }
}

/** Values below 256 have buckets of their own; above, the highest eight bits say which. */
function bucketOf(value: number): number {
  const shift = Math.max(0, 31 - Math.clz32(value) - BITS);
  return shift * BUCKETS + (value >>> shift);
}

/** The largest value of a bucket. */
function lastOf(bucket: number): number {
  if (bucket < 2 * BUCKETS) return bucket;
  const shift = Math.floor(bucket / BUCKETS) - 1;
  return (bucket - shift * BUCKETS + 1) * 2 ** shift - 1;
}
