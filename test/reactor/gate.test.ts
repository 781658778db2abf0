/** What a guest may have in flight at a disk, beside others and alone. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Activity, SMALL_MEMORY_MS } from "../../host/reactor/activity.js";
import {
  Gate,
  type GateRing,
  PART,
  PART_BESIDE_SMALL,
  partAmong,
  SHARED_BESIDE_SMALL,
  SHARED_BYTES,
  SMALL_BYTES,
} from "../../host/reactor/gate.js";
import { WHOLE } from "../../host/storage/transfer.js";

/** A gate, the time, and the slots that it has started, by the names of their rings. */
function scene() {
  let time = 0;
  const activity = new Activity(undefined, () => time);
  const gate = new Gate(activity, 1, () => 1 + time);
  const started: string[] = [];
  const ring = (name: string): GateRing => ({ startIo: (slot) => void started.push(`${name}${slot}`) });
  const sharedAt = (at: number): void => {
    time = at;
    for (const domid of [1, 2]) activity.note(domid);
  };
  const pause = (ms: number): void => void (time += ms);
  /** The disk needs so many milliseconds for one I/O; it is forgotten that that was small. */
  const takes = (ms: number, bytes = 4096): void => {
    gate.start(ring("first"), 0, bytes);
    pause(ms);
    gate.ended(bytes);
    pause(SMALL_MEMORY_MS);
    started.length = 0;
  };
  return { gate, activity, started, ring, sharedAt, pause, takes };
}

test("a guest alone has 16 MiB in flight", () => {
  const { gate, started, ring } = scene();
  const a = ring("a");
  for (let slot = 0; slot < 100; slot++) gate.start(a, slot, 1 << 20);
  assert.equal(started.length, 16);
});

test("a guest whose I/O takes long is there all the while, though it makes no pass", () => {
  const { gate, activity, started, ring, sharedAt, pause } = scene();
  const slow = new Gate(activity, 2);
  sharedAt(1000);
  slow.start(ring("slow"), 0, 4096);
  pause(60_000);
  assert.ok(activity.shared === false, "one guest has I/O");
  const a = ring("a");
  for (let slot = 0; slot < 8; slot++) gate.start(a, slot, SHARED_BYTES);
  assert.ok(activity.shared);
  assert.deepEqual(started, ["slow0", "a0"]);
  slow.ended(4096);
  assert.ok(!activity.shared);
  gate.ended(SHARED_BYTES);
  assert.equal(started.length, 9);
});

test("beside others the rest waits, in its order, whichever ring it is of", () => {
  const { gate, started, ring, sharedAt, takes } = scene();
  sharedAt(1000);
  takes(0);
  const half = SHARED_BYTES / 2;
  const [a, b] = [ring("a"), ring("b")];
  gate.start(a, 0, half);
  gate.start(b, 1, half);
  gate.start(b, 2, half);
  gate.start(a, 3, 512);
  assert.deepEqual(started, ["a0", "b1"]);
  gate.ended(half);
  assert.deepEqual(started, ["a0", "b1", "b2"]);
  gate.ended(half);
  assert.deepEqual(started, ["a0", "b1", "b2", "a3"]);
});

test("an I/O that is larger goes alone, and one without data counts", () => {
  const { gate, started, ring, sharedAt, takes } = scene();
  sharedAt(1000);
  takes(0);
  const a = ring("a");
  gate.start(a, 0, 4 * SHARED_BYTES);
  gate.start(a, 1, 0);
  assert.deepEqual(started, ["a0"]);
  gate.ended(4 * SHARED_BYTES);
  assert.deepEqual(started, ["a0", "a1"]);
  for (let slot = 2; slot < 2000; slot++) gate.start(a, slot, 0);
  assert.equal(started.length, 1 + SHARED_BYTES / 4096);
});

test("every I/O is started once, however many there are", () => {
  const { gate, started, ring, sharedAt } = scene();
  sharedAt(1000);
  const a = ring("");
  const expected: string[] = [];
  let ended = 0;
  const end = (): void => {
    gate.ended(SHARED_BYTES);
    ended++;
  };
  for (let slot = 0; slot < 5000; slot++) {
    gate.start(a, slot, SHARED_BYTES);
    expected.push(String(slot));
    // A thousand wait at most, and at least two of them most of the time.
    if (slot % 1000 > 1) end();
  }
  while (ended < started.length) end();
  assert.deepEqual(started, expected);
});

test("a gate that has been empty in between is no second guest", () => {
  const { gate, activity, ring, sharedAt, pause } = scene();
  sharedAt(1000);
  const a = ring("a");
  for (let slot = 0; slot < 10; slot++) gate.start(a, slot, 4 * SHARED_BYTES);
  for (let slot = 0; slot < 10; slot++) gate.ended(4 * SHARED_BYTES);
  pause(1500);
  new Gate(activity, 2).start(ring("b"), 0, 512);
  assert.ok(!activity.shared, "the other is alone");
});

test("when the others have gone, what waits starts with the next end", () => {
  const { gate, activity, started, ring, sharedAt, pause } = scene();
  sharedAt(1000);
  const a = ring("a");
  for (let slot = 0; slot < 8; slot++) gate.start(a, slot, SHARED_BYTES);
  assert.equal(started.length, 1);
  assert.ok(activity.shared);
  pause(1500);
  assert.ok(!activity.shared);
  gate.ended(SHARED_BYTES);
  assert.equal(started.length, 8);
});

