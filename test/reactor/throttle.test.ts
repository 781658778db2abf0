/** The token buckets of a limited vbd, on a clock of the test's own. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Throttle } from "../../host/reactor/throttle.js";

const START = 10n ** 15n;
const at = (seconds: number): bigint => START + BigInt(Math.round(seconds * 1e9));

/** Takes what is admitted at steps of a millisecond; how many requests that was. */
function take(throttle: Throttle, from: number, to: number, bytes = 0): number {
  let taken = 0;
  for (let ms = from * 1000; ms < to * 1000; ms++) {
    for (let n = throttle.admit(at(ms / 1000)); n > 0; n = throttle.admit(at(ms / 1000))) {
      if (bytes > 0) n = 1;
      throttle.charge(n, n * bytes);
      taken += n;
    }
  }
  return taken;
}

test("a burst after a rest, then the rate", () => {
  const throttle = new Throttle();
  throttle.set({ iops: 1000, bps: 0, burst: 2 }, false);
  assert.equal(take(throttle, 0, 0.001), 2000);
  const second = take(throttle, 0.001, 1.001);
  assert.ok(second >= 999 && second <= 1001, String(second));
  assert.ok(take(throttle, 10, 10.001) <= 2001, "a long rest is worth one burst");
});

test("bytes may go into debt by one request, and are paid back", () => {
  const throttle = new Throttle();
  throttle.set({ iops: 0, bps: 1 << 20, burst: 0 }, false);
  const taken = take(throttle, 0, 10, 256 << 10);
  assert.ok(taken >= 39 && taken <= 42, String(taken));
});

test("both limits hold; a rate below one a second still lets one through", () => {
  const throttle = new Throttle();
  throttle.set({ iops: 10, bps: 1 << 30, burst: 0 }, false);
  const ten = take(throttle, 0, 1, 512);
  assert.ok(ten >= 9 && ten <= 11, String(ten));
  const slow = new Throttle();
  slow.set({ iops: 0.5, bps: 0, burst: 0 }, false);
  assert.equal(take(slow, 0, 0.001), 1);
  assert.equal(take(slow, 0.001, 1.9), 0);
  assert.equal(take(slow, 1.9, 2.1), 1);
});

test("rings share one bucket; what waits knows for how long", () => {
  const one = new Throttle();
  one.set({ iops: 100, bps: 0, burst: 1 }, false);
  const other = new Throttle(one.buffer);
  assert.equal(take(one, 0, 0.001) + take(other, 0, 0.001), 100);
  const wait = one.wait(at(0.001));
  assert.ok(wait > 8 && wait <= 10, String(wait));
  assert.equal(other.admit(at(0.001)), 0);
  one.charge(50, 0);
  assert.equal(other.admit(at(0.001)), 0, "in debt");
});

test("paused, nothing is admitted and nobody knows until when", () => {
  const throttle = new Throttle();
  throttle.set({ iops: 0, bps: 0, burst: 1 }, true);
  assert.equal(throttle.admit(), 0);
  assert.equal(throttle.wait(), Number.POSITIVE_INFINITY);
  throttle.set({ iops: 0, bps: 0, burst: 1 }, false);
  assert.ok(throttle.admit() > 0);
});
