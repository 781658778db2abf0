/**
 * The core against the oracle: whatever a guest does, every request is answered once, with the status and the
 * effect that it would have had alone, in ring order; coalescing and concurrency cannot be seen.
 */
import { test } from "node:test";
import fc from "fast-check";
import { scenario } from "./scenario.js";
import { Session } from "./session.js";

const RUNS = Number(process.env["XBDBACK_PROPERTY_RUNS"] ?? 1500);

test("any session ends as the oracle says", () => {
  fc.assert(
    fc.property(scenario, (s) => {
      new Session(s).play(s.moves);
    }),
    { numRuns: RUNS },
  );
});
