/** What a device that fails, and a host that errs, does to whom. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import type { CoreIo } from "../../host/core/blkif.js";
import { BARRIER, EOPNOTSUPP, ERROR, FLUSH, Guest, OKAY, READ, short, WRITE } from "./guest.js";
import { ALL_FEATURES, Harness } from "./harness.js";
import type { WireRequest } from "./wire.js";

/** Fails every I/O that touches the sector. */
const badSector = (sector: number) => (io: CoreIo) =>
  io.position <= sector * 512 && sector * 512 < io.position + io.length ? abi.IO_RESULT_FAILURE : 0;

for (const features of [ALL_FEATURES, ALL_FEATURES | abi.FEATURE_PERSISTENT]) {
  for (const operation of [READ, WRITE]) {
    for (let bad = 0; bad < 4; bad++) {
      const way = features === ALL_FEATURES ? "copied" : "mapped";
      test(`a bad sector under request ${bad} of four merged ${way} ${"RW"[operation]} fails that one only`, () => {
        const h = new Harness({ features });
        const guest = new Guest(h);
        h.disk.fill(0x77);
        const requests = [0, 8, 16, 24].map((sector) => guest.transfer(operation, sector));
        for (const request of requests) h.put(request);
        h.push();
        h.step();
        h.finish(() => 0, badSector(bad * 8 + 3));
        assert.deepEqual(h.ios.map(short), [
          `${"RW"[operation]}0+32`,
          ...[0, 8, 16, 24].map((sector) => `${"RW"[operation]}${sector}+8`),
        ]);
        assert.deepEqual(
          h.statuses(requests),
          requests.map((_, i) => (i === bad ? ERROR : OKAY)),
        );
        requests.forEach(({ segments }, i) => {
          if (i === bad) return;
          const [{ gref }] = segments ?? [];
          const page = Buffer.from(h.guestPage(gref));
          assert.deepEqual(page, Buffer.from(h.disk.subarray(i * 4096, i * 4096 + 4096)));
          assert.equal(page[0], operation === READ ? 0x77 : gref & 0xff);
        });
        const { splits, ioErrors, ios, merged } = h.core.counters();
        assert.deepEqual({ splits, ioErrors, ios, merged }, { splits: 1, ioErrors: 1, ios: 5, merged: 3 });
        h.release();
      });
    }
  }
}

test("what waits for a merged write that fails waits for its own part of it to be done again", () => {
  const h = new Harness();
  const guest = new Guest(h);
  const requests = [guest.transfer(WRITE, 0), guest.transfer(WRITE, 8), guest.transfer(READ, 8)];
  for (const request of requests) h.put(request);
  h.push();
  h.step();
  const [merged] = h.underway.splice(0);
  h.step([{ slot: merged.slot, result: abi.IO_RESULT_FAILURE }]);
  assert.deepEqual(h.underway.map(short), ["W0+8", "W8+8"]);
  const [first, second] = h.underway.splice(0);
  h.step([{ slot: first.slot, result: abi.IO_RESULT_FAILURE }]);
  assert.deepEqual(h.underway.map(short), []);
  h.perform(second);
  h.step([{ slot: second.slot, result: 0 }]);
  assert.deepEqual(h.underway.map(short), ["R8+8"]);
  h.finish();
  assert.deepEqual(h.statuses(requests), [ERROR, OKAY, OKAY]);
  h.release();
});

test("results and statuses", () => {
  const { IO_RESULT_FAILURE, IO_RESULT_READ_ONLY, IO_RESULT_UNSUPPORTED } = abi;
  const kinds: [string, (g: Guest) => WireRequest][] = [
    ["read", (g) => g.transfer(READ, 0)],
    ["write", (g) => g.transfer(WRITE, 0)],
    ["empty flush", (g) => g.empty(FLUSH)],
    ["flush with data", (g) => g.transfer(FLUSH, 0)],
    ["empty barrier", (g) => g.empty(BARRIER)],
    ["barrier", (g) => g.transfer(BARRIER, 0)],
    ["discard", (g) => g.discard(0, 8)],
  ];
  for (const [name, make] of kinds) {
    const optional = name !== "read" && name !== "write";
    for (const [result, status] of [
      [IO_RESULT_FAILURE, ERROR],
      [IO_RESULT_READ_ONLY, ERROR],
      [IO_RESULT_UNSUPPORTED, optional ? EOPNOTSUPP : ERROR],
      [77, ERROR],
    ]) {
      const h = new Harness();
      const request = make(new Guest(h));
      h.put(request);
      h.push();
      h.step();
      h.finish(
        () => 0,
        () => result,
      );
      assert.deepEqual(h.statuses([request]), [status], `${name}, result ${result}`);
      assert.equal(h.core.counters().ioErrors, 1);
      assert.equal(h.copies.filter((copy) => copy.toGuest).length, 0, "a failed read is not copied out");
      h.release();
    }
  }
});

test("completions of what is not under way are ignored", () => {
  const h = new Harness();
  const guest = new Guest(h);
  const requests = [0, 8, 16].map((sector) => guest.transfer(WRITE, sector));
  for (const request of requests) h.put(request);
  h.push();
  h.step();
  const [io] = h.underway.splice(0);
  const wrong = Array.from({ length: 600 }, (_, slot) => slot).filter((slot) => slot !== io.slot);
  for (let i = 0; i < wrong.length; i += 100) {
    for (const result of [0, 1]) h.step(wrong.slice(i, i + 100).map((slot) => ({ slot, result })));
  }
  assert.equal(h.responses().length, 0);
  assert.equal(h.core.inflight, 3);
  h.perform(io);
  h.step([
    { slot: io.slot, result: 0 },
    { slot: io.slot, result: 0 },
  ]);
  h.step([{ slot: io.slot, result: 1 }]);
  assert.deepEqual(h.statuses(requests), [OKAY, OKAY, OKAY]);
  assert.equal(h.core.inflight, 0);
  h.release();
});

test("a slot beyond the ring is none, even where the guest has made its place look like one", () => {
  const h = new Harness();
  const guest = new Guest(h);
  // Behind the requests lie the tables; a segment begins with its gref. 8 is the state of a request in an I/O.
  const segments = Array.from({ length: 256 }, () => ({ gref: 0x00010008, first: 0, last: 7 }));
  h.page(0x00010008);
  const requests = [0, 1, 2, 3, 4, 5].map((i) => guest.indirect(WRITE, i * 2048, segments));
  for (const request of requests) h.put(request);
  h.core.resize(1 << 20);
  h.push();
  h.step();
  for (let slot = 32; slot + 64 <= 0x10000; slot += 64) {
    const completions = Array.from({ length: 64 }, (_, i) => ({ slot: slot + i, result: 0 }));
    h.step(completions);
    assert.equal(h.responses().length, 0);
  }
  assert.equal(h.core.inflight, 6);
  h.step(h.underway.splice(0).map(({ slot }) => ({ slot, result: 0 })));
  assert.deepEqual(
    h.statuses(requests),
    requests.map(() => OKAY),
  );
  h.release();
});
