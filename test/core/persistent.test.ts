/** Persistent grants: what is mapped, found again, trimmed, and never trimmed. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { ERROR, Guest, OKAY, READ, short, WRITE } from "./guest.js";
import { ALL_FEATURES, Harness, type HarnessOptions } from "./harness.js";
import { instrument, watched } from "./instrument.js";
import type { Segment, WireRequest } from "./wire.js";

const instrumented = instrument(readFileSync(new URL("../../blkif.wasm", import.meta.url)));
const features = ALL_FEATURES | abi.FEATURE_PERSISTENT;

function setup(options: HarnessOptions = {}): { h: Harness; guest: Guest } {
  const h = new Harness({ features, ...options });
  return { h, guest: new Guest(h) };
}

const pagesOf = (...grefs: number[]): Segment[] => grefs.map((gref) => ({ gref, first: 0, last: 7 }));

function grant(h: Harness, ...grefs: number[]): Segment[] {
  for (const gref of grefs) h.page(gref).fill(gref & 0xff);
  return pagesOf(...grefs);
}

const mappedGrefs = (h: Harness): number[] => [...h.mapped.values()].sort((a, b) => a - b);

test("a grant is mapped once and found again; no copies are made", () => {
  const { h, guest } = setup();
  const segments = guest.segments(3);
  h.disk.fill(0x5a);
  assert.deepEqual(h.serve(guest.transfer(WRITE, 64, segments)), [OKAY]);
  assert.deepEqual(h.serve(guest.transfer(READ, 0, segments), guest.transfer(READ, 24, segments)), [
    OKAY,
    OKAY,
  ]);
  for (const { gref } of segments) assert.equal(h.guestPage(gref)[0], 0x5a);
  assert.deepEqual(
    h.disk.slice(64 * 512, 64 * 512 + 4096),
    new Uint8Array(4096).fill(segments[0].gref & 0xff),
  );
  const { maps, persistentHits, copies } = h.core.counters();
  assert.deepEqual({ maps, persistentHits, copies }, { maps: 3, persistentHits: 6, copies: 0 });
  assert.deepEqual(h.maps, [0, 1, 2]);
  h.release();
});

test("an indirect page is copied, never kept", () => {
  const { h, guest } = setup();
  const request = guest.indirect(WRITE, 0, 20);
  assert.deepEqual(h.serve(request), [OKAY]);
  assert.deepEqual(h.copies, [{ gref: request.indirectGrefs[0], offset: 0, length: 160, toGuest: false }]);
  assert.equal(h.mapped.size, 20);
  assert.ok(!mappedGrefs(h).includes(request.indirectGrefs[0]));
  h.release();
});

test("one grant in every segment of a request, and in two requests at once, is one page", () => {
  const { h, guest } = setup();
  const [segment] = guest.segments(1);
  const all = Array.from({ length: 11 }, () => segment);
  const requests = [guest.transfer(WRITE, 0, all), guest.transfer(WRITE, 256, all)];
  for (const request of requests) h.put(request);
  h.push();
  h.step();
  assert.equal(h.mapped.size, 1);
  // One of the two ends; the other still uses the page.
  const [first] = h.underway.splice(0, 1);
  h.perform(first);
  h.step([{ slot: first.slot, result: 0 }]);
  for (let now = 0; now <= 3000; now += 600) assert.deepEqual(h.trim(now), []);
  h.finish();
  assert.deepEqual(h.statuses(requests), [OKAY, OKAY]);
  assert.deepEqual(h.trim(3599), []);
  assert.deepEqual(h.trim(3600), [0]);
  h.release();
});

test("at the limit, what does not fit is copied, and the next trim makes room", () => {
  const { h, guest } = setup({ maxPersistent: 40 });
  for (let i = 0; i < 4; i++) assert.deepEqual(h.serve(guest.transfer(WRITE, i * 88, 10)), [OKAY]);
  assert.equal(h.mapped.size, 40);
  assert.deepEqual(h.trim(10), []);
  const late = guest.segments(2);
  assert.deepEqual(h.serve(guest.transfer(WRITE, 0, late)), [OKAY]);
  assert.equal(h.copies.length, 2);
  assert.equal(h.mapped.size, 40);
  // A twentieth of the limit, once.
  assert.equal(h.trim(11).length, 2);
  assert.deepEqual(h.trim(12), []);
  assert.deepEqual(h.serve(guest.transfer(WRITE, 0, late)), [OKAY]);
  assert.equal(h.copies.length, 2);
  assert.equal(h.mapped.size, 40);
  h.release();
});

test("a request of more grants than the limit is copied as a whole, and holds no page", () => {
  const { h, guest } = setup({ maxPersistent: 5 });
  assert.deepEqual(h.serve(guest.transfer(WRITE, 0, 11)), [OKAY]);
  assert.equal(h.copies.length, 11);
  assert.equal(h.mapped.size, 5);
  assert.equal(h.trim(0).length, 1);
  assert.equal(h.trim(600).length, 4);
  h.release();
});

test("a limit of 0 copies everything", () => {
  const { h, guest } = setup({ maxPersistent: 0 });
  assert.deepEqual(h.serve(guest.transfer(WRITE, 0, 3), guest.transfer(READ, 64, 3)), [OKAY, OKAY]);
  assert.equal(h.copies.length, 6);
  assert.deepEqual(h.trim(0), []);
  h.release();
});

test("room is made by dropping what was used longest ago", () => {
  const { h, guest } = setup({ maxPersistent: 4 });
  const segments = guest.segments(4);
  const use = (...which: number[]): void => {
    assert.deepEqual(
      h.serve(
        guest.transfer(
          WRITE,
          0,
          which.map((i) => segments[i]),
        ),
      ),
      [OKAY],
    );
  };
  use(0, 1, 2, 3);
  h.trim(1);
  use(2);
  h.trim(2);
  use(0, 3);
  h.trim(3);
  assert.equal(h.mapped.size, 4);
  const grefs: (number | undefined)[] = [];
  for (let now = 4; now < 6; now++) {
    const before = new Map(h.mapped);
    h.serve(guest.transfer(WRITE, 64, 5));
    grefs.push(...h.trim(now).map((page) => before.get(page)));
    h.serve(guest.transfer(WRITE, 64, 1));
  }
  assert.deepEqual(grefs, [segments[1].gref, segments[2].gref]);
  h.release();
});

for (const uptime of [0, 5000, 0xffffff00]) {
  test(`a grant goes when it was idle for 60 s, not before, on a clock that starts at ${uptime}`, () => {
    const { h, guest } = setup();
    const [idle, busy] = guest.segments(2);
    h.serve(guest.transfer(WRITE, 0, [idle, busy]));
    for (let tenths = 0; tenths <= 605; tenths += 1) {
      if (tenths % 300 === 0) h.serve(guest.transfer(WRITE, 0, [busy]));
      assert.deepEqual(h.trim((uptime + tenths) >>> 0), tenths === 600 ? [0] : [], `${tenths} tenths`);
    }
    assert.deepEqual(mappedGrefs(h), [busy.gref]);
    h.release();
  });
}

test("a page that an I/O uses is never dropped, however old or wanted; it is idle from the I/O's end", () => {
  const { h, guest } = setup({ maxPersistent: 2 });
  const held = guest.transfer(READ, 0, 2);
  h.put(held);
  h.push();
  h.step();
  for (let now = 0; now < 6000; now += 100) {
    h.put(guest.transfer(WRITE, 64, 3));
    h.push();
    h.step();
    const [other] = h.underway.splice(1);
    h.step([{ slot: other.slot, result: 0 }]);
    assert.equal(h.responses().length, 1);
    assert.deepEqual(h.trim(now), []);
  }
  h.finish();
  h.responses();
  assert.deepEqual(h.trim(6499), []);
  assert.equal(h.trim(6500).length, 2);
  h.release();
});

test("one grant in all segments of all requests of the largest ring is counted right", () => {
  const { h, guest } = setup({
    ringPages: 16,
    sectors: 2048,
    disk: false,
    batch: 512,
    maxIo: 4096,
    maxPersistent: 1,
  });
  const [segment] = guest.segments(1);
  // 256 requests of 256 segments: 65536 users of the page.
  const requests = Array.from({ length: 256 }, () => guest.indirect(READ, 0, Array(256).fill(segment)));
  for (const request of requests) h.put(request);
  h.push();
  do h.step();
  while (h.flags & abi.STEP_MORE);
  assert.equal(h.underway.length, 256);
  for (const now of [0, 600, 1200]) assert.deepEqual(h.trim(now), []);
  h.step(h.underway.splice(0).map(({ slot }) => ({ slot, result: 0 })));
  assert.deepEqual(
    h.statuses(requests),
    requests.map(() => OKAY),
  );
  assert.deepEqual(h.trim(1800), [0]);
  h.release();
});

test("a grant that cannot be mapped is tried again by the next request", () => {
  const { h, guest } = setup();
  const segments = guest.segments(3);
  h.grantFault = (gref, use) => (use === "map" && gref === segments[1].gref ? -1 : 0);
  assert.deepEqual(h.serve(guest.transfer(WRITE, 0, segments)), [OKAY]);
  assert.deepEqual(mappedGrefs(h), [segments[0].gref, segments[2].gref]);
  h.grantFault = null;
  assert.deepEqual(h.serve(guest.transfer(WRITE, 0, segments)), [OKAY]);
  assert.equal(h.mapped.size, 3);
  assert.equal(h.copies.length, 3);
  h.release();
});

test("a guest whose grants are all read-only costs few attempts to map them, and is served", () => {
  const { h, guest } = setup({ sectors: 65536, maxPersistent: 1056 });
  const segments = guest.segments(11);
  for (const { gref } of segments) h.readOnlyGrants.add(gref);
  const write = (times: number): void => {
    for (let i = 0; i < times; i++) assert.deepEqual(h.serve(guest.transfer(WRITE, 0, segments)), [OKAY]);
  };
  write(1000);
  assert.equal(h.mapped.size, 0);
  // 64, the rest of the request, and one in 256 of what was copied: a request ends its search at the first.
  assert.ok(h.maps.length <= 66 + 1000 / 256, `${h.maps.length} attempts for 11000 grants`);
  // The reason for the failures is gone.
  h.readOnlyGrants.clear();
  h.maps.length = 0;
  write(600);
  assert.equal(h.mapped.size, 11);
  assert.equal(h.maps.length, 11);
  h.release();
});

test("a guest with some read-only grants has the others mapped", () => {
  const { h, guest } = setup({ sectors: 65536, maxPersistent: 1056 });
  const [bad] = guest.segments(1);
  h.readOnlyGrants.add(bad.gref);
  for (let i = 0; i < 200; i++) {
    assert.deepEqual(h.serve(guest.transfer(WRITE, 0, [bad]), guest.transfer(WRITE, 8, 4)), [OKAY, OKAY]);
  }
  assert.equal(h.mapped.size, 800);
  h.release();
});

test("grants that cannot be mapped, shared by requests of one batch and named twice in each", () => {
  const { h, guest } = setup();
  const [bad, good] = guest.segments(2);
  h.readOnlyGrants.add(bad.gref);
  const write = (sector: number): WireRequest => guest.transfer(WRITE, sector, [bad, good, bad]);
  const read = guest.transfer(READ, 512, [bad]);
  assert.deepEqual(h.serve(write(0), guest.indirect(WRITE, 64, [good, bad, bad]), write(128), read), [
    OKAY,
    OKAY,
    OKAY,
    ERROR,
  ]);
  assert.deepEqual(mappedGrefs(h), [good.gref]);
  h.trim(0);
  assert.equal(h.trim(600).length, 1);
  h.release();
});

test("a large request that is mapped gives its data region back at once", () => {
  const { h, guest } = setup({ ringPages: 4, sectors: 65536, maxIo: 4096, maxPersistent: 2048, batch: 64 });
  const requests = Array.from({ length: 100 }, (_, i) => guest.indirect(READ, i * 200, 12));
  for (const request of requests) h.put(request);
  h.push();
  do h.step();
  while (h.flags & abi.STEP_MORE);
  assert.equal(h.underway.length, 100);
  h.finish();
  assert.deepEqual(
    h.statuses(requests),
    requests.map(() => OKAY),
  );
  h.release();
});

test("the data region of a large request that was mapped is given back once", () => {
  const { h, guest } = setup({ ringPages: 4, sectors: 65536, maxIo: 4096, maxPersistent: 12, batch: 128 });
  const pages = guest.segments(12);
  for (let i = 0; i < 70; i++) assert.deepEqual(h.serve(guest.indirect(WRITE, 0, pages)), [OKAY]);
  // For these there is no page left: they are copied, each in a region of its own.
  const requests = Array.from({ length: 65 }, (_, i) => guest.indirect(WRITE, i * 200, 12));
  for (const request of requests) h.put(request);
  h.push();
  h.step();
  assert.equal(h.underway.length, 64);
  assert.equal(new Set(h.underway.flatMap((io) => h.addresses(io))).size, 64);
  h.finish();
  assert.deepEqual(
    h.statuses(requests),
    requests.map(() => OKAY),
  );
  h.assertNoHazards();
  h.release();
});

test("a grant that could not be mapped is not tried again by a request that waits for room among the copies", () => {
  const { h, guest } = setup({ sectors: 65536, maxPersistent: 2048 });
  const pages = guest.segments(256);
  h.grantFault = (_, use) => (use === "map" ? -1 : 0);
  const requests = Array.from({ length: 20 }, (_, i) => guest.indirect(WRITE, i * 2048, pages));
  assert.deepEqual(
    h.serve(...requests),
    requests.map(() => OKAY),
  );
  assert.equal(h.maps.length, 256);
  assert.equal(h.copies.length, 20 + 20 * 256);
  h.release();
});

test("pages that were dropped are given out upwards again, so that neighbours are mapped in one run", () => {
  const { h, guest } = setup();
  h.serve(guest.transfer(WRITE, 0, 11));
  h.trim(0);
  assert.equal(h.trim(600).length, 11);
  h.maps.length = 0;
  h.serve(guest.transfer(WRITE, 0, 11));
  assert.deepEqual(h.maps, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  h.release();
});

// ---- The hash from gref to page ----

/** The bucket of the 4096 in which the core looks for a gref first, where the key is 0. */
function homeOf(gref: number): number {
  const product = BigInt.asUintN(64, BigInt(gref) * 0x19e3779b97f4a7n);
  return Number((product ^ (product >> 32n)) & 0xffffffffn) >>> 20;
}

