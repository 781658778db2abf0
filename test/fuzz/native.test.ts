/** A slice of `npm run fuzz:native`, and the proof that it would find something. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { buildNative, missingTools } from "../../fuzz/native/build.js";
import { readState, runCampaign } from "../../fuzz/native/campaign.js";
import { fuzzNative, seedCorpus } from "../../fuzz/native/fuzz.js";
import { BUGS, withBug } from "./planted.js";

const SEED = 20260101;
const missing = missingTools();
const skip = missing ?? false;

test("three seconds of native fuzzing find nothing", { skip, timeout: 240000 }, async () => {
  const scratch = mkdtempSync(join(tmpdir(), "xbdback-native-"));
  try {
    seedCorpus(join(scratch, "corpus"), SEED);
    const program = await buildNative("fuzzer");
    const report = await fuzzNative(program, join(scratch, "corpus"), scratch, 3, SEED);
    assert.equal(report.finding, null, report.finding?.what);
    assert.ok(report.executions > 100, `${report.executions} executions`);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
});

test("a campaign goes on where it was ended, with a corpus of what counts", {
  skip,
  timeout: 240000,
}, async () => {
  const scratch = mkdtempSync(join(tmpdir(), "xbdback-campaign-"));
  try {
    const program = await buildNative("fuzzer");
    const first = await runCampaign(program, scratch, 1, SEED, 1);
    assert.equal(first.finding, null, first.finding?.what);
    const { rounds, executions, corpus } = readState(scratch);
    assert.equal(rounds, 1);
    assert.ok(executions > 100 && corpus > 20 && corpus < 600, `${executions} executions, ${corpus} inputs`);
    await runCampaign(program, scratch, executions + 1, SEED, 1);
    const after = readState(scratch);
    assert.equal(after.rounds, 2);
    assert.ok(after.executions > executions && after.coverage >= first.coverage);
    await runCampaign(program, scratch, executions, SEED, 1);
    assert.deepEqual(readState(scratch), after);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
});

test(`native fuzzing finds, within seconds: ${BUGS[0].name}`, { skip, timeout: 240000 }, async () => {
  await withBug(BUGS[0], async (root) => {
    const corpus = join(root, "corpus");
    seedCorpus(corpus, SEED);
    const report = await fuzzNative(
      await buildNative("fuzzer", root),
      corpus,
      join(root, "findings"),
      30,
      SEED,
    );
    assert.match(report.finding?.what ?? "nothing", /violation 12/);
    assert.ok(existsSync(report.finding?.file ?? ""), "no file with the input");
  });
});
