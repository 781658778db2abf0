/** Pages of persistent grants as registered buffers: on a real io_uring, read with direct I/O. */
import assert from "node:assert/strict";
import { closeSync, constants, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { MAX_PERSISTENT, MEMORY_BYTES, PERSISTENT } from "../../assembly/abi.js";
import { allocateMemory, type LinearMemory, PAGE_SIZE } from "../../host/core/memory.js";
import { addressOf, mapAnonymous } from "../../host/platform/libc.js";
import { FixedPages } from "../../host/reactor/fixed-pages.js";
import { Op } from "../../host/storage/uring/abi.js";
import { BUFFERS_A_BLOCK, UringEngine } from "../../host/storage/uring/engine.js";

const TWO_TO_32 = 4294967296;
const EFAULT = -14;

interface Scene {
  readonly engine: UringEngine;
  readonly memory: LinearMemory;
  readonly pages: FixedPages;
  /** Where a page is in the memory. */
  at(page: number): number;
  low(page: number): number;
  /** Reads page `page` of the file, which is full of page + 1, into a page by way of a slot; read(2)'s result. */
  read(page: number, slot: number): number;
}

/** Null where the kernel has no table of buffers: then that has been said. */
function scene(t: TestContext): Scene | null {
  const engine = new UringEngine({ buffers: 2 * BUFFERS_A_BLOCK });
  t.after(() => engine.close());
  if (engine.ring.buffers === 0) {
    t.skip("buffers are registered from Linux 6.13 on");
    return null;
  }
  const directory = mkdtempSync(join(tmpdir(), "xbdback-fixed-"));
  const file = join(directory, "disk.img");
  writeFileSync(file, Buffer.concat([1, 2, 3, 4].map((byte) => Buffer.alloc(PAGE_SIZE, byte))));
  const fd = openSync(file, constants.O_RDONLY | constants.O_DIRECT);
  t.after(() => {
    closeSync(fd);
    rmSync(directory, { recursive: true });
  });
  const memory = allocateMemory(MEMORY_BYTES, addressOf);
  const at = (page: number): number => PERSISTENT + page * PAGE_SIZE;
  const low = (page: number): number => (memory.base + at(page)) % TWO_TO_32;
  const read = (page: number, slot: number): number => {
    const address = memory.base + at(page);
    const [offset, high] = [page * PAGE_SIZE, Math.floor(address / TWO_TO_32)];
    engine.ring.prepare(Op.readFixed, fd, offset, 0, address % TWO_TO_32, high, PAGE_SIZE, 0, 0, 0, slot);
    engine.ring.enter(1, Number.POSITIVE_INFINITY);
    let outcome = 0;
    engine.ring.reap({
      completed(_low, _high, result) {
        outcome = result;
      },
    });
    return outcome;
  };
  return { engine, memory, pages: FixedPages.take(engine, memory)!, at, low, read };
}

const byteOf = ({ memory, at }: Scene, page: number): number => memory.u8[at(page) + 100];

test("what is read goes to the page that is mapped now, also after it was mapped anew", (t) => {
  const all = scene(t);
  if (!all) return;
  const { memory, pages, at, low, read } = all;
  pages.mapped(0, 4);
  for (const page of [0, 3]) {
    assert.equal(read(page, pages.slotOf(low(page), PAGE_SIZE)), PAGE_SIZE);
    assert.equal(byteOf(all, page), page + 1);
  }
  const slot = pages.slotOf(low(3), PAGE_SIZE);
  pages.unmapping(3, 1);
  assert.equal(pages.slotOf(low(3), PAGE_SIZE), -1);
  assert.equal(read(3, slot), EFAULT, "the kernel has let go of it");
  mapAnonymous(memory.base + at(3), PAGE_SIZE);
  assert.equal(byteOf(all, 3), 0);
  pages.mapped(3, 1);
  assert.equal(read(3, pages.slotOf(low(3), PAGE_SIZE)), PAGE_SIZE);
  assert.equal(byteOf(all, 3), 4);
});

test("bytes of one page that is registered have a slot, and no others", (t) => {
  const all = scene(t);
  if (!all) return;
  const { pages, low } = all;
  pages.mapped(1, 2);
  pages.mapped(BUFFERS_A_BLOCK - 1, 4);
  const slot = pages.slotOf(low(1), PAGE_SIZE);
  assert.ok(slot >= 0);
  assert.equal(pages.slotOf(low(2) + 512, PAGE_SIZE - 512), slot + 1);
  assert.equal(pages.slotOf(low(1) + 512, PAGE_SIZE), -1, "over two pages");
  assert.equal(pages.slotOf(low(0), 512), -1);
  assert.equal(pages.slotOf(low(3), 512), -1);
  assert.equal(pages.slotOf(low(-1), 512), -1, "before the window");
  assert.equal(pages.slotOf(low(BUFFERS_A_BLOCK - 1), 512), slot + BUFFERS_A_BLOCK - 2);
  assert.equal(pages.slotOf(low(BUFFERS_A_BLOCK), 512), -1, "past those that are registered");
  assert.equal(pages.slotOf(low(MAX_PERSISTENT + 7), 512), -1, "past the window");
  pages.unmapping(0, MAX_PERSISTENT);
  assert.equal(pages.slotOf(low(2), 512), -1);
});

test("pages that cannot be pinned are used without", (t) => {
  const all = scene(t);
  if (!all) return;
  const { engine, low } = all;
  const pages = FixedPages.take(engine, { ...all.memory, base: 0 })!;
  pages.mapped(0, 4);
  assert.equal(pages.slotOf(PERSISTENT, 512), -1);
  assert.equal(pages.slotOf(low(0), 512), -1);
});

test("there are slots for so many rings, and those of a ring that has gone are another's", (t) => {
  const all = scene(t);
  if (!all) return;
  const { engine, memory, pages, low, read } = all;
  const second = FixedPages.take(engine, memory)!;
  assert.equal(FixedPages.take(engine, memory), null);
  pages.mapped(0, 1);
  const slot = pages.slotOf(low(0), 512);
  second.mapped(0, 1);
  assert.notEqual(second.slotOf(low(0), 512), slot);
  pages.close();
  assert.equal(read(0, slot), EFAULT);
  const third = FixedPages.take(engine, memory)!;
  third.mapped(0, 1);
  assert.equal(third.slotOf(low(0), 512), slot);
});
