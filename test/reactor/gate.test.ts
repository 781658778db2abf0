/** What a guest may have in flight at a disk, beside others and alone. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Activity } from "../../host/reactor/activity.js";
import { Gate, type GateRing, SHARED_BYTES } from "../../host/reactor/gate.js";

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
  return { gate, activity, started, ring, sharedAt, pause: (ms: number) => (time += ms) };
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
  const { gate, started, ring, sharedAt } = scene();
  sharedAt(1000);
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
  const { gate, started, ring, sharedAt } = scene();
  sharedAt(1000);
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

test("a disk that is slow at its quickest has more in flight; one that was quick once has not", () => {
  const { gate, started, ring, sharedAt, pause } = scene();
  sharedAt(1000);
  const a = ring("a");
  const burst = (): number => {
    started.length = 0;
    for (let slot = 0; slot < 100; slot++) gate.start(a, slot, SHARED_BYTES);
    return started.length;
  };
  gate.start(a, 0, 4096);
  pause(2);
  gate.ended(4096);
  assert.equal(burst(), 20);
  // In no time at all.
  for (let ended = 0; ended < 100; ended++) gate.ended(SHARED_BYTES);
  assert.equal(started.length, 100);
  assert.equal(burst(), 1);
});
