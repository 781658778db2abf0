/** What recover() refuses, and what it goes on with. Moments of death are in crash.test.ts. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { BlkifCore } from "../../host/core/blkif.js";
import { coreModule } from "../../host/core/load.js";
import { Guest, OKAY, READ, WRITE } from "./guest.js";
import { ALL_FEATURES, Harness, type HarnessOptions } from "./harness.js";
import type { WireRequest } from "./wire.js";

/** The process of a harness's core is dead, and another one is there. */
function succeed(h: Harness, config = h.config): number {
  h.underway.length = 0;
  for (const gref of h.mapped.values()) h.pages.set(gref, h.guestPage(gref).slice());
  h.mapped.clear();
  const core = new BlkifCore(coreModule(), h.memory);
  Object.assign(h, { core });
  return core.recover(config);
}

/** Four requests in flight, on the ring's first four places. */
function inFlight(options: HarnessOptions = {}): { h: Harness; requests: WireRequest[] } {
  const h = new Harness({ sectors: 1024, ...options });
  const guest = new Guest(h);
  const requests = [0, 1, 2, 3].map((i) => guest.transfer(i % 2 ? READ : WRITE, i * 64));
  for (const request of requests) h.put(request);
  h.push();
  h.step();
  return { h, requests };
}

const entry = (slot: number, field: number): number =>
  (abi.JOURNAL_ENTRIES + slot * abi.JOURNAL_ENTRY_BYTES + field) >> 2;

const REFUSED: { name: string; spoil: (u32: Uint32Array) => void; code?: number }[] = [
  { name: "no magic", spoil: (u32) => void (u32[abi.JOURNAL_MAGIC >> 2] ^= 1) },
  { name: "a newer format", spoil: (u32) => void u32[abi.JOURNAL_FORMAT >> 2]++ },
  { name: "a bit that fell over in the header", spoil: (u32) => void (u32[abi.JOURNAL_FEATURES >> 2] ^= 4) },
  { name: "another ring's identity", spoil: (u32) => void (u32[abi.JOURNAL_IDENTITY >> 2] ^= 1) },
  { name: "a state that there is not", spoil: (u32) => void (u32[entry(0, abi.JOURNAL_STATE)] = 3) },
  { name: "a request from the future", spoil: (u32) => void (u32[entry(0, abi.JOURNAL_INDEX)] = 5) },
  {
    name: "two requests in one place",
    spoil: (u32) => void (u32[entry(0, abi.JOURNAL_INDEX)] = u32[entry(1, abi.JOURNAL_INDEX)]),
  },
  { name: "a request that is lost", spoil: (u32) => void (u32[entry(0, abi.JOURNAL_STATE)] = 0) },
  { name: "a request too many", spoil: (u32) => void (u32[entry(9, abi.JOURNAL_STATE)] = abi.JOURNAL_BUSY) },
  {
    name: "a slot that a ring of this size has not",
    spoil: (u32) => void (u32[entry(32, abi.JOURNAL_STATE)] = abi.JOURNAL_BUSY),
  },
  { name: "a guest that has moved rsp_prod", spoil: (u32) => void u32[abi.SRING_RSP_PROD >> 2]++ },
  {
    name: "a guest that claims more than its ring holds",
    spoil: (u32) => void (u32[abi.SRING_REQ_PROD >> 2] += 40),
    code: abi.ATTACH_BAD_RING,
  },
];

for (const { name, spoil, code = abi.ATTACH_BAD_JOURNAL } of REFUSED) {
  test(`refused: ${name}`, () => {
    const { h } = inFlight();
    spoil(h.memory.u32);
    assert.equal(succeed(h), code);
    h.release();
  });
}

test("refused: the configuration of another ring", () => {
  const { h } = inFlight();
  for (const other of [{ abi: abi.ABI_X86_32 }, { ringPages: 2 }, { sectorSize: 4096 }, { domid: 8 }]) {
    assert.equal(succeed(h, { ...h.config, ...other }), abi.ATTACH_BAD_JOURNAL, Object.keys(other)[0]);
  }
  assert.equal(succeed(h, { ...h.config, ringPages: 3 }), abi.ATTACH_BAD_CONFIG);
  assert.equal(succeed(h), abi.ATTACH_OK, "refusals change nothing");
  h.release();
});

test("what was agreed goes on, whatever is offered now; but a disk that became read-only is not written", () => {
  const { h } = inFlight({ features: ALL_FEATURES | abi.FEATURE_PERSISTENT, maxIndirect: 32 });
  assert.equal(succeed(h, { ...h.config, features: abi.FEATURE_READ_ONLY, maxIndirect: 0 }), abi.ATTACH_OK);
  const now = ALL_FEATURES | abi.FEATURE_PERSISTENT | abi.FEATURE_READ_ONLY;
  assert.equal(h.memory.u32[abi.CONFIG_FEATURES >> 2], now);
  assert.equal(h.memory.u32[abi.CONFIG_MAX_INDIRECT >> 2], 32);
  h.release();
});

