/** stats, limit, pause and unpause, with a guest that works as fast as it may. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Rates } from "../../host/cli/rates.js";
import type { VbdStatus } from "../../host/vbd/status.js";
import { eventually } from "../e2e/harness.js";
import { LIMIT, pause, World } from "./world.js";

interface Totals {
  readonly vbds: Pick<VbdStatus, "counters" | "latency">[];
}

for (const [queues, engine] of [
  ["1", "auto"],
  ["4", "libuv"],
]) {
  test(`a limit holds from now on, ${queues} queues, ${engine}; and none does not`, LIMIT, async (t) => {
    const world = await World.start(t, "--engine", engine);
    (await world.run("attach", "1", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
    (await world.run("limit", "1/xvda")).expect(0).expectMatch(/^xbdback1i51712: no limits$/m);
    await world.guest(1, "--queues", queues);
    const responses = async (): Promise<number> =>
      (await world.json<Totals>("stats", "1/xvda")).vbds[0].counters.responses;

    const { limits } = await world.json("limit", "1/xvda", "--iops", "200", "--burst", "0");
    assert.deepEqual(limits, { iops: 200, bps: 0, burst: 0 });
    const start = performance.now();
    const from = await responses();
    await eventually(async () => (await responses()) > from + 300, "what the limit allows is done");
    const taken = (await responses()) - from;
    const seconds = (performance.now() - start) / 1000;
    // What was read late counts for the time in between; a slow machine may take less.
    assert.ok(taken <= 200 * (seconds + 1.5), `${taken} requests in ${seconds} s`);
    (await world.run("show", "1/xvda")).expectMatch(/^limits +200 requests\/s, bursts of 0 s$/m);

    // It would take a quarter of an hour for what is then done without it.
    (await world.run("limit", "1/xvda", "--iops", "1")).expect(0);
    const before = await responses();
    (await world.run("limit", "1/xvda", "--none")).expect(0);
    await eventually(async () => (await responses()) > before + 1000, "the limit is gone");
    (await world.run("limit", "1/xvda", "--bps", "fast")).expect(2);
    (await world.run("limit", "2/xvda", "--bps", "1M")).expect(4);
  });
}

test("a paused vbd takes nothing and loses nothing", LIMIT, async (t) => {
  const world = await World.start(t);
  (await world.run("attach", "1", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
  // So slow that it has not ended when it is paused.
  (await world.run("limit", "1/xvda", "--iops", "200")).expect(0);
  const guest = world.start("guest", "--workload", "3000");
  await guest.until(/"progress"/);
  (await world.run("pause", "1/xvda")).expect(0).expectMatch(/^xbdback1i51712: paused; /m);
  await pause(300);
  const [one] = (await world.json<Totals>("stats")).vbds;
  await pause(500);
  const [other] = (await world.json<Totals>("stats")).vbds;
  assert.deepEqual(other.counters, one.counters);
  (await world.run("show", "1/xvda")).expectMatch(
    /^status +waiting for the operator: it is paused \(`xbdback unpause`\)$/m,
  );
  (await world.run("unpause", "1/xvda")).expect(0).expectMatch(/resumed/);
  (await world.run("limit", "1/xvda", "--none")).expect(0);
  await guest.until(/"verified"/);
  (await guest.outcome()).expect(0);
});

test("stats --watch tells rates, for people and for programs", LIMIT, async (t) => {
  const world = await World.start(t);
  (await world.run("attach", "1", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
  await world.guest();
  const watched = (await world.run("stats", "--watch", "--count", "2")).expect(0);
  const row =
    /^xbdback1i51712 +1 +xvda +[0-9.]+[kM]? +[0-9.]+(?:[KMGT]i)?B +[0-9.]+(?:[KMGT]i)?B +[0-9.]+(us|ms|s) +[0-9.]+(us|ms|s) +[0-9]+ +0$/;
  assert.equal(
    watched.stdout
      .trim()
      .split("\n")
      .filter((line) => row.test(line)).length,
    2,
    watched.story,
  );
  const line = (await world.run("stats", "1/xvda", "--watch", "1", "--count", "1", "--json")).expect(
    0,
  ).stdout;
  const [rates] = (JSON.parse(line) as { vbds: Rates[] }).vbds;
  assert.ok(rates.iops > 0 && rates.latency !== null && rates.latency99 !== null);
  const [{ latency, counters }] = (await world.json<Totals>("stats", "1/xvda")).vbds;
  const counted = Object.values(latency)
    .flatMap(({ buckets }) => buckets)
    .reduce((a, b) => a + b, 0);
  assert.ok(counted > 0 && counted <= counters.ios + counters.splits, `${counted} of ${counters.ios}`);
});
