/** What is refused, with which status, and what is let through. */
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
  serveOne,
  short,
  WRITE,
} from "./guest.js";
import { ALL_FEATURES, Harness, type HarnessOptions } from "./harness.js";
import { encodeRequest, type Layout, type WireRequest } from "./wire.js";

const MAX_U64 = (1n << 64n) - 1n;

type Row = [
  name: string,
  make: (guest: Guest) => WireRequest,
  status: number,
  ios?: string[],
  options?: HarnessOptions,
];

function table(rows: Row[]): void {
  for (const [name, make, status, ios = [], options] of rows) {
    test(name, () => {
      const result = serveOne(make, options);
      assert.deepEqual({ status: result.status, ios: result.ios }, { status, ios });
    });
  }
}

const claim = (request: WireRequest, nrSegments: number): WireRequest => ({ ...request, nrSegments });
const readOnly = { features: ALL_FEATURES | abi.FEATURE_READ_ONLY };

// ---- Segments ----

for (const operation of [READ, WRITE, BARRIER, FLUSH]) {
  for (const [first, last, status] of [
    [0, 0, OKAY],
    [7, 7, OKAY],
    [1, 0, ERROR],
    [0, 8, ERROR],
    [8, 8, ERROR],
    [255, 255, ERROR],
    [0, 255, ERROR],
    [255, 0, ERROR],
  ]) {
    test(`operation ${operation}: sectors ${first} to ${last} of a page`, () => {
      const bad = serveOne((g) =>
        g.transfer(operation, 0, [...g.segments(2), ...g.segments(1, first, last)]),
      );
      assert.equal(bad.status, status);
      assert.equal(bad.ios.length, status === OKAY ? 1 : 0);
      assert.equal(bad.h.core.counters().badSegments, status === OKAY ? 0 : 1);
    });
  }
  test(`operation ${operation}: every number of segments`, () => {
    for (let n = 0; n <= 255; n++) {
      // What lies behind the entry would make good segments.
      const { status, h } = serveOne((g) => claim(g.transfer(operation, 0, 11), n), { poison: 0 });
      const bad = n > 11 || (n === 0 && operation < BARRIER);
      assert.equal(status, bad ? ERROR : OKAY, `${n} segments`);
      assert.equal(h.core.counters().badSegments, bad ? 1 : 0);
    }
  });
}

for (const maxIndirect of [1, 11, 12, 16, 256]) {
  test(`INDIRECT with at most ${maxIndirect} segments`, () => {
    for (const n of [
      0, 1, 2, 11, 12, 13, 15, 16, 17, 255, 256, 257, 258, 511, 512, 513, 4096, 32768, 65535,
    ]) {
      const { status, ios, h } = serveOne((g) => g.indirect(READ, 0, 256, n), { maxIndirect });
      const good = n >= 1 && n <= maxIndirect;
      assert.equal(status, good ? OKAY : ERROR, `${n} segments`);
      assert.deepEqual(ios, good ? [`R0+${n * 8}`] : []);
      assert.equal(h.core.counters().badSegments, good ? 0 : 1);
    }
  });
}

test("INDIRECT where it was not offered", () => {
  for (const inner of [READ, WRITE, BARRIER, 255]) {
    assert.equal(serveOne((g) => g.indirect(inner, 0, 4), { maxIndirect: 0 }).status, EOPNOTSUPP);
  }
});

test("the inner operation of an INDIRECT is READ or WRITE, and is what the response echoes", () => {
  for (let inner = 0; inner <= 255; inner++) {
    const h = new Harness({ disk: false });
    const request = new Guest(h).indirect(inner, 0, 20);
    h.put(request);
    h.push();
    h.step();
    for (const io of h.underway.splice(0)) h.step([{ slot: io.slot, result: 0 }]);
    const good = inner === READ || inner === WRITE;
    assert.deepEqual(h.responses(), [{ id: request.id, operation: inner, status: good ? OKAY : ERROR }]);
    h.release();
  }
});

