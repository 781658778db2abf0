import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Report } from "../../bench/plane/report.js";
import { bestLoad, scaleResult } from "../../bench/plane/results.js";
import { rows, sameSetup } from "../../bench/plane/rows.js";
import { assertDocumented, bench, program, skip, workplace } from "./support.js";

test("one tiny row gives a report as documented", { skip, timeout: 300_000 }, (t) => {
  const directory = workplace(t);
  const output = join(directory, "results");
  const sizes = ["--seconds", "0.1", "--repeats", "2", "--size", "4M"];
  const places = ["--directory", directory, "--output", output];
  const { status, stdout, stderr } = bench("--json", ...sizes, ...places, "warm/randread/4k/qd32");
  assert.equal(status, 0, stderr);
  const report = JSON.parse(stdout) as Report;
  assert.deepEqual(JSON.parse(readFileSync(join(output, "bench.json"), "utf8")), report);
  assert.deepEqual(readdirSync(directory), ["results"], "the file that was measured on is gone");
  assert.deepEqual(
    report.rows.map(({ name }) => name),
    ["warm/randread/4k/qd32"],
  );
  const [{ contestants, left }] = report.rows;
  const { xbdback } = contestants;
  assert.ok(xbdback.iops.min <= xbdback.iops.median && xbdback.iops.median <= xbdback.iops.max);
  assert.ok(xbdback.latency.p50 <= xbdback.latency.p999);
  const { sent, received } = xbdback.notifications!;
  for (const value of [xbdback.serverCpu!.max, xbdback.clientCpu.max, sent, received])
    assert.ok(Number.isFinite(value));
  for (const name of ["fio", "fio-single", "qemu-nbd", "nbdkit"]) {
    assert.ok(contestants[name] || / is not installed \(Debian: /.test(left[name]), name);
    if (contestants[name]) assert.ok(Number.isFinite(contestants[name].clientCpu.max));
  }
  assertDocumented(report);
  const drawn = readFileSync(join(output, "bench.svg"), "utf8");
  assert.match(drawn, /^<svg .*<\/svg>\n$/s);
  const again = join(directory, "again.svg");
  assert.equal(bench("--plot", again, "--output", output).status, 0);
  assert.equal(readFileSync(again, "utf8"), drawn);
  const none = bench("--plot", again, "--output", directory);
  assert.equal(none.status, 1);
  assert.match(none.stderr, /^bench: there is no .*bench\.json: measure first/);
});

test("the daemon's answer to the hotplug script is timed", { skip, timeout: 120_000 }, (t) => {
  const directory = workplace(t);
  const { status, stdout, stderr } = bench(
    "--json",
    "--repeats",
    "1",
    "--directory",
    directory,
    "answer/raw",
  );
  assert.equal(status, 0, stderr);
  const { answers, aims } = JSON.parse(stdout) as Report;
  assert.deepEqual(
    answers.map(({ name, kind }) => [name, kind]),
    [["answer/raw", "raw"]],
  );
  const [{ answer }] = answers;
  assert.ok(answer.min > 0 && answer.min <= answer.median && answer.median <= answer.max);
  assert.deepEqual(
    aims.map(({ row, value }) => [row, value]),
    [["answer/raw", answer.median]],
  );
  assertDocumented(answers);
});

test("what is told of many disks is documented; the better of two depths counts", () => {
  const result = scaleResult("scale/8", {
    vbds: 8,
    memoryPerVbd: { rss: 2, pss: 1 },
    attach: { median: 10, max: 20 },
    loads: [
      { depth: 4, iops: [100, 300, 200], serverCpu: [1, 1, 1] },
      { depth: 16, iops: [150, 120, 130], serverCpu: [1, 1, 1] },
    ],
  });
  assertDocumented(result);
  assert.deepEqual(bestLoad(result).iops, { median: 200, min: 100, max: 300 });
});

test("an interrupted run leaves nothing in its directory", { skip, timeout: 120_000 }, async (t) => {
  const directory = workplace(t);
  const args = [program, "--size", "4M", "--directory", directory, "warm/randread/4k/qd32"];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  // What is said first is said when the directory is there.
  await Promise.race([once(child.stdout, "data"), once(child, "close")]);
  assert.equal(readdirSync(directory).length, 1);
  child.kill("SIGINT");
  assert.deepEqual(await once(child, "close"), [130, null]);
  assert.deepEqual(readdirSync(directory), []);
});

test("rows have names of their own, and neighbours share their set-up", () => {
  const names = rows().map(({ name }) => name);
  assert.equal(new Set(names).size, names.length);
  const changes = rows().filter((row, i, all) => i === 0 || !sameSetup(row, all[i - 1]));
  for (const row of changes)
    assert.deepEqual(
      changes.filter((other) => sameSetup(other, row)),
      [row],
    );
});

test("usage errors are told in one line", () => {
  for (const [args, words] of [
    [["no-such-row"], /^bench: no row has all of these parts/],
    [["--seconds", "x"], /^bench: --seconds is a number above 0/],
    [["--size", "5"], /^bench: --size is a size in whole MiB/],
    [["--fast"], /^bench: Unknown option '--fast'/],
    [["--directory", "/dev/shm", "warm"], /^bench: \/dev\/shm is on tmpfs/],
  ] as const) {
    const { status, stderr } = bench(...args);
    assert.equal(status, 2, stderr);
    assert.match(stderr, words);
  }
});
