import assert from "node:assert/strict";
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { type TestContext, test } from "node:test";
import { type LinearMemory, PAGE_SIZE } from "../../host/core/memory.js";
import { GNTTAB_BYTES, GNTTAB_ENTRIES, Gtf } from "../../host/platform/loopback/gnttab.js";
import type { Hypervisor } from "../../host/platform/loopback/index.js";
import { paths } from "../../host/platform/loopback/layout.js";
import { mapFile } from "../../host/platform/mapping.js";
import { Gntst, type GrantTable, type GuestPages } from "../../host/platform/ports.js";
import { GUEST, GUEST_BYTES, joinDomain, ringMemory, startHypervisor } from "./support.js";

interface Bench {
  hypervisor: Hypervisor;
  guest: GuestPages;
  grants: GrantTable;
  memory: LinearMemory;
  /** The guest's table, in words of 32 bits: flags and domid, frame. */
  entries: Uint32Array;
}

async function bench(t: TestContext): Promise<Bench> {
  const hypervisor = await startHypervisor(t);
  const guest = await (await joinDomain(t, hypervisor, GUEST)).pages();
  const grants = await (await joinDomain(t, hypervisor, 0)).grantTable();
  const gnttab = mapFile(paths.gnttab(hypervisor.directory, GUEST), GNTTAB_BYTES);
  t.after(() => gnttab.close());
  return { hypervisor, guest, grants, memory: ringMemory(), entries: gnttab.memory.u32 };
}

function map(b: Bench, refs: number[], writable = true, at = 0, domid = GUEST): number[] {
  const status = new Int16Array(refs.length).fill(77);
  b.grants.map(b.memory, at, domid, Uint32Array.from(refs), writable, status);
  return [...status];
}

type Side = { address: number } | { ref: number; offset: number; domid?: number };

function copy(b: Bench, ...segments: { from: Side; to: Side; length: number; flags?: number }[]): number[] {
  const table = 512 * 1024;
  for (const [i, { from, to, length, flags }] of segments.entries()) {
    const word = table / 4 + i * 6;
    for (const [at, side] of [[word, from] as const, [word + 2, to] as const]) {
      if ("address" in side) {
        b.memory.u32[at] = side.address % 2 ** 32;
        b.memory.u32[at + 1] = Math.floor(side.address / 2 ** 32);
      } else {
        b.memory.u32[at] = side.ref;
        b.memory.u32[at + 1] = side.offset | ((side.domid ?? GUEST) << 16);
      }
    }
    const kinds = ("ref" in from ? 1 : 0) | ("ref" in to ? 2 : 0);
    b.memory.u32[word + 4] = length | ((flags ?? kinds) << 16);
    b.memory.u32[word + 5] = 0xdead;
  }
  b.grants.copy(b.memory, table, segments.length);
  return segments.map((_, i) => (b.memory.i32[table / 4 + i * 6 + 5] << 16) >> 16);
}

test("a mapped page is the guest's page, both ways, and unmapping gives zeros and the grant back", async (t) => {
  const b = await bench(t);
  const frame = b.guest.allocate(3);
  const refs = [0, 1, 2].map((i) => b.guest.grant(0, frame + i, false));
  b.guest.memory.u8[frame * PAGE_SIZE + 5] = 11;
  assert.deepEqual(map(b, refs, true, 8 * PAGE_SIZE), [0, 0, 0]);
  assert.equal(b.grants.mappedPages, 3);
  assert.equal(b.memory.u8[8 * PAGE_SIZE + 5], 11);
  b.memory.u8[10 * PAGE_SIZE] = 12;
  assert.equal(b.guest.memory.u8[(frame + 2) * PAGE_SIZE], 12);
  assert.equal(b.entries[refs[0] * 2], Gtf.permitAccess | Gtf.reading | Gtf.writing);
  assert.equal(b.guest.endAccess(refs[0]), false);

  b.grants.unmap(b.memory, 8 * PAGE_SIZE, 1);
  assert.equal(b.guest.endAccess(refs[0]), true);
  assert.equal(b.guest.endAccess(refs[1]), false);
  b.grants.unmap(b.memory, 0, 16);
  assert.equal(b.memory.u8[8 * PAGE_SIZE + 5], 0);
  assert.equal(b.guest.memory.u8[frame * PAGE_SIZE + 5], 11);
  assert.ok(b.guest.endAccess(refs[1]) && b.guest.endAccess(refs[2]));
  assert.equal(b.grants.mappedPages, 0);
  assert.equal(b.hypervisor.grantsInUse(), 0);
  assert.throws(() => b.guest.endAccess(refs[1]), /not in use/);
});

