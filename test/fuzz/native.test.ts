/** A slice of `npm run fuzz:native`, and the proof that it would find something. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { buildNative, missingTools } from "../../fuzz/native/build.js";
import { fuzzNative, seedCorpus } from "../../fuzz/native/fuzz.js";
import { BUGS, withBug } from "./planted.js";

const SEED = 20260101;
const missing = missingTools();
const skip = missing ?? false;

test("three seconds of native fuzzing find nothing", { skip, timeout: 240000 }, async () => {
  const scratch = mkdtempSync(join(tmpdir(), "xbdback-native-"));
  try {
    seedCorpus(join(scratch, "corpus"), SEED);
    const program = buildNative("fuzzer");
    const report = await fuzzNative(program, join(scratch, "corpus"), scratch, 3, SEED);
    assert.equal(report.finding, null, report.finding?.what);
    assert.ok(report.executions > 100, `${report.executions} executions`);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
});

test(`native fuzzing finds, within seconds: ${BUGS[0].name}`, { skip, timeout: 240000 }, async () => {
  await withBug(BUGS[0], async (root) => {
    const corpus = join(root, "corpus");
    seedCorpus(corpus, SEED);
    const report = await fuzzNative(buildNative("fuzzer", root), corpus, join(root, "findings"), 30, SEED);
    assert.match(report.finding?.what ?? "nothing", /violation 12/);
    assert.ok(existsSync(report.finding?.file ?? ""), "no file with the input");
  });
});
