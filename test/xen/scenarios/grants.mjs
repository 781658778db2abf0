// gntdev on a real Xen: pages that dom0 grants to itself (gntalloc), mapped and copied as a guest's are.
import assert from "node:assert/strict";
import { closeSync, openSync, writeSync } from "node:fs";

const host = "/usr/lib/node_modules/xbdback/build/host";
const { allocateMemory } = await import(`${host}/core/memory.js`);
const { addressOf, ioctl, mapFixed } = await import(`${host}/platform/libc.js`);
const { XenGrantTable } = await import(`${host}/platform/xen/grant-table.js`);

const PAGE = 4096;
const DOMID = 0;
const NEVER_GRANTED = 0x7fffffff;
const IOCTL_GNTALLOC_ALLOC_GREF = 0x184705;
const gntalloc = openSync("/dev/xen/gntalloc", "r+");

/** Pages of dom0 that it grants to itself: their references, and a view of them. */
function granted(count, writable) {
  // struct ioctl_gntalloc_alloc_gref: u16 domid, u16 flags (1 writable), u32 count, u64 index (out), u32 refs[] (out).
  const argument = new DataView(new ArrayBuffer(16 + 4 * Math.max(count, 2)));
  argument.setUint16(0, DOMID, true);
  argument.setUint16(2, writable ? 1 : 0, true);
  argument.setUint32(4, count, true);
  ioctl(gntalloc, IOCTL_GNTALLOC_ALLOC_GREF, new Uint8Array(argument.buffer), "ALLOC_GREF");
  const memory = allocateMemory(count * PAGE, addressOf);
  mapFixed(memory.base, count * PAGE, gntalloc, Number(argument.getBigUint64(8, true)), true);
  for (let i = 0; i < count; i++) memory.u8.fill(0x10 + i, i * PAGE, (i + 1) * PAGE);
  const refs = Uint32Array.from({ length: count }, (_, i) => argument.getUint32(16 + 4 * i, true));
  return { refs, memory };
}

/** Numbers of the pages that the kernel cannot read. To touch them would kill us. */
function unreadable({ memory }) {
  const pages = [];
  const file = openSync("/tmp/pages", "w");
  for (let page = 0; page < memory.buffer.byteLength / PAGE; page++) {
    try {
      writeSync(file, new Uint8Array(memory.buffer, page * PAGE, PAGE), 0, PAGE, 0);
    } catch {
      pages.push(page);
    }
  }
  closeSync(file);
  return pages;
}

function check(name, body) {
  try {
    body();
    console.log(`CHECK ok ${name}`);
  } catch (error) {
    console.log(`${error.stack}\nCHECK FAILED ${name}`);
  }
}

const grants = new XenGrantTable();
const memory = allocateMemory(1536 * PAGE, addressOf);
/** The page at which a 2 MiB piece of address space begins. */
const aligned = 512 - ((memory.base / PAGE) % 512);
const first = (page) => memory.u8[page * PAGE];

function map(refs, writable, at = 8) {
  const status = new Int16Array(refs.length).fill(99);
  grants.map(memory, at * PAGE, DOMID, Uint32Array.from(refs), writable, status);
  return [...status];
}

const good = granted(4, true);
const readOnly = granted(1, false);

check("a run is mapped, and both sides see each other's bytes", () => {
  assert.deepEqual(map(good.refs, true), [0, 0, 0, 0]);
  assert.deepEqual([8, 9, 10, 11].map(first), [0x10, 0x11, 0x12, 0x13]);
  memory.u8[9 * PAGE + 5] = 0xaa;
  assert.equal(good.memory.u8[PAGE + 5], 0xaa);
  assert.equal(grants.mappedPages, 4);
});

check("a page in the middle of a run goes alone", () => {
  grants.unmap(memory, 9 * PAGE, 1);
  assert.equal(grants.mappedPages, 3);
  assert.deepEqual([8, 9, 10, 11].map(first), [0x10, 0, 0x12, 0x13]);
  memory.u8[9 * PAGE] = 1;
  assert.equal(good.memory.u8[PAGE], 0x11, "what is there now is ours");
  assert.deepEqual(map([good.refs[1]], true, 9), [0]);
  assert.equal(first(9), 0x11);
  grants.unmap(memory, 8 * PAGE, 4);
  assert.equal(grants.mappedPages, 0);
  assert.deepEqual([8, 9, 10, 11].map(first), [0, 0, 0, 0]);
});

