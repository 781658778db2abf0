/** Advisories about what fails, merges, or lies: grants, coalesced lists, ring indices. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { ERROR, Guest, OKAY, READ, RESERVED, WRITE } from "../core/guest.js";
import { ALL_FEATURES, type GrantUse, Harness } from "../core/harness.js";
import type { WireRequest } from "../core/wire.js";

const PERSISTENT = ALL_FEATURES | abi.FEATURE_PERSISTENT;

const KINDS: { name: string; make: (g: Guest) => WireRequest; use: GrantUse; count: number; ios: number }[] =
  [
    { name: "a write", make: (g) => g.transfer(WRITE, 0, 11), use: "in", count: 11, ios: 0 },
    { name: "a read", make: (g) => g.transfer(READ, 0, 11), use: "out", count: 11, ios: 1 },
    { name: "an INDIRECT write", make: (g) => g.indirect(WRITE, 0, 40), use: "in", count: 40, ios: 0 },
    { name: "an indirect page", make: (g) => g.indirect(WRITE, 0, 40), use: "fetch", count: 1, ios: 0 },
  ];

for (const { name, make, use, count, ios } of KINDS) {
  test(`XSA-365: ${name}, of whose grants one fails, whichever: ERROR, no write is started, nothing is kept`, () => {
    for (let k = 0; k < count; k++) {
      const h = new Harness({ sectors: 8192 });
      const guest = new Guest(h);
      let seen = 0;
      h.grantFault = (_, kind) => (kind === use && seen++ === k ? -1 : 0);
      assert.deepEqual(h.serve(make(guest)), [ERROR], `number ${k} of ${count}`);
      assert.equal(h.ios.length, ios);
      assert.equal(h.core.inflight, 0);
      h.grantFault = null;
      const all = Array.from({ length: h.entries }, (_, i) => guest.transfer(WRITE, i * 88, 11));
      assert.deepEqual(h.serve(...all), Array(h.entries).fill(OKAY));
      h.release();
    }
  });
}

test("XSA-361: of a batch of mappings each fails once: no I/O on that page, and the others are unmapped in time", () => {
  for (let k = 0; k < 20; k++) {
    const h = new Harness({ features: PERSISTENT });
    const guest = new Guest(h);
    let seen = 0;
    h.grantFault = (_, use) => (use === "map" && seen++ === k ? -1 : 0);
    // What cannot be mapped is copied; the harness refuses an I/O on a page that is not mapped.
    assert.deepEqual(h.serve(guest.indirect(READ, 0, 20)), [OKAY]);
    assert.equal(h.mapped.size, 19);
    assert.equal(h.copies.filter((copy) => copy.toGuest).length, 20);
    h.trim(1000);
    h.trim(2000);
    assert.equal(h.mapped.size, 0);
    h.release();
  }
});

test("XSA-362: whatever status a grant operation ends with, the guest gets an answer and the ring goes on", () => {
  const statuses = [...Array.from({ length: 20 }, (_, i) => -1 - i), 1, 2, 77, 0x7fff, -0x8000];
  for (const features of [ALL_FEATURES, PERSISTENT]) {
    const h = new Harness({ features });
    const guest = new Guest(h);
    for (const status of statuses) {
      h.grantFault = () => status;
      const requests = [
        guest.transfer(READ, 0, 3),
        guest.transfer(WRITE, 64, 3),
        guest.indirect(READ, 128, 3),
      ];
      assert.deepEqual(h.serve(...requests), [ERROR, ERROR, ERROR], `status ${status}`);
      h.grantFault = null;
      assert.deepEqual(h.serve(guest.transfer(WRITE, 0, 3)), [OKAY]);
    }
    h.release();
  }
});

test("XSA-371: after failures of every kind no grant stays mapped", () => {
  const h = new Harness({ features: PERSISTENT, maxPersistent: 64 });
  const guest = new Guest(h);
  for (let i = 0; i < 200; i++) {
    h.grantFault = (gref, use) => ((gref + i) % 5 === 0 && use !== "in" ? -1 : 0);
    if (i % 3 === 0) h.badSectors.add(i * 8);
    h.serve(guest.transfer(i % 2, i * 8, 3), guest.indirect(i % 2, i * 8, 5));
  }
  assert.ok(h.mapped.size > 0);
  h.trim(1000);
  h.trim(2000);
  assert.equal(h.mapped.size, 0);
  h.release();
});

/** Requests over scattered pages, parts of pages, in order and not. */
function scattered(guest: Guest, operation: number, seed: number): WireRequest[] {
  let roll = seed;
  const next = (below: number): number => {
    roll = (Math.imul(roll, 1103515245) + 12345) >>> 0;
    return (roll >>> 16) % below;
  };
  let sector = 0;
  return Array.from({ length: 24 }, () => {
    const segments = Array.from({ length: 1 + next(11) }, () => {
      const whole = next(3) === 0;
      const first = whole ? 0 : next(8);
      return guest.segments(1, first, whole ? 7 : first + next(8 - first))[0];
    });
    const request = guest.transfer(operation, sector, segments);
    sector += segments.reduce((sum, { first, last }) => sum + last - first + 1, 0);
    if (next(4) === 0) sector += 1;
    return request;
  });
}

