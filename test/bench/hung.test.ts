/** The rows of a good guest beside one whose storage hangs. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { aimsOf } from "../../bench/plane/aims.js";
import { HUNG, hungResult, hungRows } from "../../bench/plane/hung.js";
import { whyNot } from "../../bench/plane/hung-storage.js";
import type { Report } from "../../bench/plane/report.js";
import { eventually } from "../e2e/harness.js";
import { absent } from "../support/programs.js";
import { assertDocumented, bench, program, skip, workplace } from "./support.js";

const NO_DAEMON = absent("qemu-storage-daemon") || skip;

test("what is told of hung storage is documented; the slowest command of all repeats is an aim", () => {
  const run = (iops: number, p99: number) => ({ iops, p99 });
  const result = hungResult({
    row: hungRows()[0],
    alone: [run(100, 1), run(100, 1), run(100, 1)],
    fair: [run(50, 1), run(50, 1), run(50, 1)],
    beside: [run(50, 1), run(45, 3), run(30, 1)],
    commands: { list: [1, 2, 3], show: [4, 1001, 5], attach: [7, 8, 9], detach: [6, 6, 6] },
  });
  assertDocumented(result);
  assert.deepEqual(
    aimsOf({ hung: [result] }).map(({ what, value, reached }) => [what, value, reached]),
    [
      ["of the good guest's fair share", 0.9, true],
      ["its p99", 1, true],
      ["the slowest command", 1001, false],
    ],
  );
  assert.deepEqual(
    hungRows().map(({ kind }) => kind),
    [...HUNG],
  );
});

test("a kind whose program is not installed is left out with the reason", () => {
  const missing = new Map([["qemu-nbd", "qemu-nbd is not installed"]]);
  assert.equal(whyNot("nbd", missing), "qemu-nbd is not installed");
  assert.equal(whyNot("qcow2", missing), null);
  assert.equal(whyNot("vhost-user", missing), null);
});

test("beside a file system that hangs: figures, times of commands, and nothing is left", {
  skip: NO_DAEMON || (existsSync("/dev/fuse") ? false : "there is no /dev/fuse"),
  timeout: 300_000,
}, (t) => {
  const directory = workplace(t);
  const output = join(directory, "results");
  const args = ["--seconds", "0.1", "--repeats", "1", "--directory", directory, "--output", output];
  const { status, stdout, stderr } = bench(...args, "neighbours/hung/fuse");
  assert.equal(status, 0, stderr);
  const report = JSON.parse(readFileSync(join(output, "bench.json"), "utf8")) as Report;
  assertDocumented(report);
  const [row] = report.hung;
  if (report.left["neighbours/hung/fuse"]) assert.match(stdout, /left out: mounting FUSE needs root, or /);
  else {
    assert.ok(row.share.median > 0 && row.besideP99.median > 0);
    for (const { median } of Object.values(row.commands)) assert.ok(median > 0);
    assert.match(stdout, /in ms: list [0-9,]+, show [0-9,]+, attach [0-9,]+, detach [0-9,]+$/m);
    assert.match(readFileSync(join(output, "bench.svg"), "utf8"), />hung storage: fuse</);
  }
  assert.deepEqual(readdirSync(directory), ["results"]);
});

/** Processes whose command line has the text. */
function processesWith(text: string): number[] {
  const pids = readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name));
  return pids.map(Number).filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(text);
    } catch {
      return false;
    }
  });
}

const isStopped = (pid: number): boolean =>
  existsSync(`/proc/${pid}`) && /^State:\tT/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));

test("interrupted while storage hangs, it leaves no process, no mount and no file", {
  skip: NO_DAEMON || (process.getuid?.() === 0 ? false : "mounting FUSE needs root here"),
  timeout: 300_000,
}, async (t) => {
  const directory = workplace(t);
  const args = [program, "--seconds", "1", "--repeats", "9", "--directory", directory];
  const child = spawn(process.execPath, [...args, "neighbours/hung/fuse"], { stdio: "ignore" });
  const closed = once(child, "close");
  t.after(() => child.kill("SIGKILL"));
  await eventually(() => processesWith(directory).some(isStopped), "its server is stopped");
  child.kill("SIGINT");
  assert.deepEqual(await closed, [130, null]);
  assert.deepEqual(readdirSync(directory), []);
  await eventually(() => processesWith(directory).length === 0, "its processes have ended");
});