/** Grefs by their home, in ascending order; none that the guest of the harness grants. */
const grefsAt: number[][] = Array.from({ length: 4096 }, () => []);
for (let gref = 2 ** 16; gref < 2 ** 20; gref++) grefsAt[homeOf(gref)].push(gref);

test("colliding grefs, across the end of the table, in any order of coming and going", () => {
  // Homes around the end; the entries of one cluster wrap around to its beginning.
  const homes = [4093, 4095, 4095, 4095, 0, 4094, 0, 1, 4095, 3];
  const grefs = homes.map((bucket, n) => grefsAt[bucket][n]);
  let seed = 1;
  const random = (n: number): number => (seed = (seed * 48271) % 0x7fffffff) % n;
  const { h, guest } = setup({ disk: false });
  const segments = grant(h, ...grefs);
  let now = 0;
  for (let round = 0; round < 300; round++) {
    // Use some; the others go in the end.
    const kept = segments.filter(() => random(3) !== 0);
    const hits = h.core.counters().persistentHits;
    const known = kept.filter(({ gref }) => mappedGrefs(h).includes(gref)).length;
    for (const segment of kept) {
      h.put(guest.transfer(READ, 0, [segment]));
      h.push();
      h.step();
      h.step(h.underway.splice(0).map(({ slot }) => ({ slot, result: 0 })));
      h.responses();
    }
    assert.equal(h.core.counters().persistentHits - hits, known, "grants found");
    h.trim((now += 599));
    // Of what was not used, the older half has been idle for 60 s now.
    h.trim((now += 1));
  }
  h.trim((now += 600));
  h.trim((now += 600));
  assert.equal(h.mapped.size, 0);
  h.release();
});

