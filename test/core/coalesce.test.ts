/** Which I/Os come of which requests, exactly: their ranges and the lengths of their iovecs. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { BARRIER, FLUSH, Guest, OKAY, READ, short, WRITE } from "./guest.js";
import { ALL_FEATURES, Harness, type HarnessOptions } from "./harness.js";
import type { Segment, WireRequest } from "./wire.js";

const PERSISTENT = ALL_FEATURES | abi.FEATURE_PERSISTENT;

interface Case {
  name: string;
  options?: HarnessOptions;
  requests: (guest: Guest) => WireRequest[];
  /** Range and iovec lengths in 512-byte sectors, of the first pass. */
  ios: string[];
  /** Requests that have joined others by the end. */
  merged?: number;
}

const transfers = (operation: number, ...sectors: number[]) => {
  return (guest: Guest): WireRequest[] => sectors.map((sector) => guest.transfer(operation, sector));
};
const segment = (gref: number, first: number, last: number): Segment => ({ gref, first, last });

const cases: Case[] = [
  {
    name: "the segments of a request are one buffer",
    requests: (g) => [g.transfer(WRITE, 0, 11)],
    ios: ["W0+88 88"],
  },
  {
    name: "parts of pages are one buffer as well",
    requests: (g) => [
      g.transfer(READ, 5, [...g.segments(1, 6, 7), ...g.segments(3, 2, 2), ...g.segments(1)]),
    ],
    ios: ["R5+13 13"],
  },
  {
    name: "an indirect request is one buffer",
    requests: (g) => [g.indirect(READ, 8, 256)],
    ios: ["R8+2048 2048"],
  },
  {
    name: "full small requests in neighbouring slots are one buffer",
    requests: (g) => [g.transfer(READ, 0, 11), g.transfer(READ, 88, 11), g.transfer(READ, 176, 11)],
    ios: ["R0+264 264"],
    merged: 2,
  },
  {
    name: "requests that follow one another merge, one iovec each",
    requests: transfers(READ, 0, 8, 16, 24),
    ios: ["R0+32 8,8,8,8"],
    merged: 3,
  },
  { name: "gaps do not merge", requests: transfers(WRITE, 0, 9, 18), ios: ["W0+8 8", "W9+8 8", "W18+8 8"] },
  {
    name: "descending requests do not merge",
    requests: transfers(READ, 24, 16, 8, 0),
    ios: ["R24+8 8", "R16+8 8", "R8+8 8", "R0+8 8"],
  },
  {
    name: "a request merges with the one before it only",
    requests: transfers(READ, 0, 64, 8, 72),
    ios: ["R0+8 8", "R64+8 8", "R8+8 8", "R72+8 8"],
  },
  {
    name: "the same sectors read twice are two I/Os",
    requests: transfers(READ, 0, 0),
    ios: ["R0+8 8", "R0+8 8"],
  },
  {
    name: "reads and writes each go on where they were, never together",
    requests: (g) => [
      g.transfer(READ, 0),
      g.transfer(WRITE, 8),
      g.transfer(READ, 64),
      g.transfer(WRITE, 16),
      g.transfer(READ, 72),
    ],
    ios: ["R0+8 8", "W8+16 8,8", "R64+16 8,8"],
    merged: 2,
  },
  {
    name: "an I/O stays within CONFIG_MAX_IO",
    options: { maxIo: 16 * 512 },
    requests: transfers(READ, 0, 8, 16, 24, 32),
    ios: ["R0+16 8,8", "R16+16 8,8", "R32+8 8"],
    merged: 2,
  },
  {
    name: "a single request may exceed CONFIG_MAX_IO, and nothing joins it",
    options: { maxIo: 4096 },
    requests: (g) => [g.transfer(READ, 0, 2), g.transfer(READ, 16)],
    ios: ["R0+16 16", "R16+8 8"],
  },
  {
    name: "up to MAX_IO and no sector further",
    options: { sectors: 8192 },
    requests: (g) => [
      g.indirect(WRITE, 0, 255),
      g.transfer(WRITE, 2040, g.segments(1)),
      g.transfer(WRITE, 2048, g.segments(1, 0, 0)),
    ],
    ios: ["W0+2048 2040,8", "W2048+1 1"],
    merged: 1,
  },
  {
    name: "a flush with data and its neighbours stay apart",
    requests: (g) => [
      g.transfer(FLUSH, 0),
      g.transfer(WRITE, 8),
      g.transfer(WRITE, 16),
      g.transfer(READ, 24),
    ],
    ios: ["W0+8 8", "W8+16 8,8", "R24+8 8"],
    merged: 1,
  },
  {
    name: "nothing goes with a barrier, and nothing behind it goes yet",
    requests: (g) => [g.transfer(BARRIER, 0), g.transfer(WRITE, 8), g.transfer(WRITE, 16)],
    ios: ["W0+8 8"],
    merged: 1,
  },
  {
    name: "a write behind a flush may join a write before it: it could have gone first",
    requests: (g) => [g.transfer(WRITE, 0), g.empty(FLUSH), g.transfer(WRITE, 8)],
    ios: ["W0+16 8,8"],
    merged: 1,
  },
  {
    name: "two discards are two",
    requests: (g) => [g.discard(0, 8), g.discard(8, 8)],
    ios: ["D0+8 ", "D8+8 "],
  },
  {
    name: "mapped pages that are neighbours are one iovec",
    options: { features: PERSISTENT },
    requests: (g) => [g.transfer(READ, 0, 11), g.transfer(READ, 88, 2)],
    ios: ["R0+104 104"],
    merged: 1,
  },
  {
    name: "mapped parts of pages are an iovec each, unless they touch",
    options: { features: PERSISTENT },
    requests: (g) => [
      g.transfer(WRITE, 0, [...g.segments(1, 0, 3), ...g.segments(1, 4, 7), ...g.segments(1, 0, 7)]),
    ],
    ios: ["W0+16 4,12"],
  },
  {
    name: "mapped pages in another order than the window's are an iovec each",
    options: { features: PERSISTENT },
    requests: (g) => {
      const pages = g.segments(4);
      return [g.transfer(WRITE, 0, pages), g.transfer(WRITE, 64, [...pages].reverse())];
    },
    ios: ["W0+32 32", "W64+32 8,8,8,8"],
  },
  {
    name: "one page for every segment of a request",
    options: { features: PERSISTENT },
    requests: (g) => {
      const [{ gref }] = g.segments(1);
      return [g.transfer(WRITE, 0, [segment(gref, 0, 0), segment(gref, 1, 3), segment(gref, 0, 7)])];
    },
    ios: ["W0+12 4,8"],
  },
  {
    name: "no more than 256 iovecs, counted before they are joined",
    options: { features: PERSISTENT, sectors: 8192 },
    requests: (g) => [
      g.indirect(WRITE, 0, g.segments(250, 1, 1)),
      g.transfer(WRITE, 250, g.segments(6, 1, 1)),
      g.transfer(WRITE, 256, g.segments(1, 1, 1)),
    ],
    ios: [`W0+256 ${Array(256).fill(1)}`, "W256+1 1"],
    merged: 1,
  },
  {
    name: "mapped and copied requests merge",
    options: { features: PERSISTENT, maxPersistent: 2 },
    requests: (g) => [g.transfer(READ, 0, 2), g.transfer(READ, 16, 3), g.transfer(READ, 40, 1)],
    ios: ["R0+48 16,24,8"],
    merged: 2,
  },
];

