/** What a ring deducts for its passes, in one go or in parts, and what it takes over from one pass to the next. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { random } from "../../host/guest/workload.js";
import { Activity } from "../../host/reactor/activity.js";
import { Gate } from "../../host/reactor/gate.js";
import { IdleWindows } from "../../host/reactor/idle-windows.js";
import { takeMemory } from "../../host/reactor/memory-pool.js";
import { Ring } from "../../host/reactor/ring.js";
import { Throttle } from "../../host/reactor/throttle.js";
import type { Credit } from "../../host/reactor/turns.js";
import { Result } from "../../host/storage/device.js";
import { Frontend, SECTORS } from "./passes/frontend.js";
import { Platform } from "./passes/platform.js";
import { Watcher } from "./passes/watcher.js";

const PAGE = 4096;
const DOMID = 1;

function makeRing(persistent: boolean) {
  const platform = new Platform();
  const next = random(1);
  const frontend = new Frontend(1, DOMID, takeMemory(null), 1, persistent, (below) => next() % below);
  platform.frontends.set(1, frontend);
  platform.ports.set(1, { masked: false, pending: false, frontend });
  const config = { abi: abi.ABI_X86_64, ringPages: 1, domid: DOMID, sectors: SECTORS, sectorSize: 512 };
  const halts: string[] = [];
  const ring = new Ring(
    {
      config: { ...config, features: persistent ? abi.FEATURE_PERSISTENT : 0, maxIndirect: 256 },
      ringRefs: Uint32Array.of(1),
      memory: frontend.memory,
      start: "attach",
      device: {},
      makeQueue: frontend.disk.makeQueue,
      onHalt: (why) => halts.push(why),
      onError: () => {},
    },
    {
      grants: platform.grants(),
      events: platform.events(),
      port: 1,
      onReady: () => {},
      onThrottled: () => {},
      gate: new Gate(new Activity(), DOMID),
      windows: new IdleWindows(),
    },
  );
  /** Makes passes, with so much credit each, while the ring wants some; what each has cost. */
  const run = (each: Credit): Credit[] => {
    const costs: Credit[] = [];
    while (ring.ready) {
      const credit = { ...each };
      ring.run(credit);
      costs.push({ segments: each.segments - credit.segments, bytes: each.bytes - credit.bytes });
    }
    return costs;
  };
  const ask = (operation: number, pages: number): void => {
    frontend.ask(operation, pages);
    frontend.push();
    ring.rang();
  };
  return { platform, frontend, ring, run, ask, halts };
}

const PLENTY: Credit = { segments: 1000, bytes: 1 << 30 };

function sum(costs: readonly Credit[]): Credit {
  const segments = costs.reduce((total, cost) => total + cost.segments, 0);
  return { segments, bytes: costs.reduce((total, cost) => total + cost.bytes, 0) };
}

test("reads into mapped pages cost their segments and their bytes, however often", () => {
  const { frontend, run, ask } = makeRing(true);
  for (let i = 0; i < 3; i++) {
    ask(0, 100);
    // The page with the segments is copied.
    assert.deepEqual(sum(run(PLENTY)), { segments: 100, bytes: 101 * PAGE });
    frontend.disk.end(0, Result.Success);
    run(PLENTY);
    frontend.take();
  }
});

test("a write by copy costs its copies and what goes to the disk, in one pass or in parts", () => {
  for (const credit of [PLENTY, { segments: 10, bytes: 1 << 30 }, { segments: 1000, bytes: 7 * PAGE }]) {
    const { frontend, ring, run, ask } = makeRing(false);
    for (let i = 0; i < 3; i++) {
      ask(1, 100);
      const costs = run(credit);
      assert.deepEqual(sum(costs), { segments: 101, bytes: 201 * PAGE });
      const most = Math.min(credit.segments, credit.bytes / PAGE);
      assert.ok(costs.every(({ segments }) => segments <= most));
      frontend.disk.end(0, Result.Success);
      run(credit);
      frontend.take();
      assert.equal(frontend.answered, i + 1);
      assert.ok(ring.wasRung);
    }
  }
});

test("a read by copy costs what goes to the guest, in parts", () => {
  const { frontend, run, ask } = makeRing(false);
  ask(0, 100);
  assert.deepEqual(sum(run(PLENTY)), { segments: 100, bytes: 101 * PAGE });
  frontend.disk.end(0, Result.Success);
  const costs = run({ segments: 10, bytes: 1 << 30 });
  assert.deepEqual(sum(costs), { segments: 100, bytes: 100 * PAGE });
  assert.equal(costs.length, 10);
  frontend.take();
});

