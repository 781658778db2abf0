/**
 * Rings that share a reactor, in any order of things: every request is answered once and with the right bytes, and nothing
 * stands still while there is work to do. XBDBACK_SEED=N plays the scene of one seed, XBDBACK_PROPERTY_RUNS so many.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Simulation } from "./passes/simulation.js";

const SEED = process.env["XBDBACK_SEED"];
const RUNS = Number(process.env["XBDBACK_PROPERTY_RUNS"] ?? 60);

test("whatever happens in whatever order, rings are served to the end", async () => {
  const first = SEED === undefined ? 1 : Number(SEED);
  let answered = 0;
  for (let seed = first; seed < first + (SEED === undefined ? RUNS : 1); seed++) {
    try {
      answered += await new Simulation(seed).run();
    } catch (error) {
      (error as Error).message = `XBDBACK_SEED=${seed} fails: ${(error as Error).message}`;
      throw error;
    }
  }
  assert.ok(answered > 50, `${answered} requests`);
});