test("pages that lie anywhere in the guest come in the order of their references", async (t) => {
  const b = await bench(t);
  const frame = b.guest.allocate(8);
  const order = [0, 1, 2, 7, 5, 6, 6, 3];
  for (const i of order) b.guest.memory.u8[(frame + i) * PAGE_SIZE] = 100 + i;
  const refs = order.map((i) => b.guest.grant(0, frame + i, false));
  const status = map(b, [...refs.slice(0, 4), 3000, ...refs.slice(4)]);
  assert.deepEqual(status, [0, 0, 0, 0, Gntst.generalError, 0, 0, 0, 0]);
  const bytes = status.map((_, page) => b.memory.u8[page * PAGE_SIZE]);
  assert.deepEqual(bytes, [100, 101, 102, 107, 0, 105, 106, 106, 103]);
});

test("map answers as Xen does, and a failed page is a zero page", async (t) => {
  const b = await bench(t);
  const frame = b.guest.allocate(2);
  const good = b.guest.grant(0, frame, false);
  const readOnly = b.guest.grant(0, frame + 1, true);
  const forOther = b.guest.grant(7, frame, false);
  const outside = b.guest.grant(0, GUEST_BYTES / PAGE_SIZE, false);
  const farOutside = b.guest.grant(0, 0xffffffff, false);
  const subPage = b.guest.grant(0, frame, false);
  b.entries[subPage * 2] |= Gtf.subPage;
  const transfer = b.guest.grant(0, frame, false);
  b.entries[transfer * 2] = 2;
  b.memory.u8.fill(9, 0, 16 * PAGE_SIZE);

  const refs = [
    good,
    readOnly,
    forOther,
    outside,
    farOutside,
    subPage,
    transfer,
    100,
    GNTTAB_ENTRIES,
    0xffffffff,
  ];
  const { okay, generalError, badPage, badGntref, badDomain } = Gntst;
  assert.deepEqual(map(b, refs), [
    okay,
    generalError,
    generalError,
    badPage,
    badPage,
    generalError,
    generalError,
    generalError,
    badGntref,
    badGntref,
  ]);
  assert.equal(b.grants.mappedPages, 1);
  assert.ok(b.memory.u8.subarray(PAGE_SIZE, 10 * PAGE_SIZE).every((byte) => byte === 0));
  assert.equal(b.memory.u8[10 * PAGE_SIZE], 9);
  for (const ref of [readOnly, forOther, outside, farOutside]) assert.equal(b.guest.endAccess(ref), true);

  assert.deepEqual(map(b, [good], true, 0, 99), [badDomain]);
  assert.deepEqual(map(b, [good], true, 0, 0x7ff0), [badDomain]);
  assert.equal(b.grants.mappedPages, 0);
  assert.equal(b.guest.endAccess(good), true);
});

test("a read-only grant can be mapped to read, next to a writable one", async (t) => {
  const b = await bench(t);
  const frame = b.guest.allocate(1);
  b.guest.memory.u8[frame * PAGE_SIZE] = 3;
  const ref = b.guest.grant(0, frame, true);
  assert.deepEqual(map(b, [ref], false), [0]);
  assert.equal(b.memory.u8[0], 3);
  assert.equal(b.entries[ref * 2], Gtf.permitAccess | Gtf.readOnly | Gtf.reading);
  assert.deepEqual(map(b, [ref], true, PAGE_SIZE), [Gntst.generalError], "no write pin on top");
  const local = { address: b.memory.base };
  const segment = { from: { ref, offset: 0 }, to: local, length: 8 };
  assert.deepEqual(copy(b, segment), [Gntst.badVirtAddr], "a copy must not store to the read-only page");
  b.grants.unmap(b.memory, 0, 2);
  assert.equal(b.guest.endAccess(ref), true);
});

test("pins are counted, of each kind and over grant tables", async (t) => {
  const b = await bench(t);
  const other = await (await joinDomain(t, b.hypervisor, 0)).grantTable();
  const ref = b.guest.grant(0, b.guest.allocate(1), false);
  const flags = () => b.entries[ref * 2] & (Gtf.reading | Gtf.writing);
  const status = new Int16Array(1);
  const memory = ringMemory(65536);
  assert.deepEqual(map(b, [ref, ref], false), [0, 0]);
  assert.equal(flags(), Gtf.reading);
  other.map(memory, 0, GUEST, Uint32Array.of(ref), true, status);
  assert.equal(flags(), Gtf.reading | Gtf.writing);
  assert.deepEqual(map(b, [ref], true, 2 * PAGE_SIZE), [0]);
  assert.equal(b.hypervisor.grantsInUse(), 2);
  other.unmap(memory, 0, 1);
  assert.equal(flags(), Gtf.reading | Gtf.writing);
  b.grants.unmap(b.memory, 2 * PAGE_SIZE, 1);
  assert.equal(flags(), Gtf.reading);
  b.grants.unmap(b.memory, 0, 1);
  assert.equal(b.guest.endAccess(ref), false);
  b.grants.unmap(b.memory, PAGE_SIZE, 1);
  assert.equal(b.guest.endAccess(ref), true);
});

