import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { aimsOf } from "../../bench/plane/aims.js";
import type { Report } from "../../bench/plane/report.js";
import { rowResult } from "../../bench/plane/results.js";
import { rows } from "../../bench/plane/rows.js";
import type { Sample } from "../../bench/plane/sample.js";
import { absent } from "../support/programs.js";
import { assertDocumented, bench, skip, workplace } from "./support.js";

const LIMIT = { timeout: 300_000 };
const noPrograms = skip || absent("qemu-storage-daemon", "qemu-img", "qemu-nbd", "gcc");

for (const disk of ["qcow2", "overlay"]) {
  test(`${disk}: xbdback and the plain client use one server, and are compared`, {
    ...LIMIT,
    skip: noPrograms,
  }, (t) => {
    const directory = workplace(t);
    const places = ["--directory", directory, "--output", join(directory, "results")];
    const sizes = ["--seconds", "0.1", "--repeats", "2", "--size", "4M"];
    const { status, stdout, stderr } = bench(
      "--json",
      ...sizes,
      ...places,
      `images/${disk}/randwrite/4k/qd32`,
    );
    assert.equal(status, 0, stderr);
    assert.deepEqual(readdirSync(directory), ["results"], "the images are gone");
    const report = JSON.parse(stdout) as Report;
    const [{ contestants, compared }] = report.rows;
    for (const name of ["xbdback", "vhost"]) {
      const { iops, latency, serverCpu } = contestants[name];
      assert.ok(iops.min > 0 && latency.p50 <= latency.p999 && Number.isFinite(serverCpu!.max), name);
    }
    assert.ok(compared["vhost"].ratio.min > 0);
    assert.ok(report.aims.some(({ what, atLeast }) => what === "IOPS to vhost's" && atLeast === 0.8));
    assertDocumented(report);
  });
}

test("the memory of idle images and their helpers", {
  ...LIMIT,
  skip: noPrograms,
}, (t) => {
  const directory = workplace(t);
  const places = ["--directory", directory, "--output", join(directory, "results")];
  const { status, stdout, stderr } = bench("--json", ...places, "images/idle/overlay");
  assert.equal(status, 0, stderr);
  assert.deepEqual(readdirSync(directory), ["results"], "the images are gone");
  const report = JSON.parse(stdout) as Report;
  const [{ memoryPerVbd }] = report.idle;
  assert.ok(memoryPerVbd.helper > 0 && memoryPerVbd.daemon > 0);
  assert.equal(report.aims.length, 1);
  assertDocumented(report);
});

function sample(iops: number, p50: number): Sample {
  const latency = { mean: p50, p50, p90: p50, p99: p50, p999: p50, max: p50 };
  return { iops, latency, clientCpu: 1, serverCpu: 1 };
}

function resultOf(name: string, samples: Record<string, Sample[]>) {
  const row = rows().find((one) => one.name === name)!;
  return rowResult({ row, samples: new Map(Object.entries(samples)), syscalls: null, left: {} });
}

test("ratios are those of a repeat; four queues are an aim where there are CPUs for them", () => {
  const deep = resultOf("images/qcow2/randread/4k/qd32", {
    xbdback: [sample(80, 5), sample(300, 5)],
    vhost: [sample(100, 5), sample(200, 5)],
  });
  assert.deepEqual([deep.compared["vhost"].ratio.min, deep.compared["vhost"].ratio.max], [0.8, 1.5]);
  const pinned = resultOf("images/raw/randread/4k/qd1", {
    xbdback: [sample(1, 31_000)],
    vhost: [sample(1, 5_000)],
  });
  assert.deepEqual(
    aimsOf({ rows: [pinned] }).map(({ value, atMost, reached }) => [value, atMost, reached]),
    [[26, 25, false]],
  );
  const name = "images/qcow2/randread/4k/qd128";
  const queues = [
    resultOf(name, { xbdback: [sample(100, 1)] }),
    resultOf(`${name}/4queues`, { xbdback: [sample(140, 1)] }),
  ];
  assert.deepEqual(aimsOf({ rows: queues, cores: 4 }), []);
  assert.deepEqual(
    aimsOf({ rows: queues, cores: 8 }).map(({ value, reached }) => [value, reached]),
    [[1.4, true]],
  );
});
