/**
 * The core against the oracle: whatever a guest does, every request is answered once, with the status and the
 * effect that it would have had alone, in ring order; coalescing and concurrency cannot be seen.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { compileCore, withBug } from "../fuzz/planted.js";
import { counterexample, replay } from "./counterexample.js";
import { type Scenario, scenario } from "./scenario.js";
import { Session } from "./session.js";

const RUNS = Number(process.env["XBDBACK_PROPERTY_RUNS"] ?? 1500);

/** The smallest scenario found that does not end as the oracle says, and fast-check's words about it. */
function search(numRuns: number, module?: WebAssembly.Module): { found: Scenario; report: string } | null {
  const property = fc.property(scenario, (s) => {
    new Session(s, module).play(s.moves);
  });
  const details = fc.check(property, { numRuns });
  if (!details.counterexample) return null;
  return { found: details.counterexample[0], report: fc.defaultReportMessage(details) };
}

test("any session ends as the oracle says", () => {
  const failure = search(RUNS);
  if (!failure) return;
  const vector = counterexample(failure.found) ?? "(it does not fail again)";
  assert.fail(`${failure.report}\n\nAs a vector, for a document of test/vectors: ${vector}`);
});

// Such as can be seen in responses: a vector has no data.
const BUGS = [
  {
    name: "no check against the size of the disk",
    file: "decode.ts",
    from: "request.sectors > size - request.sector",
    to: "false",
  },
  {
    name: "a read-only disk that can be written",
    file: "decode.ts",
    from: "request.operation != BLKIF_OP_READ && features & FEATURE_READ_ONLY",
    to: "false",
  },
];

for (const bug of BUGS) {
  test(`a failure prints a vector that replays it: ${bug.name}`, { timeout: 300000 }, async () => {
    await withBug(bug, async (root) => {
      const module = compileCore(root);
      let vector: string | null = null;
      // Of some of the sessions in which the bug shows, the responses are right, and only the I/O is wrong.
      for (let tries = 0; tries < 5 && (vector === null || /and passes/.test(vector)); tries++) {
        const failure = search(5000, module);
        assert.ok(failure, "the bug was not found");
        vector = counterexample(failure.found, module);
      }
      assert.ok(vector);
      assert.match(vector, /^## A counterexample$/m);
      assert.doesNotMatch(vector, /and passes/);
      // It fails where the bug is, and passes where it is not.
      assert.match(replay(vector, module) ?? "", /\+ {3}|\+ id|expected|I\/O/);
      assert.equal(replay(vector), null);
    });
  });
}