test("a grant that is pinned keeps its frame and its domain, whatever the guest writes", async (t) => {
  const b = await bench(t);
  await b.hypervisor.createDomain(6, 1 << 20);
  const stranger = await (await joinDomain(t, b.hypervisor, 6)).grantTable();
  const frame = b.guest.allocate(2);
  const ref = b.guest.grant(0, frame, false);
  map(b, [ref]);
  b.entries[ref * 2 + 1] = frame + 1;
  b.entries[ref * 2] = Gtf.permitAccess | (6 << 16);
  b.guest.memory.u8[frame * PAGE_SIZE] = 1;
  b.guest.memory.u8[(frame + 1) * PAGE_SIZE] = 2;
  assert.deepEqual(map(b, [ref], false, PAGE_SIZE), [0]);
  assert.equal(b.memory.u8[PAGE_SIZE], 1);
  const status = new Int16Array(1);
  stranger.map(ringMemory(65536), 0, GUEST, Uint32Array.of(ref), false, status);
  assert.equal(status[0], Gntst.generalError);
});

test("one grant can be pinned 128 times, as in Xen", async (t) => {
  const b = await bench(t);
  const ref = b.guest.grant(0, b.guest.allocate(1), false);
  const status = map(b, new Array<number>(130).fill(ref));
  assert.equal(status.filter((s) => s === 0).length, 128);
  assert.deepEqual(status.slice(128), [Gntst.generalError, Gntst.generalError]);
  b.grants.unmap(b.memory, 0, 130);
  assert.equal(b.guest.endAccess(ref), true);
});

test("copies go both ways, between grants, and up to the edges of pages", async (t) => {
  const b = await bench(t);
  const frame = b.guest.allocate(2);
  const [one, two] = [b.guest.grant(0, frame, false), b.guest.grant(0, frame + 1, false)];
  for (let i = 0; i < PAGE_SIZE; i++) b.guest.memory.u8[frame * PAGE_SIZE + i] = i % 251;
  const local = b.memory.base + 3 * PAGE_SIZE + 100;
  const whole = { from: { ref: one, offset: 0 }, to: { address: local }, length: PAGE_SIZE };
  assert.deepEqual(copy(b, whole), [0]);
  const page = b.guest.memory.u8.subarray(frame * PAGE_SIZE, (frame + 1) * PAGE_SIZE);
  assert.deepEqual(b.memory.u8.slice(3 * PAGE_SIZE + 100, 4 * PAGE_SIZE + 100), page.slice());

  const end = b.memory.base + b.memory.u8.length;
  assert.deepEqual(
    copy(
      b,
      { from: { ref: one, offset: 4095 }, to: { address: end - 1 }, length: 1 },
      { from: { address: local }, to: { ref: two, offset: 3584 }, length: 512 },
      { from: { ref: one, offset: 512 }, to: { ref: two, offset: 0 }, length: 512 },
      { from: { ref: one, offset: 0 }, to: { ref: one, offset: 1 }, length: 8 },
      { from: { ref: one, offset: 4096 }, to: { address: local }, length: 0 },
    ),
    [0, 0, 0, 0, 0],
  );
  const second = b.guest.memory.u8.subarray((frame + 1) * PAGE_SIZE, (frame + 2) * PAGE_SIZE);
  assert.equal(b.memory.u8[b.memory.u8.length - 1], 4095 % 251);
  assert.equal(second[3584 + 511], 511 % 251);
  assert.equal(second[3583], 0);
  assert.equal(second[511], 1023 % 251);
  assert.deepEqual([...page.subarray(0, 10)], [0, 0, 1, 2, 3, 4, 5, 6, 7, 9]);
  assert.ok(b.guest.endAccess(one) && b.guest.endAccess(two), "no pin is left");
});

