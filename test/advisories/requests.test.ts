/** Advisories about single requests: what is refused, what is answered, and which bytes of whose are touched. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import {
  BARRIER,
  DISCARD,
  EOPNOTSUPP,
  ERROR,
  FLUSH,
  Guest,
  INDIRECT,
  OKAY,
  READ,
  RESERVED,
  serveOne,
  short,
  WRITE,
} from "../core/guest.js";
import { ALL_FEATURES, Harness } from "../core/harness.js";
import { type Layout, strideOf, type WireRequest } from "../core/wire.js";

const PERSISTENT = ALL_FEATURES | abi.FEATURE_PERSISTENT;
// arm-abi is laid out as x86_64-abi is.
const LAYOUTS = ["x86_64", "x86_32"] satisfies Layout[];

/** A ring on which a test serves one request after another, whatever the store would hold. */
function ring(options: ConstructorParameters<typeof Harness>[0] = {}) {
  const h = new Harness({ disk: false, ...options });
  const guest = new Guest(h);
  const serve = (request: WireRequest): number => {
    h.ios.length = h.copies.length = 0;
    h.put(request);
    h.push();
    h.step();
    for (const io of h.underway.splice(0)) h.step([{ slot: io.slot, result: 0 }]);
    return h.statuses([request])[0];
  };
  return { h, guest, serve };
}

for (const layout of LAYOUTS) {
  test(`XSA-216: ${layout}: a response changes id, operation and status, and not one byte of padding`, () => {
    const h = new Harness({ layout, poison: 0xa5, features: PERSISTENT });
    const guest = new Guest(h);
    const requests: WireRequest[] = [
      guest.transfer(READ, 0, 11),
      guest.transfer(WRITE, 128, 2),
      guest.transfer(BARRIER, 256),
      guest.empty(BARRIER),
      guest.transfer(FLUSH, 300),
      guest.empty(FLUSH),
      guest.discard(512, 8),
      guest.indirect(READ, 600, 12),
      guest.indirect(WRITE, 800, 12),
      { operation: RESERVED, id: guest.id(), sector: 0n },
      { ...guest.transfer(READ, 0), nrSegments: 255 },
      guest.transfer(WRITE, 1n << 60n),
      guest.indirect(FLUSH, 0, 2),
      guest.transfer(READ, 0, [{ gref: 0xdead, first: 0, last: 7 }]),
    ];
    for (const request of requests) h.put(request);
    h.push();
    const before = h.memory.u8.slice(abi.SRING, abi.PERSISTENT);
    h.step();
    h.finish();
    const after = h.memory.u8.slice(abi.SRING, abi.PERSISTENT);
    const changed = new Set<number>();
    before.forEach((byte, at) => {
      if (byte !== after[at]) changed.add(at);
    });
    const own = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11];
    for (const at of changed) {
      const entry = at + abi.SRING - abi.SRING_ENTRIES;
      if (entry < 0) assert.ok(at < 16, `byte ${at} of the ring's header`);
      else assert.ok(own.includes(entry % strideOf(layout)), `byte ${entry % strideOf(layout)} of a slot`);
    }
    assert.ok(changed.size > requests.length * 2);
    assert.equal(h.statuses(requests).filter((status) => status === OKAY).length, 9);
    h.release();
  });
}

test("CVE-2013-2140: a discard on a read-only disk is an error, offered or not, secure or not", () => {
  for (const offered of [0, abi.FEATURE_DISCARD, abi.FEATURE_DISCARD | abi.FEATURE_SECURE_DISCARD]) {
    const { h, guest, serve } = ring({ features: abi.FEATURE_READ_ONLY | offered });
    for (const flag of [0, 1])
      for (const sectors of [0, 8, 4096]) assert.equal(serve(guest.discard(0, sectors, flag)), ERROR);
    assert.equal(h.ios.length, 0);
    h.release();
  }
});

test("nr_segments: 12 to 255 segments are refused before anything of the guest's is touched", () => {
  for (const layout of LAYOUTS) {
    const { h, guest, serve } = ring({ layout });
    for (const operation of [READ, WRITE, BARRIER, FLUSH]) {
      const request = guest.transfer(operation, 0, 11);
      for (let nrSegments = 12; nrSegments <= 255; nrSegments++) {
        assert.equal(serve({ ...request, nrSegments }), ERROR, `${nrSegments} segments`);
        assert.deepEqual([h.ios, h.copies], [[], []]);
      }
    }
    h.release();
  }
});