test("one bad segment of an INDIRECT refuses it", () => {
  for (const bad of [0, 1, 100, 255]) {
    const { status, ios } = serveOne((g) => {
      const segments = g.segments(256);
      segments[bad] = { ...segments[bad], first: 5, last: 4 };
      return g.indirect(WRITE, 0, segments);
    });
    assert.deepEqual({ status, ios }, { status: ERROR, ios: [] });
  }
});

// ---- Operations ----

for (const layout of ["x86_64", "x86_32"] satisfies Layout[]) {
  test(`${layout}: operations that nobody knows are EOPNOTSUPP, with the id at the usual place`, () => {
    const known = [READ, WRITE, BARRIER, FLUSH, DISCARD, INDIRECT];
    const h = new Harness({ layout });
    const guest = new Guest(h);
    for (let operation = 0; operation <= 255; operation++) {
      if (known.includes(operation)) continue;
      const request = { operation, id: guest.id(), sector: MAX_U64, nrSegments: 255 };
      h.put(request);
      h.push();
      h.step();
      assert.deepEqual(h.responses(), [{ id: request.id, operation, status: EOPNOTSUPP }]);
    }
    assert.equal(h.core.counters().badOperation, 250);
    h.release();
  });
}

table([
  [
    "a flush where it was not offered",
    (g) => g.empty(FLUSH),
    EOPNOTSUPP,
    [],
    { features: abi.FEATURE_BARRIER },
  ],
  [
    "a barrier where it was not offered",
    (g) => g.empty(BARRIER),
    EOPNOTSUPP,
    [],
    { features: abi.FEATURE_FLUSH },
  ],
  [
    "a discard where it was not offered",
    (g) => g.discard(0, 8),
    EOPNOTSUPP,
    [],
    { features: abi.FEATURE_FLUSH },
  ],
  [
    "a flush with data where it was not offered",
    (g) => g.transfer(FLUSH, 0),
    EOPNOTSUPP,
    [],
    { features: 0 },
  ],
  [
    "too many segments for a barrier that was not offered",
    (g) => claim(g.transfer(BARRIER, 0), 12),
    EOPNOTSUPP,
    [],
    { features: 0 },
  ],
  ["an empty flush", (g) => g.empty(FLUSH), OKAY, ["F"]],
  ["an empty barrier", (g) => g.empty(BARRIER), OKAY, ["F"]],
  ["an empty flush with rubbish in its sector", (g) => ({ ...g.empty(FLUSH), sector: MAX_U64 }), OKAY, ["F"]],
  [
    "an empty barrier with rubbish in its sector",
    (g) => ({ ...g.empty(BARRIER), sector: MAX_U64 - 5n }),
    OKAY,
    ["F"],
  ],
]);

test("a flush as NetBSD's frontend writes it: over the response that lay there, sector and segments as they were", () => {
  for (const layout of ["x86_64", "x86_32"] satisfies Layout[]) {
    const h = new Harness({ layout });
    const guest = new Guest(h);
    const wide = layout === "x86_64";
    for (let i = 0; i < 64; i++) {
      const old = encodeRequest(layout, guest.transfer(WRITE, i % 7 ? MAX_U64 - BigInt(i) : 12345, 11), 0xa5);
      // The frontend's ids are less than 32, so the response left 0 in nr_segments.
      old.set([FLUSH, 0], 0);
      new DataView(old.buffer).setBigUint64(wide ? 8 : 4, BigInt(i % 32), true);
      h.putBytes(old);
      h.push();
      h.step();
      assert.deepEqual(h.underway.map(short), ["F"]);
      h.finish();
      assert.deepEqual(h.responses(), [{ id: BigInt(i % 32), operation: FLUSH, status: OKAY }]);
    }
    h.release();
  }
});

// ---- Ranges ----