test("copy refuses each wrong segment and still does the others", async (t) => {
  const b = await bench(t);
  const frame = b.guest.allocate(1);
  const ref = b.guest.grant(0, frame, false);
  const readOnly = b.guest.grant(0, frame, true);
  const outside = b.guest.grant(0, 1 << 30, false);
  const page = b.memory.base + PAGE_SIZE;
  const to = { address: page };
  const from = { ref, offset: 0 };
  const end = b.memory.base + b.memory.u8.length;
  const { badCopyArg, badVirtAddr, badDomain, badGntref, generalError, badPage } = Gntst;
  assert.deepEqual(
    copy(
      b,
      { from, to, length: 4096 },
      { from: { ref, offset: 1 }, to, length: 4096 },
      { from: to, to: { ref, offset: 4095 }, length: 2 },
      { from: { address: page }, to, length: 8 },
      { from, to, length: 8, flags: 5 },
      { from, to: { address: end - 7 }, length: 8 },
      { from: { address: b.memory.base - 1 }, to: from, length: 8 },
      { from, to: { address: 2 ** 60 }, length: 8 },
      { from: { ref, offset: 0, domid: 9 }, to, length: 8 },
      { from, to: { ref: 8, offset: 0, domid: 9 }, length: 8 },
      { from: { ref: GNTTAB_ENTRIES, offset: 0 }, to, length: 8 },
      { from: to, to: { ref: readOnly, offset: 0 }, length: 8 },
      { from: { ref: 200, offset: 0 }, to, length: 8 },
      { from: { ref: outside, offset: 0 }, to, length: 8 },
      { from, to: { ref: readOnly, offset: 0 }, length: 8 },
      { from: { ref: readOnly, offset: 0 }, to, length: 8 },
    ),
    [
      0,
      badCopyArg,
      badCopyArg,
      badCopyArg,
      badCopyArg,
      badVirtAddr,
      badVirtAddr,
      badVirtAddr,
      badDomain,
      badDomain,
      badGntref,
      generalError,
      generalError,
      badPage,
      generalError,
      0,
    ],
  );
  for (const used of [ref, readOnly, outside]) assert.equal(b.guest.endAccess(used), true);
  assert.equal(b.hypervisor.grantsInUse(), 0);
});

test("closing a grant table unmaps and unpins", async (t) => {
  const b = await bench(t);
  const ref = b.guest.grant(0, b.guest.allocate(1), false);
  map(b, [ref]);
  b.grants.close();
  assert.equal(b.guest.endAccess(ref), true);
  assert.equal(b.grants.mappedPages, 0);
  assert.deepEqual(map(b, [ref]), [Gntst.badDomain]);
});

test("a destroyed domain's pages stay mapped, and its successor is another domain", async (t) => {
  const b = await bench(t);
  const frame = b.guest.allocate(1);
  const ref = b.guest.grant(0, frame, false);
  map(b, [ref]);
  b.memory.u8[0] = 5;
  await b.hypervisor.destroyDomain(GUEST);
  assert.equal(b.memory.u8[0], 5);
  assert.deepEqual(map(b, [ref], true, PAGE_SIZE), [Gntst.badDomain]);
  await b.hypervisor.createDomain(GUEST, GUEST_BYTES);
  const next = await (await joinDomain(t, b.hypervisor, GUEST)).pages();
  const nextRef = next.grant(0, next.allocate(1), false);
  assert.deepEqual(map(b, [nextRef], true, PAGE_SIZE), [0]);
  assert.equal(b.memory.u8[PAGE_SIZE], 0);
  b.grants.unmap(b.memory, 0, 2);
  assert.equal(b.grants.mappedPages, 0);
  assert.equal(next.endAccess(nextRef), true);
});

test("a damaged file makes the domain a bad one, with a warning", async (t) => {
  const b = await bench(t);
  const warnings: Error[] = [];
  process.on("warning", (warning) => warnings.push(warning));
  t.after(() => process.removeAllListeners("warning"));
  const path = paths.gnttab(b.hypervisor.directory, GUEST);
  const whole = readFileSync(path);
  truncateSync(path, 4096);
  assert.deepEqual(map(b, [8]), [Gntst.badDomain]);
  writeFileSync(path, whole);
  await new Promise(setImmediate);
  assert.match(warnings[0].message, /gnttab has 4096 bytes where 262144 are expected: it is damaged/);
});

test("frames come in runs, and a full guest says so", async (t) => {
  const { guest } = await bench(t);
  const pages = GUEST_BYTES / PAGE_SIZE;
  const all = guest.allocate(pages - 1);
  assert.equal(all, 1, "frame 0 is nobody's");
  assert.throws(() => guest.allocate(1), /no 1 consecutive pages left/);
  guest.free(10, 4);
  guest.free(20, 5);
  assert.equal(guest.allocate(5), 20);
  assert.equal(guest.allocate(4), 10);
});

test("a guest's successor takes back the grants that nobody uses", async (t) => {
  const b = await bench(t);
  const frame = b.guest.allocate(2);
  const idle = b.guest.grant(0, frame, false);
  const used = b.guest.grant(0, frame + 1, false);
  map(b, [used]);
  await b.guest.close();
  const next = await (await joinDomain(t, b.hypervisor, GUEST)).pages();
  assert.equal(b.entries[idle * 2], 0);
  const pages = GUEST_BYTES / PAGE_SIZE;
  const frames = Array.from({ length: pages - 2 }, () => next.allocate(1));
  assert.ok(!frames.includes(frame + 1), "a page that is still mapped is not given out");
});
