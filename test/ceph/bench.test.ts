/** `npm run bench -- ceph`: xbdback beside fio's own client of Ceph, on one cluster. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Report } from "../../bench/plane/report.js";
import { bench, skip, workplace } from "../bench/support.js";
import { noCeph } from "./cluster.js";

test("a disk in Ceph is measured beside fio's rbd engine", {
  skip: skip || noCeph(),
  timeout: 300_000,
}, (t) => {
  const directory = workplace(t);
  const places = ["--directory", directory, "--output", join(directory, "results")];
  const sizes = ["--seconds", "0.2", "--repeats", "2", "--size", "8M"];
  const { status, stdout, stderr } = bench("--json", ...sizes, ...places, "ceph/randwrite/4k/qd32");
  assert.equal(status, 0, stderr);
  assert.deepEqual(readdirSync(directory), ["results"], "nothing is left");
  const [{ compared, contestants }] = (JSON.parse(stdout) as Report).rows;
  assert.ok(contestants["xbdback"].iops.min > 0);
  assert.ok(compared["fio-rbd"].ratio.min > 0);
});
