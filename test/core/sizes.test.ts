/** Sector sizes, the size of the disk and its changes, and the counters. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { BARRIER, ERROR, FLUSH, Guest, OKAY, READ, RESERVED, serveOne, WRITE } from "./guest.js";
import { ALL_FEATURES, Harness } from "./harness.js";

for (const sectorSize of [512, 1024, 2048, 4096]) {
  const unit = sectorSize / 512;
  test(`sectors of ${sectorSize} bytes: sector numbers and segments are aligned to them`, () => {
    const aligned = (n: number): boolean => n % unit === 0;
    for (let sector = 0; sector <= 16; sector++) {
      const { status } = serveOne((g) => g.transfer(READ, sector), { sectorSize });
      assert.equal(status, aligned(sector) ? OKAY : ERROR, `sector ${sector}`);
      const discard = serveOne((g) => g.discard(8, sector), { sectorSize });
      assert.equal(discard.status, aligned(sector) ? OKAY : ERROR, `discard of ${sector}`);
      const at = serveOne((g) => g.discard(sector, 8), { sectorSize });
      assert.equal(at.status, aligned(sector) ? OKAY : ERROR, `discard at ${sector}`);
    }
    for (let first = 0; first < 8; first++) {
      for (let last = first; last < 8; last++) {
        // The total is aligned even where the parts are not.
        const { status } = serveOne(
          (g) =>
            g.transfer(
              WRITE,
              0,
              Array.from({ length: 8 }, () => g.segments(1, first, last)[0]),
            ),
          { sectorSize },
        );
        assert.equal(status, aligned(first) && aligned(last + 1) ? OKAY : ERROR, `${first} to ${last}`);
      }
    }
  });
}

test("the size that counts is the one when the request is taken", () => {
  const h = new Harness({ sectors: 1024 });
  const guest = new Guest(h);
  const [read, write, discard] = [
    () => guest.transfer(READ, 1016),
    () => guest.transfer(WRITE, 1016),
    () => guest.discard(1016, 8),
  ];
  assert.deepEqual(h.serve(read(), write(), discard()), [OKAY, OKAY, OKAY]);
  h.core.resize(1023);
  assert.deepEqual(h.serve(read(), write(), discard()), [ERROR, ERROR, ERROR]);
  assert.deepEqual(h.serve(guest.transfer(READ, 1015, guest.segments(1))), [OKAY]);
  assert.equal(h.core.counters().badRange, 3);
  h.core.resize(1024);
  assert.deepEqual(h.serve(read(), write(), discard()), [OKAY, OKAY, OKAY]);
  // Down while one is under way: it ends as it began.
  const request = read();
  h.put(request);
  h.push();
  h.step();
  h.core.resize(8);
  h.finish();
  assert.deepEqual(h.statuses([request]), [OKAY]);
  h.release();
});

test("a disk of more sectors than 32 bits count", () => {
  const sectors = 2 ** 40;
  const { status, ios } = serveOne((g) => g.transfer(WRITE, sectors - 8), { sectors });
  assert.deepEqual({ status, ios }, { status: OKAY, ios: [`W${sectors - 8}+8`] });
  assert.equal(serveOne((g) => g.transfer(WRITE, sectors - 7), { sectors }).status, ERROR);
  assert.deepEqual(serveOne((g) => g.discard(0, sectors), { sectors }).ios, [`D0+${sectors}`]);
});

test("what was served and what was refused is counted", () => {
  const h = new Harness({ features: ALL_FEATURES });
  const guest = new Guest(h);
  h.serve(
    guest.transfer(READ, 0, 3),
    guest.indirect(WRITE, 64, 20),
    guest.empty(FLUSH),
    guest.empty(BARRIER),
    guest.transfer(WRITE, 512, guest.segments(1, 2, 3)),
    guest.discard(1024, 64),
    { operation: RESERVED, id: guest.id(), sector: 0n },
    { ...guest.transfer(READ, 0), nrSegments: 12 },
    guest.transfer(READ, 4096),
  );
  const { pushes, notifications, held, ...counters } = h.core.counters();
  assert.ok(pushes >= notifications && notifications > 0 && held > 0);
  assert.deepEqual(counters, {
    read: 1,
    write: 2,
    barrier: 1,
    flush: 1,
    discard: 1,
    indirect: 1,
    segments: 24,
    sectorsRead: 24,
    sectorsWritten: 162,
    ios: 6,
    merged: 0,
    responses: 9,
    copies: 25,
    maps: 0,
    persistentHits: 0,
    splits: 0,
    badOperation: 1,
    badSegments: 1,
    badRange: 1,
    readOnly: 0,
    badGrant: 0,
    ioErrors: 0,
  });
  h.release();
});
