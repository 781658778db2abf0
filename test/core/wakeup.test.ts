/**
 * Two threads on one ring, each asleep whenever the event indices allow it: a wake-up that gets lost between "nothing
 * there" and "wake me" ends in a time-out. This is what a test in one thread cannot see.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import * as abi from "../../assembly/abi.js";
import { Harness } from "./harness.js";
import { BACKEND, DONE, GUEST, raise, sleep, type WakeupData } from "./wakeup-events.js";

const TOTAL = 150_000;

for (const { startIndex, batch } of [
  { startIndex: 0, batch: 64 },
  { startIndex: 0xffffff00, batch: 5 },
]) {
  test(`no wake-up is lost between two threads, from ${startIndex} on`, { timeout: 120_000 }, async () => {
    const h = new Harness({ startIndex, batch });
    const events = new Int32Array(new SharedArrayBuffer(12));
    const workerData: WakeupData = {
      buffer: h.memory.memory.buffer as unknown as SharedArrayBuffer,
      events,
      total: TOTAL,
      entries: h.entries,
    };
    const guest = new Worker(new URL("./wakeup-guest.js", import.meta.url), { workerData });
    try {
      await once(guest, "message");
      guest.postMessage("go");
      let slept = true;
      for (; slept && events[DONE] === 0; slept = sleep(events, BACKEND)) {
        let flags: number;
        do {
          flags = h.core.step(0);
          if (flags & abi.STEP_NOTIFY) raise(events, GUEST);
        } while (flags & abi.STEP_MORE);
      }
      const [outcome] = await once(guest, "message");
      assert.equal(outcome, "done");
      assert.ok(slept, "nobody woke the backend");
      assert.equal(h.core.counters().responses, TOTAL);
      const { pushes, notifications } = h.core.counters();
      assert.ok(notifications < pushes, "the guest polls often enough to save notifications");
    } finally {
      await guest.terminate();
    }
    h.release();
  });
}
