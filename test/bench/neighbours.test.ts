/** The rows of a good guest beside a neighbour. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { aimsOf } from "../../bench/plane/aims.js";
import {
  KINDS,
  type NeighbourRow,
  neighbourResult,
  neighbourRows,
  sameNeighbourSetup,
} from "../../bench/plane/neighbours.js";
import type { Report } from "../../bench/plane/report.js";
import { assertDocumented, bench, skip, workplace } from "./support.js";

const run = (iops: number, p99: number) => ({ iops, p99 });
const rowNamed = (name: string): NeighbourRow => neighbourRows().find((row) => row.name === name)!;

/** Of three repeats, in which the good guest keeps 0.75 to 1 of its fair share. */
const resultOf = (name: string) =>
  neighbourResult({
    row: rowNamed(name),
    alone: [run(100, 1), run(100, 1), run(100, 1)],
    fair: [run(80, 1), run(60, 1), run(60, 1)],
    beside: [run(60, 3), run(60, 1), run(60, 1)],
    neighbour: [1000, 1200, 1100],
    fioFair: [run(100, 1), run(100, 1), run(100, 1)],
    fioBeside: [run(50, 1), run(40, 1), run(60, 1)],
  });

test("a good guest beside a neighbour: what is told is documented, and is an aim", () => {
  const result = resultOf("neighbours/warm/io_uring/copyread");
  assertDocumented(result);
  assert.deepEqual([result.share.min, result.share.max], [0.75, 1]);
  assert.deepEqual(result.fioShare, { median: 0.5, min: 0.4, max: 0.6 });
  assert.deepEqual(
    aimsOf({ neighbours: [result] }).map(({ what, reached }) => [what, reached]),
    [
      ["of the good guest's fair share", true],
      ["its p99", true],
    ],
  );
});

test("at depth 32 the share alone is an aim; on qcow2 images nothing is", () => {
  const deep = resultOf("neighbours/direct/libuv/copyread/qd32");
  assert.equal(deep.depth, 32);
  assert.deepEqual(
    aimsOf({ neighbours: [deep] }).map(({ what }) => what),
    ["of the good guest's fair share"],
  );
  assert.deepEqual(aimsOf({ neighbours: [resultOf("neighbours/warm/qcow2/copyread")] }), []);
});

test("each kind of neighbour has a row of each cache and engine, and those of one set-up follow each other", () => {
  const rows = neighbourRows();
  assert.equal(new Set(rows.map(({ name }) => name)).size, rows.length);
  for (const cache of ["writeback", "none"])
    for (const engine of ["io_uring", "libuv"]) {
      const own = rows.filter((row) => row.cache === cache && row.engine === engine && row.disk === "file");
      const at = (depth: number) => own.filter((row) => row.depth === depth).map(({ kind }) => kind);
      assert.deepEqual([at(1), at(32)], [[...KINDS], ["copyread"]]);
    }
  const warm = rows.filter(({ disk, cache }) => disk === "qcow2" && cache === "writeback");
  assert.deepEqual(
    warm.map(({ kind }) => kind),
    [...KINDS],
  );
  const firsts = rows.filter((row, i) => i === 0 || !sameNeighbourSetup(row, rows[i - 1]));
  for (const row of firsts)
    assert.equal(firsts.filter((other) => sameNeighbourSetup(other, row)).length, 1, row.name);
});

test("rows of two depths are measured in one run, and leave nothing", { skip, timeout: 300_000 }, (t) => {
  const directory = workplace(t);
  const output = join(directory, "results");
  const args = ["--seconds", "0.1", "--repeats", "1", "--directory", directory, "--output", output];
  const { status, stdout, stderr } = bench(...args, "neighbours", "warm", "io_uring", "copyread");
  assert.equal(status, 0, stderr);
  const report = JSON.parse(readFileSync(join(output, "bench.json"), "utf8")) as Report;
  assertDocumented(report);
  const names = ["neighbours/warm/io_uring/copyread", "neighbours/warm/io_uring/copyread/qd32"];
  assert.deepEqual(
    report.neighbours.map(({ name }) => name),
    names,
  );
  for (const { name, aloneIops, share, besideP99, neighbourRate } of report.neighbours) {
    for (const { median } of [aloneIops, share, besideP99, neighbourRate]) assert.ok(median > 0, name);
    assert.ok(stdout.includes(`\n${name}\n  alone `), stdout);
  }
  assert.match(stdout, /of its fair share/);
  assert.match(stdout, /^ {2}fio in its place: [0-9.]+ of its own fair share/m);
  assert.deepEqual(readdirSync(directory), ["results"]);
});
