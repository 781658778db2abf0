/** The order that a guest may rely on, checked by holding completions back. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { BARRIER, DISCARD, FLUSH, Guest, OKAY, READ, short, WRITE } from "./guest.js";
import { Harness } from "./harness.js";
import type { WireRequest } from "./wire.js";

/**
 * Requests in short, and whom each must wait for: "W0+8" writes 8 sectors from sector 0 on; R reads, D discards, F is
 * a flush and B a barrier (with data if a range follows). "2<01" says that request 2 waits for 0 and 1.
 */
type Case = [name: string, requests: string, waits?: string];

const cases: Case[] = [
  ["disjoint requests go at once", "W0+8 R8+8 W16+8 D24+8 R32+8"],
  ["reads of the same sectors go at once", "R0+8 R0+8 R4+8"],
  ["write after write", "W0+8 W4+8", "1<0"],
  ["read after write", "W0+8 R7+1", "1<0"],
  ["write after read", "R0+8 W7+2", "1<0"],
  ["one sector of overlap at either end", "W8+8 R1+8 R15+8", "1<0 2<0"],
  ["neighbours do not overlap", "W8+8 R0+8 R16+8"],
  ["the same request inside and around", "W0+32 R8+8 W64+8 R32+64", "1<0 3<2"],
  ["discard and read, discard and write, both ways", "D0+8 R0+8 W32+8 D32+8 D64+8 D64+8", "1<0 3<2 5<4"],
  ["a large discard", "W2000+8 D0+65536 R3000+8 R8+8 W65536+8", "1<0 2<1 3<1"],
  ["two large discards", "D0+32768 D32768+8192 D8+40000", "2<01"],
  ["many small ones before a large discard", "W0+8 R256+8 W60000+8 D0+60001 W70000+8", "3<012"],
  ["requests that only share a bucket of the table do not wait", "W0+8 R16+8 W262144+8 R524288+8"],
  ["a flush waits for writes and discards, not for reads", "W0+8 R8+8 D16+8 F", "3<02"],
  ["nothing waits for a flush", "F W0+8 R8+8 B F", "3<012 4<13"],
  ["a flush waits for a write that waits", "W0+8 W0+8 F", "1<0 2<01"],
  ["a flush with data is a write and waits for writes", "W0+8 F16+8 R16+8 F", "1<0 2<1 3<01"],
  ["an empty barrier drains both sides", "R0+8 W8+8 F B R16+8 W24+8 F", "2<1 3<012 4<3 5<3 6<35"],
  ["a barrier with data does so too", "R0+8 W8+8 B64+8 R16+8", "2<01 3<2"],
  ["two barriers", "W0+8 B B W8+8", "1<0 2<01 3<12"],
  ["a chain of three", "W0+8 R4+8 W8+8", "1<0 2<1"],
  ["a chain of three writes", "W0+8 W0+8 W0+8", "1<0 2<01"],
  ["a write waits for both its readers", "R0+8 R0+8 W0+8", "2<01"],
  ["readers of one write go together", "W0+8 R0+8 R0+8 W0+8", "1<0 2<0 3<012"],
  ["a range over several buckets", "W248+16 R250+1 R260+1 W264+8", "1<0 2<0"],
  ["the end of the disk", "W1048568+8 R1048568+8 D1048000+576", "1<0 2<01"],
];

const OPERATIONS: Record<string, number> = { R: READ, W: WRITE, D: DISCARD, F: FLUSH, B: BARRIER };

function parse(guest: Guest, text: string): WireRequest {
  const operation = OPERATIONS[text[0]];
  const [sector, sectors] = text.slice(1).split("+").map(Number);
  if (text.length === 1) return guest.empty(operation);
  if (operation === DISCARD) return guest.discard(sector, sectors);
  const segments = [];
  for (let left = sectors; left > 0; left -= 8) segments.push(...guest.segments(1, 0, Math.min(left, 8) - 1));
  return guest.transfer(operation, sector, segments);
}

/** What the I/O of a request looks like. */
function shortOf(text: string): string {
  return text.length === 1 ? "F" : text.replace(/^[FB]/, "W");
}

function play(requests: string[], waits: Map<number, Set<number>>, next: (count: number) => number): void {
  const h = new Harness({ sectors: 1048576, maxIo: 4096, disk: false });
  const guest = new Guest(h);
  const wire = requests.map((text) => parse(guest, text));
  for (const request of wire) h.put(request);
  h.push();
  h.step();
  const done = new Set<number>();
  for (;;) {
    const going = requests.flatMap((_, i) =>
      !done.has(i) && [...(waits.get(i) ?? [])].every((other) => done.has(other)) ? [i] : [],
    );
    assert.deepEqual(
      h.underway.map(short).sort(),
      going.map((i) => shortOf(requests[i])).sort(),
      `${[...done]} done`,
    );
    if (going.length === 0) break;
    const one = going[next(going.length)];
    const at = h.underway.findIndex((io) => short(io) === shortOf(requests[one]));
    const [io] = h.underway.splice(at, 1);
    h.step([{ slot: io.slot, result: 0 }]);
    done.add(one);
  }
  assert.equal(done.size, requests.length);
  h.assertNoHazards();
  assert.deepEqual(
    h.statuses(wire),
    wire.map(() => OKAY),
  );
  h.release();
}