test("nr_segments: an INDIRECT of one more than the maximum up to 65535 is refused, and its pages are not read", () => {
  for (const maxIndirect of [16, 256]) {
    const { h, guest, serve } = ring({ maxIndirect });
    const request = guest.indirect(READ, 0, maxIndirect);
    for (let nrSegments = maxIndirect + 1; nrSegments <= 65535; nrSegments++) {
      if (serve({ ...request, nrSegments }) !== ERROR) assert.fail(`${nrSegments} segments`);
      if (h.ios.length + h.copies.length > 0) assert.fail(`${nrSegments} segments touch something`);
    }
    assert.equal(serve(request), OKAY);
    h.release();
  }
});

// ---- What is weak in other backends ----

test("NetBSD: the number of an INDIRECT's segments is not cut to a byte", () => {
  const { h, guest, serve } = ring();
  assert.equal(serve(guest.indirect(READ, 0, 256)), OKAY);
  assert.deepEqual(h.ios.map(short), ["R0+2048"]);
  for (const n of [257, 260, 0x110, 0x1001, 0xff01])
    assert.equal(serve(guest.indirect(READ, 0, 256, n)), ERROR);
  assert.equal(serve(guest.indirect(READ, 0, 256, 0)), ERROR);
  h.release();
});

test("NetBSD: an INDIRECT does its inner operation, and answers with it, in every ABI", () => {
  for (const layout of LAYOUTS) {
    for (const inner of [READ, WRITE]) {
      const h = new Harness({ layout });
      const request = new Guest(h).indirect(inner, 8, 20);
      h.put(request);
      h.push();
      h.step();
      h.finish();
      assert.deepEqual(h.ios.map(short), [`${"RW"[inner]}8+160`]);
      assert.deepEqual(h.responses(), [{ id: request.id, operation: inner, status: OKAY }]);
      h.release();
    }
  }
});

test("NetBSD: first behind last is refused, in the entry and in an indirect page", () => {
  const { h, guest, serve } = ring();
  for (let first = 1; first < 8; first++) {
    for (let last = 0; last < first; last++) {
      const segments = [...guest.segments(1), ...guest.segments(1, first, last)];
      assert.equal(serve(guest.transfer(WRITE, 0, segments)), ERROR);
      assert.equal(serve(guest.indirect(READ, 0, segments)), ERROR);
      assert.equal(h.ios.length, 0);
    }
  }
  h.release();
});

test("NetBSD: what lies past the end of the disk is refused by the core, not by a driver", () => {
  for (const sector of [4090n, 4096n, 1n << 55n, (1n << 64n) - 8n]) {
    for (const make of [
      (g: Guest) => g.transfer(READ, sector),
      (g: Guest) => g.transfer(WRITE, sector),
      (g: Guest) => ({ ...g.indirect(WRITE, 0, 2), sector }),
      (g: Guest) => g.discard(sector, 8),
    ]) {
      const { status, ios } = serveOne(make);
      assert.deepEqual({ status, ios }, { status: ERROR, ios: [] });
    }
  }
});

test("NetBSD: requests that fail leak nothing: a full ring is served after a thousand of them", () => {
  const { h, guest, serve } = ring({ sectors: 8192 });
  const bad = [{ gref: 0xdead, first: 0, last: 7 }];
  for (let i = 0; i < 250; i++) {
    assert.equal(serve(guest.transfer(WRITE, 0, bad)), ERROR);
    assert.equal(serve(guest.indirect(READ, 0, [...guest.segments(1), ...bad])), ERROR);
    assert.equal(serve({ ...guest.indirect(WRITE, 0, 1), indirectGrefs: [0xdead] }), ERROR);
    assert.equal(serve({ ...guest.transfer(READ, 0), nrSegments: 12 }), ERROR);
  }
  const requests = Array.from({ length: h.entries }, (_, i) => guest.indirect(i % 2, i * 160, 12));
  for (const request of requests) h.put(request);
  h.push();
  h.step();
  while (h.underway.length > 0) h.step([{ slot: h.underway.splice(0, 1)[0].slot, result: 0 }]);
  assert.deepEqual(h.statuses(requests), Array(h.entries).fill(OKAY));
  h.release();
});

test("QEMU: a barrier works where it is offered, and is EOPNOTSUPP where not, never ERROR", () => {
  for (const make of [(g: Guest) => g.empty(BARRIER), (g: Guest) => g.transfer(BARRIER, 0)]) {
    assert.equal(serveOne(make).status, OKAY);
    assert.equal(serveOne(make, { features: abi.FEATURE_FLUSH }).status, EOPNOTSUPP);
  }
});

test("QEMU: sectors are of 512 bytes, whatever the disk's sector size", () => {
  const options = { sectorSize: 4096 };
  assert.deepEqual(serveOne((g) => g.transfer(READ, 16, 2), options).ios, ["R16+16"]);
  assert.deepEqual(serveOne((g) => g.discard(16, 8), options).ios, ["D16+8"]);
  assert.equal(serveOne((g) => g.transfer(READ, 1), options).status, ERROR);
});

