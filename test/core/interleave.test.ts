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

/** Starts from which `total` requests meet the point where indices wrap around: at each of their steps in a full run. */
function wraps(total: number): number[] {
  const all = Array.from({ length: total + 2 }, (_, i) => (0x100000000 - total - 1 + i) >>> 0);
  return process.env["XBDBACK_TEST"] === "full" ? [0x1000, 0x7fffffff, ...all] : [0x1000, all[total >> 1]];
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

for (const { window, total, batch } of SHAPES) {
  for (const polls of [false, true]) {
    const how = polls ? ", a host that polls" : "";
    test(`OpenBSD's order, ${total} requests, ${window} at once, batches of ${batch}${how}: no wake-up is lost`, {
      timeout: 300_000,
    }, () => {
      const plan: Plan = { window, total, batch, polls, frontend: "xbf", start: 0xffffffff };
      const { extra } = new Explorer(core, plan).explore();
      assert.ok(extra > 0, "it needs the notification that idle() asks for");
      assert.throws(() => new Explorer(core, { ...plan, callsIdle: false }).explore(), /both sides sleep/);
    });
  }
}

test("a frontend that looks once more before it sleeps is not woken by idle(), whether the host polls or not", () => {
  const plan: Plan = { window: 2, total: 3, batch: 1, polls: true, start: 0x1000 };
  new Explorer(core, plan).explore();
});

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
  {
    name: "idle() wakes a frontend that waits for a response to come",
    file: "ring.ts",
    from: "  if (rspPublished - event >= entries) return false;\n",
    to: "",
    polls: true,
  },
  {
    name: "idle() answers for one rsp_event again and again",
    file: "ring.ts",
    from: "  if (event == rspEventSeen) return false;\n  rspEventSeen = event;\n",
    to: "",
    polls: true,
  },
];

for (const bug of BUGS) {
  test(`the search finds it: ${bug.name}`, { timeout: 300_000 }, async () => {
    await withBug(bug, async (root) => {
      const broken = instrument(compileCoreBytes(root));
      const plan: Plan = { window: 2, total: 3, batch: 64, start: 0x1000, polls: bug.polls === true };
      assert.throws(() => new Explorer(broken, plan).explore(), Lost);
    });
  });
}