check("of a run that holds a whole 2 MiB piece any part goes, and the rest stays", () => {
  const many = granted(900, true);
  const start = aligned - 100;
  assert.ok(map(many.refs, true, start).every((status) => status === 0));
  for (const gone of [300, 100, 612, 1, 898]) {
    grants.unmap(memory, (start + gone) * PAGE, 1);
    many.memory.u8[gone * PAGE] = 0;
    assert.deepEqual(unreadable(memory), [], `without page ${gone}`);
    for (let i = 0; i < 900; i++) assert.equal(first(start + i), many.memory.u8[i * PAGE]);
  }
  grants.unmap(memory, start * PAGE, 900);
  assert.equal(grants.mappedPages, 0);
});

check("of a run with bad references the others are mapped, and each bad one has its reason", () => {
  assert.deepEqual(map([good.refs[0], NEVER_GRANTED, good.refs[2], good.refs[3]], true), [0, -3, 0, 0]);
  assert.deepEqual([8, 9, 10, 11].map(first), [0x10, 0, 0x12, 0x13]);
  memory.u8[9 * PAGE] = 1;
  assert.equal(grants.mappedPages, 3);
  grants.unmap(memory, 8 * PAGE, 4);
});

check("a read-only grant is not mapped for writing, and spoils nobody's", () => {
  assert.deepEqual(map([good.refs[0], readOnly.refs[0], good.refs[2]], true), [0, -1, 0]);
  assert.deepEqual([8, 9, 10].map(first), [0x10, 0, 0x12]);
  assert.deepEqual(map([good.refs[0], readOnly.refs[0]], false), [0, 0]);
  assert.deepEqual([8, 9].map(first), [0x10, 0x10]);
  grants.unmap(memory, 8 * PAGE, 4);
  assert.equal(grants.mappedPages, 0);
});

check("a domain that is not there", () => {
  const status = new Int16Array(2);
  grants.map(memory, 8 * PAGE, 4711, good.refs.subarray(0, 2), true, status);
  assert.ok(
    status.every((code) => code < 0),
    String(status),
  );
  assert.deepEqual([8, 9].map(first), [0, 0]);
});

/** Writes a table of copies at page 0 and carries it out; returns the statuses. */
function copy(segments) {
  const view = new DataView(memory.memory.buffer);
  segments.forEach(({ from, to, offset = 0, at = 32 * PAGE, length = 512 }, i) => {
    const foreign = (where, ref) => {
      view.setUint32(where, ref, true);
      view.setUint16(where + 4, offset, true);
      view.setUint16(where + 6, DOMID, true);
    };
    const local = (where) => view.setBigUint64(where, BigInt(memory.base + at), true);
    if (from === undefined) local(i * 24);
    else foreign(i * 24, from);
    if (to === undefined) local(i * 24 + 8);
    else foreign(i * 24 + 8, to);
    view.setUint16(i * 24 + 16, length, true);
    view.setUint16(i * 24 + 18, (from === undefined ? 0 : 1) | (to === undefined ? 0 : 2), true);
    view.setInt16(i * 24 + 20, 99, true);
  });
  grants.copy(memory, 0, segments.length);
  return segments.map((_, i) => view.getInt16(i * 24 + 20, true));
}

check("a table of copies, both ways, over a page's border of ours", () => {
  memory.u8.fill(0x77, 33 * PAGE - 100, 33 * PAGE + 100);
  const statuses = copy([
    { from: good.refs[0], at: 40 * PAGE, length: PAGE },
    { to: good.refs[3], offset: 1000, at: 33 * PAGE - 100, length: 200 },
  ]);
  assert.deepEqual(statuses, [0, 0]);
  assert.ok(memory.u8.subarray(40 * PAGE, 41 * PAGE).every((byte) => byte === 0x10));
  assert.ok(good.memory.u8.subarray(3 * PAGE + 1000, 3 * PAGE + 1200).every((byte) => byte === 0x77));
  assert.equal(good.memory.u8[3 * PAGE + 1200], 0x13);
});

check("each copy has a status of its own", () => {
  const statuses = copy([
    { from: good.refs[1] },
    { from: NEVER_GRANTED },
    { to: readOnly.refs[0] },
    { from: readOnly.refs[0], at: 41 * PAGE },
  ]);
  assert.deepEqual([statuses[0], statuses[3]], [0, 0]);
  assert.equal(statuses[1], -3);
  assert.ok(statuses[2] < 0, String(statuses));
});

check("one that the kernel refuses to try spoils no other", () => {
  const statuses = copy([
    { from: good.refs[1], at: 42 * PAGE },
    { from: good.refs[1], offset: 4000, length: 200 },
    { from: good.refs[2], at: 43 * PAGE },
  ]);
  assert.deepEqual(statuses, [0, -10, 0]);
  assert.equal(first(43), 0x12);
});

grants.close();