for (const [name, text, edges = ""] of cases) {
  test(name, () => {
    const requests = text.split(" ");
    const waits = new Map(
      edges
        .split(" ")
        .filter((edge) => edge !== "")
        .map((edge) => edge.split("<"))
        .map(([later, earlier]) => [Number(later), new Set([...earlier].map(Number))]),
    );
    play(requests, waits, () => 0);
    play(requests, waits, (count) => count - 1);
    play(requests, waits, (count) => count >> 1);
  });
}

test("discards of a disk of pebibytes take no longer than others", { timeout: 120_000 }, () => {
  const sectors = 2 ** 43;
  const h = new Harness({ sectors, disk: false, maxIo: 4096 });
  const guest = new Guest(h);
  const requests = [
    guest.transfer(WRITE, 0),
    guest.discard(8, sectors / 2),
    guest.discard(sectors / 2 + 8, 8),
    guest.transfer(READ, sectors / 2),
    guest.discard(0, sectors),
  ];
  for (const request of requests) h.put(request);
  h.push();
  h.step();
  assert.deepEqual(h.underway.map(short), ["W0+8", `D8+${sectors / 2}`, `D${sectors / 2 + 8}+8`]);
  while (h.underway.length > 0) h.step(h.underway.splice(0, 1).map(({ slot }) => ({ slot, result: 0 })));
  assert.deepEqual(h.statuses(requests), [OKAY, OKAY, OKAY, OKAY, OKAY]);
  h.assertNoHazards();
  h.release();
});

test("reads are not noted where reads would look", () => {
  const h = new Harness();
  const guest = new Guest(h);
  h.put(guest.transfer(READ, 0));
  h.push();
  h.step();
  const table = h.memory.u32.subarray(abi.HAZARDS >> 2, (abi.HAZARDS >> 2) + abi.HAZARD_BUCKETS);
  assert.deepEqual(
    [...table].filter((counts) => counts !== 0),
    [1],
  );
  h.finish();
  h.release();
});

test("held requests are counted, and only those", () => {
  const h = new Harness();
  const guest = new Guest(h);
  h.serve(guest.transfer(WRITE, 0), guest.transfer(WRITE, 0), guest.transfer(READ, 64), guest.empty(FLUSH));
  assert.equal(h.core.counters().held, 2);
  h.release();
});

test("a request enters behind an INDIRECT whose segments are still on their way", () => {
  const h = new Harness({ maxIo: 4096 });
  const guest = new Guest(h);
  const requests = [guest.indirect(WRITE, 0, 2), guest.transfer(READ, 8), guest.indirect(WRITE, 8, 1)];
  for (const request of requests) h.put(request);
  h.push();
  h.step();
  assert.deepEqual(h.underway.map(short), ["W0+16"]);
  const [first] = h.underway.splice(0);
  h.step([{ slot: first.slot, result: 0 }]);
  assert.deepEqual(h.underway.map(short), ["R8+8"]);
  h.finish();
  assert.deepEqual(h.ios.map(short), ["W0+16", "R8+8", "W8+8"]);
  assert.deepEqual(h.statuses(requests), [OKAY, OKAY, OKAY]);
  h.release();
});

test("a held request that fails lets go of those behind it", () => {
  const h = new Harness();
  const guest = new Guest(h);
  const requests = [
    guest.transfer(WRITE, 0),
    guest.transfer(WRITE, 0),
    guest.transfer(READ, 0),
    guest.empty(FLUSH),
  ];
  for (const request of requests) h.put(request);
  h.push();
  h.step();
  h.pages.delete(requests[1].segments?.[0].gref ?? 0);
  h.finish();
  assert.deepEqual(h.ios.map(short), ["W0+8", "R0+8", "F"]);
  assert.deepEqual(h.statuses(requests), [OKAY, -1, OKAY, OKAY]);
  h.release();
});

test("order holds across the wrap-around of the ring's indices", () => {
  for (let startIndex = 0xfffffffa; startIndex <= 0xffffffff; startIndex++) {
    const h = new Harness({ startIndex, maxIo: 4096 });
    const guest = new Guest(h);
    const requests = [0, 0, 0, 0, 0, 0].map((sector, i) => guest.transfer(i % 2 ? READ : WRITE, sector));
    for (const request of requests) h.put(request);
    h.push();
    h.step();
    h.finish();
    assert.deepEqual(h.ios.map(short), ["W0+8", "R0+8", "W0+8", "R0+8", "W0+8", "R0+8"]);
    assert.deepEqual(
      h.statuses(requests),
      requests.map(() => OKAY),
    );
    h.release();
  }
});

test("nothing waits for an empty flush for the sector number that it happens to hold", () => {
  const h = new Harness({ disk: false });
  const guest = new Guest(h);
  h.put({ ...guest.empty(FLUSH), sector: 20n });
  for (const sector of [8, 40, 16]) h.put(guest.transfer(WRITE, sector));
  h.push();
  h.step();
  assert.deepEqual(h.underway.map(short), ["F", "W8+8", "W40+8", "W16+8"]);
  h.release();
});