for (const features of [ALL_FEATURES, PERSISTENT]) {
  const way = features === ALL_FEATURES ? "copied" : "mapped";
  test(`XSA-229: ${way} requests that are merged move the bytes that each moves alone`, () => {
    for (const operation of [READ, WRITE]) {
      for (let seed = 1; seed <= 4; seed++) {
        const images = [true, false].map((together) => {
          const h = new Harness({ features });
          for (let i = 0; i < h.disk.length; i++) h.disk[i] = (i >> 9) ^ i;
          const guest = new Guest(h);
          const requests = scattered(guest, operation, seed);
          for (const page of h.pages.values())
            page.forEach((byte, i) => void (page[i] = byte ^ i ^ (i >> 8)));
          if (together) assert.deepEqual(h.serve(...requests), Array(24).fill(OKAY));
          else for (const request of requests) assert.deepEqual(h.serve(request), [OKAY]);
          assert.equal(h.core.counters().merged > 5, together);
          const pages = [...h.pages.keys()].map((gref) => h.guestPage(gref));
          const image = Buffer.concat([h.disk, ...pages]);
          h.release();
          return image;
        });
        assert.ok(images[0].equals(images[1]), `operation ${operation}, seed ${seed}`);
      }
    }
  });
}

test("FreeBSD: one request of a merged list that fails does not fail the list", () => {
  for (const operation of [READ, WRITE]) {
    for (let bad = 0; bad < 8; bad++) {
      const h = new Harness();
      const guest = new Guest(h);
      h.badSectors.add(bad * 8 + 5);
      const requests = Array.from({ length: 8 }, (_, i) => guest.transfer(operation, i * 8));
      assert.deepEqual(
        h.serve(...requests),
        requests.map((_, i) => (i === bad ? ERROR : OKAY)),
      );
      assert.equal(h.core.counters().merged, 7);
      h.release();
    }
  }
});

test("CVE-2010-4247: whatever u32 req_prod is, no more than a ring is taken, or the ring halts", () => {
  let roll = 12345;
  const edges = [0, 1, 31, 32, 33, 63, 64, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff];
  for (let i = 0; i < 500; i++) {
    roll = (Math.imul(roll, 1103515245) + 12345) >>> 0;
    const ahead = edges[i] ?? roll;
    const h = new Harness({ disk: false, startIndex: 0xfffffff5 });
    const start = h.memory.u32[abi.SRING_REQ_PROD >> 2];
    h.memory.u8.fill(RESERVED, abi.SRING_ENTRIES, abi.SRING_ENTRIES + 4096 - 64);
    h.memory.u32[abi.SRING_REQ_PROD >> 2] = start + ahead;
    for (let passes = 0; passes < 4; passes++) {
      const halted = (h.step() & abi.STEP_HALTED) !== 0;
      if (passes === 0) assert.equal(halted, ahead > 32, `${ahead} ahead`);
    }
    const taken = (h.memory.u32[abi.OUT_REQ_CONS >> 2] - start) >>> 0;
    assert.equal(taken, ahead > 32 ? 0 : ahead);
    h.release();
  }
});

test("XSA-396: a response is published after the guest's pages have been used for the last time", () => {
  const h = new Harness();
  const guest = new Guest(h);
  const segments = guest.segments(20);
  const indirect = guest.indirect(READ, 64, segments);
  const requests = [guest.transfer(READ, 0, 3), indirect, guest.transfer(WRITE, 512, 2)];
  const grefs = new Map(requests.map(({ id, segments }) => [id, (segments ?? []).map(({ gref }) => gref)]));
  grefs.set(indirect.id, [...segments.map(({ gref }) => gref), ...indirect.indirectGrefs]);
  for (const request of requests) h.put(request);
  h.push();
  let operations = 0;
  h.grantFault = (gref) => {
    // A frontend takes its pages back as soon as it sees the response.
    const published = h.memory.u32[abi.SRING_RSP_PROD >> 2];
    const view = new DataView(h.memory.memory.buffer);
    for (let i = 0; i < published; i++) {
      const id = view.getBigUint64(abi.SRING_ENTRIES + i * 112, true);
      assert.ok(!grefs.get(id)?.includes(gref), `grant ${gref} is used after its response`);
    }
    operations++;
    return 0;
  };
  h.step();
  h.finish();
  assert.deepEqual(h.statuses(requests), [OKAY, OKAY, OKAY]);
  assert.equal(operations, 3 + 1 + 20 + 2);
  h.release();
});
