/** What outlives a daemon of what its operator has said, and caps that he has set. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { VbdStatus } from "../../host/vbd/status.js";
import { eventually } from "../e2e/harness.js";
import { LIMIT, MIB, pause, World } from "./world.js";

async function status(world: World, id = "1/xvda"): Promise<VbdStatus> {
  return (await world.json<{ vbd: VbdStatus }>("show", id)).vbd;
}

test("limits and a pause outlive the daemon, and end with the disk", LIMIT, async (t) => {
  const world = await World.start(t);
  const specification = `${world.image("disk.img")},raw,xvda,rw`;
  (await world.run("attach", "1", specification)).expect(0);
  const guest = await world.guest();
  (await world.run("limit", "1/xvda", "--iops", "100", "--bps", "5M", "--burst", "0.5")).expect(0);
  (await world.run("pause", "1/xvda")).expect(0);
  await eventually(async () => (await status(world)).inflight === 0, "what is in flight ends");

  world.daemon.process.kill("SIGKILL");
  await world.daemon.ended;
  await world.serveAgain();
  await eventually(() => /taken over/.test(world.daemon.stderr), "the guest is taken over");
  const taken = await status(world);
  assert.deepEqual([taken.limits, taken.paused], [{ iops: 100, bps: 5 * MIB, burst: 0.5 }, true]);
  // Nothing was in flight, and nothing is taken: not even at first.
  const before = 0;
  await pause(500);
  assert.equal((await status(world)).counters.responses, before, "it is not paused");
  (await world.run("unpause", "1/xvda")).expect(0);
  await eventually(async () => (await status(world)).counters.responses > before, "it goes on");
  const from = (await status(world)).counters.responses;
  const start = performance.now();
  await pause(2000);
  const taken2 = (await status(world)).counters.responses - from;
  assert.ok(taken2 <= 100 * ((performance.now() - start) / 1000 + 2), `${taken2} requests are no limit`);

  guest.process.kill("SIGTERM");
  await guest.outcome();
  (await world.run("detach", "1/xvda")).expect(0);
  await eventually(async () => (await world.run("show", "1/xvda")).status === 4, "it is gone");
  (await world.run("attach", "1", specification)).expect(0);
  const { limits, paused } = await status(world);
  assert.deepEqual([limits, paused], [{ iops: 0, bps: 0, burst: 1 }, false]);
});

test("what a guest has taken before its daemon ended is not charged to the next one", LIMIT, async (t) => {
  const world = await World.start(t);
  (await world.run("attach", "1", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
  await world.guest();
  // At the limit to come, some minutes' worth.
  await eventually(async () => (await status(world)).counters.responses > 4000, "it works");
  (await world.run("limit", "1/xvda", "--iops", "20")).expect(0);
  world.daemon.process.kill("SIGKILL");
  await world.daemon.ended;
  await world.serveAgain();
  await eventually(() => /taken over/.test(world.daemon.stderr), "the guest is taken over");
  const from = (await status(world)).counters.responses;
  await eventually(async () => (await status(world)).counters.responses > from + 60, "it goes on");
});

test("a ring beyond a guest's cap is refused with the remedy, once, and only that", LIMIT, async (t) => {
  const world = await World.start(t, "--max-grants", "3");
  (await world.run("attach", "1", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
  (await world.run("attach", "2", `${world.image("other.img")},raw,xvda,rw`)).expect(0);
  const guest = world.start("guest", "--ring-page-order", "2", "--workload", "10");
  (await guest.outcome()).expect(1);
  const { error, state } = await status(world);
  assert.match(
    error ?? "",
    /^domain 1 has 0 of the 3 pages that may be mapped from it, and a ring needs 4: .*grants$/,
  );
  assert.ok(state >= 5);
  await pause(2500);
  const lines = world.daemon.stderr.split("\n").filter((line) => line.includes("max-grants"));
  assert.equal(lines.length, 1, world.daemon.stderr);
  await world.guest(2);
  assert.equal((await status(world, "2/xvda")).state, 4);
  // A ring of one page fits, with two persistent grants.
  (await world.start("guest", "--workload", "200").outcome()).expect(0);
});