test("guests are seen in whatever threads they are, and a clock that wraps changes nothing", () => {
  let time = 0x7ffffff0;
  const clock = (): number => time | 0;
  const one = new Activity(undefined, clock);
  const other = new Activity(one.buffer, clock);
  assert.ok(!one.shared);
  one.note(1);
  time += 1500;
  one.note(1);
  assert.ok(!other.shared, "the same guest again");
  other.note(2);
  assert.ok(one.shared);
  time += 1500;
  assert.ok(!one.shared);
});

/** How many of a hundred I/Os of this size are started at once. */
function burst({ gate, started, ring }: ReturnType<typeof scene>, bytes = SHARED_BYTES): number {
  const a = ring("a");
  started.length = 0;
  for (let slot = 0; slot < 100; slot++) gate.start(a, slot, bytes);
  return started.length;
}

test("a disk that is slow at its quickest has more in flight; one that was quick once has not", () => {
  const it = scene();
  it.sharedAt(1000);
  it.takes(2);
  assert.equal(burst(it), 20);
  for (let ended = 0; ended < 100; ended++) it.gate.ended(SHARED_BYTES);
  assert.equal(it.started.length, 100);
  it.takes(0.1);
  it.takes(5);
  assert.equal(burst(it), 1);
});

test("until one I/O was alone, they go one at a time beside others; what took long in company tells nothing", () => {
  const it = scene();
  assert.equal(burst(it), 64, "alone, so many are started at once");
  it.sharedAt(1000);
  it.pause(5);
  for (let ended = 0; ended < 64; ended++) {
    it.gate.ended(SHARED_BYTES);
    assert.equal(it.started.length, ended < 63 ? 64 : 65, "they end before another is started");
  }
  it.pause(0.2);
  it.gate.ended(SHARED_BYTES);
  assert.equal(it.started.length, 65 + 1, "0.2 ms, for four parts");
});

test("the time of a long I/O is no latency, and a flush's is none of the disk's", () => {
  const it = scene();
  it.sharedAt(1000);
  it.takes(0, 0);
  it.takes(8, 4 * SHARED_BYTES);
  assert.equal(burst(it), 5, "0.5 ms for each of 16 parts");
});

test("a guest's disks and threads share what it may have in flight, and so do all guests but one", () => {
  const it = scene();
  it.sharedAt(1000);
  it.takes(0);
  const quarter = SHARED_BYTES / 4;
  const inFlight = (): number => {
    const count = burst(it, quarter);
    for (let ended = 0; ended < 100; ended++) it.gate.ended(quarter);
    return count;
  };
  assert.equal(inFlight(), 4);
  const elsewhere = new Gate(it.activity, 1, () => 1);
  elsewhere.start(it.ring("elsewhere"), 0, quarter);
  assert.equal(inFlight(), 2);
  elsewhere.ended(quarter);
  assert.equal(inFlight(), 4);
  for (const domid of [2, 3]) new Gate(it.activity, domid, () => 1).start(it.ring("other"), 0, quarter);
  assert.equal(inFlight(), 2);
});

test("where another guest has small I/O, long ones have a quarter in flight, and small ones what they had", () => {
  const it = scene();
  it.sharedAt(1000);
  it.takes(0);
  new Gate(it.activity, 2, () => 1).start(it.ring("other"), 0, 512);
  const inFlight = (bytes: number): number => {
    const count = burst(it, bytes);
    for (let ended = 0; ended < 100; ended++) it.gate.ended(bytes);
    return count;
  };
  const long = SHARED_BESIDE_SMALL / 2;
  assert.deepEqual([inFlight(long), inFlight(SMALL_BYTES)], [2, SHARED_BYTES / SMALL_BYTES]);
});

test("long I/Os go whole alone, in parts beside others, and in small ones where anybody has small I/O", () => {
  const { gate, activity, ring, sharedAt, pause } = scene();
  const a = ring("a");
  gate.start(a, 0, SMALL_BYTES);
  assert.equal(partAmong(activity), WHOLE, "its own, and alone");
  gate.start(a, 1, SMALL_BYTES + 1);
  gate.ended(SMALL_BYTES);
  sharedAt(2000);
  assert.equal(partAmong(activity), PART);
  const elsewhere = new Gate(activity, 2, () => 1);
  for (const slot of [0, 1]) elsewhere.start(ring("b"), slot, 512);
  assert.equal(partAmong(activity), PART_BESIDE_SMALL);
  pause(5000);
  elsewhere.ended(512);
  assert.equal(partAmong(activity), PART_BESIDE_SMALL, "one is still in flight");
  elsewhere.ended(512);
  assert.equal(partAmong(activity), WHOLE, "the other guest has gone");
  sharedAt(6999 + SMALL_MEMORY_MS);
  assert.equal(partAmong(activity), PART_BESIDE_SMALL, "another may come at once");
  sharedAt(7000 + SMALL_MEMORY_MS);
  assert.equal(partAmong(activity), PART);
});
