/** Pieces of a read, each byte once: by hand, and against a plain bitmap. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Coverage } from "../../host/storage/nbd/coverage.js";

test("pieces that overlap, are empty or out of bounds are refused, and change nothing", () => {
  const coverage = new Coverage(100);
  assert.ok(coverage.add(20, 20));
  for (const [start, length] of [
    [20, 20],
    [10, 11],
    [39, 1],
    [0, 100],
    [25, 5],
    [50, 0],
    [-1, 5],
    [96, 5],
    [2 ** 53, 5],
  ]) {
    assert.ok(!coverage.add(start, length), `${length} at ${start}`);
  }
  assert.ok(coverage.add(0, 20));
  assert.ok(!coverage.complete);
  assert.ok(coverage.add(40, 60));
  assert.ok(coverage.complete);
});

test("a read in too many pieces with holes between them is refused; in order it may have any number", () => {
  const coverage = new Coverage(100_000);
  for (let at = 0; at < 4096; at++) assert.ok(coverage.add(at * 3, 1), `piece ${at}`);
  assert.ok(!coverage.add(50_000, 1));
  assert.ok(coverage.add(1, 1), "beside another");
  const inOrder = new Coverage(100_000);
  for (let at = 0; at < 100_000; at += 10) assert.ok(inOrder.add(at, 10));
  assert.ok(inOrder.complete);
  const backwards = new Coverage(100_000);
  for (let at = 100_000 - 10; at >= 0; at -= 10) assert.ok(backwards.add(at, 10));
  assert.ok(backwards.complete);
});

test("it agrees with a bitmap, whatever comes", () => {
  let seed = 7;
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return (seed >>> 8) % below;
  };
  for (let round = 0; round < 200; round++) {
    const length = 1 + random(40);
    const coverage = new Coverage(length);
    const bitmap = new Uint8Array(length);
    for (let piece = 0; piece < 60; piece++) {
      const start = random(length + 2);
      const bytes = random(8);
      const free = bytes > 0 && start + bytes <= length && !bitmap.subarray(start, start + bytes).includes(1);
      assert.equal(coverage.add(start, bytes), free);
      if (free) bitmap.fill(1, start, start + bytes);
      assert.equal(coverage.complete, !bitmap.includes(0));
    }
  }
});
