import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Histogram } from "../../bench/plane/histogram.js";

test("percentiles are those of the sorted values, at most 1 % above", () => {
  const value = fc.oneof(fc.integer({ min: 0, max: 4000 }), fc.integer({ min: 0, max: 2 ** 32 - 1 }));
  const values = fc.array(value, { minLength: 1, maxLength: 300 });
  fc.assert(
    fc.property(values, fc.constantFrom(1, 50, 90, 99, 99.9, 100), (list, percent) => {
      const histogram = new Histogram();
      for (const each of list) histogram.record(each);
      const sorted = [...list].sort((a, b) => a - b);
      const exact = sorted[Math.ceil((sorted.length * percent) / 100) - 1];
      const found = histogram.percentile(percent);
      assert.ok(found >= exact && found <= exact * 1.01, `${found} for ${exact}`);
    }),
  );
});

test("longer latencies than the buckets hold count as the longest; none are zeros", () => {
  const histogram = new Histogram();
  assert.deepEqual(histogram.latency(), { mean: 0, p50: 0, p90: 0, p99: 0, p999: 0, max: 0 });
  histogram.record(1e12);
  assert.equal(histogram.latency().p50, 2 ** 32 - 1);
});