test("what is too far from its bucket is copied, with a bounded number of looks at the table", () => {
  const { h, guest } = setup({ maxPersistent: abi.MAX_PERSISTENT, sectors: 4096 });
  let looks = 0;
  const hashEnd = abi.PERSISTENT_HASH + abi.PERSISTENT_HASH_ENTRIES * 8;
  const count = (at: number): void => {
    if (at < hashEnd) looks++;
  };
  const core = watched(instrumented, h, abi.PERSISTENT_HASH, count, () => {});
  core.attach();
  h.core.step = (completions) => core.step(completions);
  const segments = grant(h, ...grefsAt[100].slice(0, 200));
  assert.deepEqual(h.serve(guest.indirect(WRITE, 0, segments)), [OKAY]);
  assert.equal(h.mapped.size, 64);
  const last = segments[199];
  looks = 0;
  for (let i = 0; i < 32; i++) assert.deepEqual(h.serve(guest.transfer(WRITE, 0, [last])), [OKAY]);
  assert.equal(h.disk[0], last.gref & 0xff);
  assert.ok(looks <= 32 * 130, `${looks} looks for 32 grants`);
  h.release();
});

test("a key spreads grants that collide without it", () => {
  const { h, guest } = setup({ maxPersistent: abi.MAX_PERSISTENT, hashKey: 0x1234567 });
  h.serve(guest.indirect(WRITE, 0, grant(h, ...grefsAt[100].slice(0, 200))));
  assert.equal(h.mapped.size, 200);
  h.release();
});