for (const { name, options, requests, ios, merged = 0 } of cases) {
  test(name, () => {
    const h = new Harness({ sectors: 4096, ...options });
    h.disk.forEach((_, i) => {
      h.disk[i] = (i >> 9) & 0xff;
    });
    const list = requests(new Guest(h));
    for (const request of list) h.put(request);
    h.push();
    h.step();
    assert.deepEqual(
      h.underway.map((io) => `${short(io)} ${h.iovecs(io).map((bytes) => bytes / 512)}`),
      ios,
    );
    for (const io of h.underway)
      if (io.operation < 2)
        assert.equal(
          h.iovecs(io).reduce((a, b) => a + b),
          io.length,
        );
    h.finish();
    assert.deepEqual(
      h.statuses(list),
      list.map(() => OKAY),
    );
    const counters = h.core.counters();
    assert.deepEqual({ merged: counters.merged, ios: counters.ios }, { merged, ios: h.ios.length });
    // Every request has its own bytes, whatever they travelled with.
    for (const { sector, segments } of list) {
      let at = Number(sector) * 512;
      for (const { gref, first, last } of segments ?? []) {
        const page = h.guestPage(gref).subarray(first * 512, last * 512 + 512);
        assert.deepEqual(Buffer.from(page), Buffer.from(h.disk.subarray(at, at + page.length)));
        at += page.length;
      }
    }
    h.release();
  });
}

test("mapped pages are one iovec as far as they are neighbours, whichever of them is not", () => {
  const h = new Harness({ features: PERSISTENT, disk: false });
  const guest = new Guest(h);
  const read = (segments: Segment[]): [number, number][] => {
    const direct = segments.length <= abi.MAX_DIRECT_SEGMENTS;
    const request = direct ? guest.transfer(READ, 0, segments) : guest.indirect(READ, 0, segments);
    h.put(request);
    h.push();
    h.step();
    const [io] = h.underway.splice(0);
    const lengths = h.iovecs(io);
    const runs = h.addresses(io).map((address, i): [number, number] => [address, lengths[i]]);
    h.step([{ slot: io.slot, result: abi.IO_RESULT_SUCCESS }]);
    assert.deepEqual(h.statuses([request]), [OKAY]);
    return runs;
  };
  const pages = guest.segments(20);
  assert.equal(read(pages).length, 1, "they are mapped as neighbours");
  const placeOf = new Map([...h.mapped].map(([page, gref]) => [gref, abi.PERSISTENT + page * 4096]));
  for (let count = 1; count <= 14; count++) {
    for (let odd = 0; odd < count; odd++) {
      for (const other of [odd - 1, odd, odd + 1, 17]) {
        const segments = pages.slice(1, count + 1);
        segments[odd] = pages[other + 1];
        const expected: [number, number][] = [];
        for (const { gref } of segments) {
          const at = placeOf.get(gref) as number;
          const last = expected.at(-1);
          if (last && last[0] + last[1] === at) last[1] += 4096;
          else expected.push([at, 4096]);
        }
        assert.deepEqual(read(segments), expected, `${other} for ${odd} of ${count}`);
      }
    }
  }
  h.release();
});