test("requests are executed again in the order in which they were taken, and drained where no more are to be taken", () => {
  const { h, requests } = inFlight();
  assert.equal(succeed(h, { ...h.config, batch: 0 }), abi.ATTACH_OK);
  assert.equal(h.core.inflight, 4);
  h.put(new Guest(h).transfer(READ, 512));
  h.push();
  h.step();
  assert.deepEqual(
    h.underway.map((io) => io.position / 512),
    [0, 64, 128, 192],
  );
  h.finish();
  assert.deepEqual(h.statuses(requests), [OKAY, OKAY, OKAY, OKAY]);
  assert.equal(h.core.inflight, 0);
  h.release();
});

test("what a pass has no budget for is taken up by the next ones, which are asked for", () => {
  const { h, requests } = inFlight();
  assert.equal(succeed(h, { ...h.config, passSegments: 1 }), abi.ATTACH_OK);
  for (let taken = 1; taken <= 4; taken++) {
    h.step();
    assert.equal(h.underway.length, taken);
    assert.equal(h.flags & abi.STEP_MORE, taken < 4 ? abi.STEP_MORE : 0, `${taken} taken up`);
  }
  h.finish();
  assert.deepEqual(h.statuses(requests), [OKAY, OKAY, OKAY, OKAY]);
  h.release();
});

for (const maxLarge of [abi.MAX_LARGE, 2]) {
  test(`more large requests than ${maxLarge} regions of memory wait their turn`, () => {
    const options = {
      features: ALL_FEATURES | abi.FEATURE_PERSISTENT,
      ringPages: 8,
      batch: 256,
      disk: false,
    };
    const h = new Harness({ sectors: 1 << 20, ...options });
    const guest = new Guest(h);
    const pages = guest.segments(12);
    const requests = Array.from({ length: 200 }, (_, i) => guest.indirect(READ, i * 128, pages));
    for (const request of requests) h.put(request);
    h.push();
    h.step();
    for (let round = 0; round < 200 && h.flags & abi.STEP_MORE; round++) h.step();
    assert.equal(h.core.inflight, 200, "mapped pages need no region");
    assert.equal(succeed(h, { ...h.config, batch: 0, maxLarge }), abi.ATTACH_OK);
    h.step();
    const complete = (): void => {
      for (const io of h.underway.splice(0)) h.step([{ slot: io.slot, result: 0 }]);
    };
    for (let round = 0; round < 50 && (h.underway.length > 0 || h.flags & abi.STEP_MORE); round++) {
      complete();
      if (h.flags & abi.STEP_MORE) h.step();
    }
    assert.equal(h.core.inflight, 0);
    assert.equal(h.statuses(requests).length, 200);
    h.release();
  });
}

test("a journal that format 1 has written is recovered, byte by byte", () => {
  const text = readFileSync(new URL("../../../test/core/journal-v1.md", import.meta.url), "utf8");
  const h = new Harness({ sectors: 1024 });
  const { u8, u32 } = h.memory;
  u8.fill(0, abi.JOURNAL, abi.JOURNAL_END);
  for (const [, at, hex] of text.matchAll(/^ {4}([0-9a-f]{5}): ((?: ?[0-9a-f]{2})+)$/gm)) {
    u8.set(Buffer.from(hex.replaceAll(" ", ""), "hex"), abi.JOURNAL + Number.parseInt(at, 16));
  }
  // As the document says: requests 256 to 259 taken, the response of 258 published, that of 256 written.
  h.restart(256);
  u32[abi.SRING_REQ_PROD >> 2] = 260;
  u32[abi.SRING_RSP_PROD >> 2] = 257;
  for (const gref of [21, 22, 23, 24]) h.page(gref).fill(gref);
  assert.equal(succeed(h), abi.ATTACH_OK);
  h.step();
  const ios = h.underway.map(({ operation, position, length }) => [operation, position, length]);
  assert.deepEqual(ios, [
    [abi.IO_WRITE, 8 * 512, 4096],
    [abi.IO_READ, 16 * 512, 4096],
    [abi.IO_DISCARD, 64 * 512, 4096],
  ]);
  h.finish();
  assert.equal(u32[abi.SRING_RSP_PROD >> 2], 260);
  assert.ok(h.disk.subarray(4096, 8192).every((byte) => byte === 21));
  h.release();
});