test("an event is answered when the pass for it has ended, and not before", () => {
  const { ring, ask } = makeRing(false);
  ask(1, 50);
  for (let copied = 0; copied < 51; copied += 10) {
    assert.equal(ring.wasRung && copied > 0, false);
    ring.run({ segments: 10, bytes: 1 << 30 });
  }
  assert.ok(ring.wasRung);
});

test("a guest that asks for an event too late, and rings, is told of its response", () => {
  const { ring, frontend, run, ask } = makeRing(false);
  // It has asked for an event at the first response, and for none at the second.
  for (const rung of [true, false]) {
    frontend.rung = false;
    ask(1, 1);
    run(PLENTY);
    frontend.disk.end(0, Result.Success);
    run(PLENTY);
    ring.answerEvent();
    assert.equal(frontend.rung, rung);
  }
  const { u32 } = frontend.memory;
  u32[abi.SRING_RSP_EVENT >> 2] = u32[abi.SRING_RSP_PROD >> 2];
  ring.rang();
  run(PLENTY);
  assert.ok(!frontend.rung);
  ring.answerEvent();
  assert.ok(frontend.rung);
});

test("whoever ends a pass leaves its event to be answered", () => {
  const others: [string, (ring: Ring) => void][] = [
    ["resize", (ring) => ring.resize(SECTORS)],
    ["observe", (ring) => ring.observe(new Watcher(false))],
    ["throttle", (ring) => ring.setThrottle(null)],
    ["trim", (ring) => ring.trim(1)],
  ];
  for (const [name, other] of others) {
    const { ring, frontend, platform, run, ask } = makeRing(true);
    // A page that is mapped, so that there is something to trim.
    ask(0, 1);
    run(PLENTY);
    frontend.disk.end(0, Result.Success);
    run(PLENTY);
    frontend.take();
    ring.answerEvent();
    // No other page can be mapped: those of a write are copied.
    platform.mapFails = () => true;
    ask(1, 50);
    ring.run({ segments: 10, bytes: 1 << 30 });
    assert.ok(!ring.wasRung, name);
    other(ring);
    assert.ok(ring.ready && ring.wasRung, name);
    assert.equal(frontend.disk.underway.length, 1, name);
  }
});

test("a throttle that comes in the midst of a pass is charged with nothing that was before", () => {
  const { ring, frontend, run, ask } = makeRing(false);
  for (let i = 0; i < 5; i++) {
    ask(1, 50);
    run(PLENTY);
    frontend.disk.end(0, Result.Success);
    run(PLENTY);
    frontend.take();
  }
  ask(1, 50);
  ring.run({ segments: 10, bytes: 1 << 30 });
  const throttle = new Throttle();
  throttle.set({ iops: 0, bps: 4096, burst: 1 }, false);
  ring.setThrottle(throttle);
  run(PLENTY);
  assert.equal(throttle.wait(), 0);
  frontend.disk.end(0, Result.Success);
  run(PLENTY);
});

test("a ring that fails in a pass that is ended for others is left alone", () => {
  const { ring, frontend, platform, run, ask, halts } = makeRing(true);
  ask(0, 100);
  run(PLENTY);
  frontend.disk.end(0, Result.Success);
  run(PLENTY);
  frontend.take();
  ring.trim(0);
  platform.mapFails = () => true;
  ask(1, 50);
  ring.run({ segments: 10, bytes: 1 << 30 });
  platform.copyThrows = () => true;
  // By now the pages have been idle for a minute.
  ring.trim(600);
  assert.deepEqual(halts, ["the ring failed: the kernel refuses"]);
  assert.equal(frontend.mapped.size, 100, "no page of it was dropped");
  assert.throws(() => ring.observe(new Watcher(true)), /^Error: the ring has failed$/);
});

test("a ring that has failed is detached when its I/Os have ended, and not before", async () => {
  const { ring, frontend, platform, run, ask } = makeRing(false);
  ask(0, 5);
  run(PLENTY);
  platform.copyThrows = () => true;
  ask(1, 5);
  run(PLENTY);
  let detached = false;
  const detaching = ring.detach().then(() => {
    detached = true;
  });
  run(PLENTY);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(detached, false);
  frontend.disk.end(0, Result.Success);
  run(PLENTY);
  await detaching;
});
