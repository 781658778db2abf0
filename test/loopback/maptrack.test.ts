import assert from "node:assert/strict";
import { test } from "node:test";
import { GNTTAB_ENTRIES, Gtf, markUsed, writeEntry } from "../../host/platform/loopback/gnttab.js";
import { MAPTRACK_BYTES, Maptrack, SLOTS } from "../../host/platform/loopback/maptrack.js";

const REF = 9;

function shared(bytes: number): Int32Array {
  return new Int32Array(new SharedArrayBuffer(bytes));
}

function granted() {
  const entries = shared(GNTTAB_ENTRIES * 8);
  const track = new Maptrack(shared(MAPTRACK_BYTES));
  writeEntry(entries, REF, 0, 3, Gtf.permitAccess);
  return { entries, track, flags: () => entries[REF * 2] & 0xffff };
}

test("whoever is killed with a lock, at whatever point, is cleaned up after", () => {
  const steps: ((b: ReturnType<typeof granted>) => void)[] = [
    ({ track }) => track.lock(REF, 7),
    ({ entries }) => markUsed(entries, REF, 0, true, true, false),
    ({ track }) => track.setUser(REF, 0, 3),
    ({ track }) => track.pin(REF, 7, true),
    ({ track }) => track.unlock(REF),
    ({ track }) => track.lock(REF, 7),
    ({ track, entries }) => track.unpin(entries, REF, 7, true),
    ({ track, entries }) => track.unpin(entries, REF, 7, false),
  ];
  for (let done = 1; done <= steps.length; done++) {
    const b = granted();
    for (const step of steps.slice(0, done)) step(b);
    assert.equal(b.track.releaseSlot(b.entries, 7), true, `after ${done} steps`);
    assert.equal(b.flags(), Gtf.permitAccess);
    assert.equal(b.track.count(), 0);
    assert.equal(b.track.lock(REF, 1), true);
  }
});

test("cleaning up leaves other slots' pins and locks alone", () => {
  const { entries, track, flags } = granted();
  track.lock(REF, 7);
  markUsed(entries, REF, 0, true, true, false);
  track.pin(REF, 7, true);
  track.pin(REF, SLOTS - 1, false);
  track.unlock(REF);
  track.lock(REF, 3);
  assert.equal(track.releaseSlot(entries, 7), false, "another slot has the lock");
  track.unlock(REF);
  assert.equal(track.releaseSlot(entries, 7), true);
  assert.equal(flags(), Gtf.permitAccess | Gtf.reading);
  assert.equal(track.releaseSlot(entries, SLOTS - 1), true);
  assert.equal(flags(), Gtf.permitAccess);
});

test("a lock that is never given back is given up", () => {
  const { track } = granted();
  track.lock(REF, 7);
  const start = Date.now();
  assert.equal(track.lock(REF, 8), false);
  assert.ok(Date.now() - start < 10_000);
});
