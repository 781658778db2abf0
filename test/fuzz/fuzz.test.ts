/** A slice of `npm run fuzz`, and the proof that it would find something. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fuzz } from "../../fuzz/fuzz.js";
import { execute, sessionOf } from "../../fuzz/run.js";
import { shrink } from "../../fuzz/shrink.js";
import { decodeSession } from "../../host/session/index.js";
import { BUGS, compileCore, withBug } from "./planted.js";

const SEED = 20260101;

test("three seconds of fuzzing find nothing", { timeout: 60000 }, async () => {
  const { executions, requests, finding } = await fuzz(SEED, 3);
  assert.equal(finding, null, `execution ${finding?.number} of seed ${SEED}: ${finding?.what}`);
  assert.ok(executions > 20 && requests > executions, `${executions} executions of ${requests} requests`);
});

test("an execution depends on nothing but its seed and number", () => {
  for (let n = 0; n < 20; n++) assert.deepEqual(sessionOf(SEED, n), sessionOf(SEED, n));
  assert.notDeepEqual(sessionOf(SEED, 0), sessionOf(SEED + 1, 0));
});

for (const bug of BUGS) {
  test(`the fuzzer finds, within seconds: ${bug.name}`, { timeout: 120000 }, async () => {
    await withBug(bug, async (root) => {
      const module = compileCore(root);
      const { finding } = await fuzz(SEED, 30, module);
      assert.ok(finding, "nothing was found");
      // The session that it hands out shows the same, and has little else in it.
      assert.ok(execute(finding.session, module).finding);
      assert.equal(execute(finding.session).finding, null, "the right core fails, too");
      const { records } = decodeSession(finding.session);
      assert.ok(records.length <= 20, `${records.length} records are left`);
    });
  });
}

test("a core that does not return is a finding", { timeout: 120000 }, async () => {
  const bug = {
    name: "an endless loop",
    file: "complete.ts",
    from: "  respond(request);",
    to: "  while (request.id != 0) respond(request);",
  };
  await withBug(bug, async (root) => {
    const { finding } = await fuzz(SEED, 60, compileCore(root), 3000);
    assert.equal(finding?.what, "an execution does not end");
  });
});

test("shrinking leaves out what is not needed", () => {
  const bytes = sessionOf(SEED, 3);
  const pushes = (b: Uint8Array): number =>
    decodeSession(b).records.filter(({ kind }) => kind === "push").length;
  assert.ok(pushes(bytes) > 0);
  const small = shrink(bytes, (b) => (pushes(b) > 0 ? "has a push" : null), 5000);
  assert.deepEqual(decodeSession(small).records, [{ kind: "push" }]);
});