const END = 4096;
const rangeRows = (name: string, make: (g: Guest, sector: bigint) => WireRequest, io: string): Row[] =>
  [
    [0n, OKAY],
    [BigInt(END - 8), OKAY],
    [BigInt(END - 7), ERROR],
    [BigInt(END), ERROR],
    [BigInt(END + 1), ERROR],
    [1n << 32n, ERROR],
    [(1n << 55n) - 8n, ERROR],
    [1n << 63n, ERROR],
    [MAX_U64, ERROR],
    [MAX_U64 - 6n, ERROR],
    [MAX_U64 - 7n, ERROR],
    [MAX_U64 - 8n, ERROR],
  ].map(
    ([sector, status]): Row => [
      `${name} of 8 sectors at ${sector}`,
      (g) => make(g, sector as bigint),
      Number(status),
      status === OKAY ? [`${io}${sector}+8`] : [],
    ],
  );

table([
  ...rangeRows("a read", (g, sector) => g.transfer(READ, sector), "R"),
  ...rangeRows("a write", (g, sector) => g.transfer(WRITE, sector), "W"),
  ...rangeRows("a flush with data", (g, sector) => g.transfer(FLUSH, sector), "W"),
  ...rangeRows("a discard", (g, sector) => g.discard(sector, 8), "D"),
]);

// ---- Discard ----

table([
  ["a discard of nothing", (g) => g.discard(8, 0), OKAY],
  ["a discard of nothing at the very end", (g) => g.discard(END, 0), OKAY],
  ["a discard of nothing past the end", (g) => g.discard(END + 1, 0), ERROR],
  ["a discard of the whole disk", (g) => g.discard(0, END), OKAY, [`D0+${END}`]],
  ["a discard of one sector more", (g) => g.discard(0, END + 1), ERROR],
  ["a discard of everything there could be", (g) => g.discard(0, MAX_U64), ERROR],
  ["a discard that wraps to 0", (g) => g.discard(8, MAX_U64 - 7n), ERROR],
  ["a discard that wraps into the disk", (g) => g.discard(MAX_U64 - 7n, 16), ERROR],
  ["a discard on a read-only disk", (g) => g.discard(0, 8), ERROR, [], readOnly],
  [
    "the same where discard was not offered",
    (g) => g.discard(0, 8),
    ERROR,
    [],
    { features: abi.FEATURE_READ_ONLY },
  ],
  ["a discard of nothing on a read-only disk", (g) => g.discard(0, 0), ERROR, [], readOnly],
]);

test("the secure flag counts only where secure discard was offered, and only its own bit", () => {
  for (const offered of [0, abi.FEATURE_SECURE_DISCARD]) {
    for (const flag of [0, 1, 2, 3, 254, 255]) {
      const h = new Harness({ features: ALL_FEATURES | offered });
      h.put(new Guest(h).discard(0, 8, flag));
      h.push();
      h.step();
      assert.equal(h.underway[0].flags, offered && flag & 1 ? abi.IO_SECURE : 0, `flag ${flag}`);
      h.finish();
      h.release();
    }
  }
});

// ---- Read-only ----

table([
  ["read-only: a read", (g) => g.transfer(READ, 0), OKAY, ["R0+8"], readOnly],
  ["read-only: an INDIRECT read", (g) => g.indirect(READ, 0, 2), OKAY, ["R0+16"], readOnly],
  ["read-only: a write", (g) => g.transfer(WRITE, 0), ERROR, [], readOnly],
  ["read-only: an INDIRECT write", (g) => g.indirect(WRITE, 0, 2), ERROR, [], readOnly],
  ["read-only: a barrier with data", (g) => g.transfer(BARRIER, 0), ERROR, [], readOnly],
  ["read-only: a flush with data", (g) => g.transfer(FLUSH, 0), ERROR, [], readOnly],
  ["read-only: an empty flush", (g) => g.empty(FLUSH), OKAY, ["F"], readOnly],
  ["read-only: an empty barrier", (g) => g.empty(BARRIER), OKAY, ["F"], readOnly],
]);
