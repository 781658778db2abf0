/**
 * The notification protocol, exhaustively: for rings of one to three entries, every interleaving of the guest's accesses
 * to the shared indices with the core's, at every position of the wrap-around.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { compileCoreBytes, withBug } from "../fuzz/planted.js";
import { instrument } from "./instrument.js";
import { Explorer, Lost, type Plan } from "./interleave.js";

const core = instrument(readFileSync(new URL("../../blkif.wasm", import.meta.url)));

/** Starts from which `total` requests meet the point where indices wrap around at each of their steps, or not at all. */
function wraps(total: number): number[] {
  return [
    0x1000,
    0x7fffffff,
    ...Array.from({ length: total + 2 }, (_, i) => (0x100000000 - total - 1 + i) >>> 0),
  ];
}

const SHAPES = [
  { window: 1, total: 3, batch: 64 },
  { window: 2, total: 4, batch: 64 },
  { window: 2, total: 3, batch: 1 },
  { window: 3, total: 4, batch: 2 },
];

for (const shape of SHAPES) {
  const { window, total, batch } = shape;
  test(`${total} requests, ${window} at once, batches of ${batch}: no wake-up is lost, no notification is of nothing`, {
    timeout: 300_000,
  }, () => {
    const explored = wraps(total).map((start) => new Explorer(core, { ...shape, start }).explore());
    // The position of the wrap-around changes nothing.
    assert.equal(new Set(explored.map(({ states }) => states)).size, 1);
    assert.ok(explored[0].states > 100, `only ${explored[0].states} states`);
  });
}

const BUGS = [
  {
    name: "no second look after asking for an event",
    file: "ring.ts",
    from: "  storeShared(SRING_REQ_EVENT, <u32>taken + 1);\n  return unconsumed() != 0;",
    to: "  storeShared(SRING_REQ_EVENT, <u32>taken + 1);\n  return false;",
  },
  {
    name: "rsp_event read before rsp_prod is written",
    file: "ring.ts",
    from: "  storeShared(SRING_RSP_PROD, rspProd);",
    to: "  const event = loadShared(SRING_RSP_EVENT);\n  storeShared(SRING_RSP_PROD, rspProd);\n  rspPublished = rspProd;\n  if (event != 1) return rspProd - event < rspProd - old;",
  },
];

for (const bug of BUGS) {
  test(`the search finds it: ${bug.name}`, { timeout: 300_000 }, async () => {
    await withBug(bug, async (root) => {
      const broken = instrument(compileCoreBytes(root));
      const plan: Plan = { window: 2, total: 3, batch: 64, start: 0x1000 };
      assert.throws(() => new Explorer(broken, plan).explore(), Lost);
    });
  });
}