test("a full table", () => {
  const { h, guest } = setup({ maxPersistent: abi.MAX_PERSISTENT, sectors: 4096 });
  const grefs = Array.from({ length: abi.MAX_PERSISTENT }, (_, n) =>
    n % 128 ? grefsAt[n * 2][0] : grefsAt[4095][n >> 7],
  );
  const segments = grant(h, ...grefs);
  for (let round = 0; round < 2; round++) {
    for (let at = 0; at < segments.length; at += 256) {
      const request = guest.indirect(READ, 0, segments.slice(at, at + 256));
      h.put(request);
      h.push();
      h.step();
      assert.deepEqual(h.underway.map(short), ["R0+2048"]);
      h.step(h.underway.splice(0).map(({ slot }) => ({ slot, result: 0 })));
      assert.deepEqual(h.statuses([request]), [OKAY]);
    }
  }
  const { maps, persistentHits } = h.core.counters();
  assert.deepEqual({ maps, persistentHits }, { maps: 2048, persistentHits: 2048 });
  h.trim(0);
  assert.equal(h.trim(600).length, 2048);
  h.release();
});

test("a ring that attaches again does not want the pages that the one before had no room for", () => {
  const h = new Harness({ features: ALL_FEATURES | abi.FEATURE_PERSISTENT, maxPersistent: 2 });
  const guest = new Guest(h);
  assert.deepEqual(h.serve(guest.transfer(READ, 0, 3)), [OKAY]);
  h.mapped.clear();
  assert.equal(h.core.attach(h.config), abi.ATTACH_OK);
  assert.deepEqual(h.serve(guest.transfer(READ, 0, 2)), [OKAY]);
  assert.equal(h.mapped.size, 2);
  assert.deepEqual(h.trim(1), []);
  h.release();
});