test("tapdisk: a segment that ends outside of its page is refused", () => {
  const { h, guest, serve } = ring();
  for (let byte = 8; byte <= 255; byte++) {
    for (const operation of [READ, WRITE]) {
      assert.equal(serve(guest.transfer(operation, 0, guest.segments(1, 0, byte))), ERROR);
      assert.equal(serve(guest.transfer(operation, 0, guest.segments(1, byte, byte))), ERROR);
    }
    assert.equal(serve(guest.indirect(READ, 0, guest.segments(2, byte, byte))), ERROR);
    assert.equal(h.copies.filter((copy) => copy.length !== 16).length, 0);
  }
  h.release();
});

test("illumos: no operation that is not carried out is answered with OKAY", () => {
  for (const features of [0, ALL_FEATURES]) {
    const { h, guest, serve } = ring({ features, maxIndirect: 0 });
    for (let operation = 0; operation <= 255; operation++) {
      const done = [READ, WRITE, ...(features ? [BARRIER, FLUSH, DISCARD] : [])].includes(operation);
      if (done) continue;
      const request = { ...guest.transfer(READ, 0), operation, indirectGrefs: [1], inner: READ };
      assert.equal(serve(request), EOPNOTSUPP, `operation ${operation}`);
      assert.equal(h.ios.length, 0);
    }
    h.release();
  }
});

test("illumos: a bad sector refuses the request; nothing is clamped to what would fit", () => {
  const { h, guest, serve } = ring();
  for (const request of [
    guest.transfer(READ, 0, guest.segments(1, 0, 8)),
    guest.transfer(WRITE, 0, [...guest.segments(10), ...guest.segments(1, 3, 2)]),
    guest.transfer(WRITE, 4095),
    guest.discard(4095, 2),
    guest.transfer(READ, 4095, [...guest.segments(1, 0, 0), ...guest.segments(1, 0, 0)]),
  ]) {
    assert.equal(serve(request), ERROR);
    assert.equal(h.ios.length, 0);
  }
  h.release();
});

test("Mirage: an unknown operation, or an INDIRECT of several pages, is one request's trouble", () => {
  const h = new Harness();
  const guest = new Guest(h);
  const several = { ...guest.indirect(READ, 0, 256, 513), indirectGrefs: [1, 2, 3, 4, 5, 6, 7, 8] };
  const requests = [
    guest.transfer(READ, 0),
    { ...guest.transfer(READ, 0), operation: 200 },
    several,
    { ...several, id: guest.id(), nrSegments: 4096 },
    guest.indirect(WRITE, 64, 256),
  ];
  assert.deepEqual(h.serve(...requests), [OKAY, EOPNOTSUPP, ERROR, ERROR, OKAY]);
  assert.equal(requests[2].operation, INDIRECT);
  h.release();
});

// ---- What a backend could do to a guest ----

test("XSA-403: a read writes the bytes of its sectors and no others of the page; a write reads no others", () => {
  const h = new Harness();
  h.disk.fill(0x11);
  const guest = new Guest(h);
  for (let first = 0; first < 8; first++) {
    for (let last = first; last < 8; last++) {
      h.copies.length = 0;
      const [into] = guest.segments(1, first, last);
      const [out] = guest.segments(1, first, last);
      h.page(into.gref).fill(0xa5);
      assert.deepEqual(h.serve(guest.transfer(READ, 0, [into]), guest.transfer(WRITE, 64, [out])), [
        OKAY,
        OKAY,
      ]);
      const expected = Buffer.alloc(4096, 0xa5).fill(0x11, first * 512, last * 512 + 512);
      assert.deepEqual(Buffer.from(h.page(into.gref)), expected);
      for (const { offset, length } of h.copies)
        assert.deepEqual([offset, length], [first * 512, (last - first + 1) * 512]);
    }
  }
  h.release();
});

test("XSA-391: no more notifications than responses, and none that the frontend did not ask for", () => {
  const h = new Harness();
  const guest = new Guest(h);
  let responses = 0;
  for (let round = 0; round < 50; round++) {
    const requests = Array.from({ length: 1 + (round % 7) }, (_, i) => guest.transfer(READ, i * 16));
    responses += h.serve(...requests).length;
    for (let i = 0; i < 5; i++) h.step();
    assert.ok(h.notifications <= responses);
  }
  const before = h.notifications;
  h.memory.u32[abi.SRING_RSP_EVENT >> 2] = 0x40000000;
  for (let i = 0; i < 5; i++) h.put(guest.transfer(READ, 0));
  h.push();
  h.step();
  h.finish();
  assert.equal(h.notifications, before);
  h.release();
});
