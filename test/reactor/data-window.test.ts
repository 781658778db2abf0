/** What of a ring's data window is given back, and when: the core is the real one, the kernel's part is played. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { PAGE_SIZE } from "../../host/core/memory.js";
import { DataWindow } from "../../host/reactor/data-window.js";
import { IdleWindows, INTERVAL_MS } from "../../host/reactor/idle-windows.js";
import { FLUSH, Guest, OKAY, READ, WRITE } from "../core/guest.js";
import { Harness } from "../core/harness.js";
import type { Segment, WireRequest } from "../core/wire.js";

const MIB = 1 << 20;
const MIB_SECTORS = MIB / 512;
const LARGE = abi.MAX_SEGMENTS;

/** A core, its window, and what was given back of it in the last round. */
class Scene extends Harness {
  readonly guest = new Guest(this);
  readonly window: DataWindow;
  given: { at: number; length: number }[] = [];

  constructor(mib: number, ringPages = 1) {
    super({ sectors: mib * MIB_SECTORS, ringPages });
    const { base, u8 } = this.memory;
    this.window = new DataWindow(this.core, (address, length) => {
      const at = address - base;
      assert.ok(at % PAGE_SIZE === 0 && length % PAGE_SIZE === 0 && length > 0, `${at}, ${length}`);
      this.given.push({ at, length });
      u8.fill(0, at, at + length);
    });
  }

  submit(...requests: WireRequest[]): WireRequest[] {
    for (const request of requests) this.put(request);
    this.push();
    this.window.used();
    this.step();
    return requests;
  }

  /** Gives a whole round back; how it ended. */
  round(): string {
    this.given = [];
    for (let i = 0; ; i++) {
      assert.ok(i < 100, "the round does not end");
      const state = this.window.giveBack();
      if (state !== "more") return state;
    }
  }

  /** Bytes of the window that the last round did not give back. */
  get kept(): number {
    const given = this.given.filter(({ at }) => at >= abi.DATA);
    return abi.SRING - abi.DATA - given.reduce((sum, { length }) => sum + length, 0);
  }
}

test("an idle ring gives all of its window back, in portions, and nothing of the core's or the guest's", () => {
  const h = new Scene(4);
  assert.deepEqual(h.serve(h.guest.indirect(WRITE, 0, LARGE), h.guest.transfer(WRITE, 4096, 11)), [
    OKAY,
    OKAY,
  ]);
  h.memory.u8.fill(0xee, abi.DATA, abi.SRING);
  const before = h.memory.u8.slice();
  assert.equal(h.round(), "empty");
  assert.equal(h.kept, 0);
  assert.ok(h.given.every(({ length }) => length <= 4 * MIB));
  const after = h.memory.u8;
  assert.deepEqual(after.slice(0, abi.SEGMENTS), before.slice(0, abi.SEGMENTS));
  assert.deepEqual(after.slice(abi.MAPS, abi.DATA), before.slice(abi.MAPS, abi.DATA));
  assert.deepEqual(after.slice(abi.SRING), before.slice(abi.SRING));
  assert.ok(after.subarray(abi.DATA, abi.SRING).every((byte) => byte === 0));
  assert.deepEqual(h.serve(h.guest.indirect(READ, 0, LARGE)), [OKAY], "it serves what comes next");
  h.release();
});

test("what requests in flight have in the window, and their tables, stay", () => {
  const h = new Scene(8, 16);
  const { guest } = h;
  const writes = h.submit(guest.indirect(WRITE, 0, LARGE), guest.transfer(WRITE, 3 * MIB_SECTORS, 11));
  const barrier = h.submit(guest.indirect(WRITE, 6 * MIB_SECTORS, 12), guest.empty(FLUSH));
  assert.equal(h.core.inflight, 4);
  assert.equal(h.round(), "kept");
  // Two large regions, and each slot's small one.
  assert.equal(h.kept, 2 * abi.DATA_LARGE_BYTES + 4 * abi.DATA_SMALL_BYTES);
  assert.ok(h.given.every(({ at }) => at >= abi.DATA));
  h.finish();
  assert.deepEqual(h.statuses([...writes, ...barrier]), Array(4).fill(OKAY));
  for (const [sector, pages] of [
    [0, LARGE],
    [3 * MIB_SECTORS, 11],
    [6 * MIB_SECTORS, 12],
  ]) {
    const page = (i: number): number => h.disk[sector * 512 + i * PAGE_SIZE];
    for (let i = 1; i < pages; i++) assert.equal(page(i), (page(0) + i) & 0xff, `page ${i} at ${sector}`);
  }
  assert.equal(h.round(), "empty");
  h.release();
});

test("with portions given back at every moment, every byte is the one last written", () => {
  const h = new Scene(16, 2);
  const { guest } = h;
  // Passes are cut off before their copies, too, where another ring has its turn.
  h.onRound = () => void h.window.giveBack();
  let seed = 1;
  const roll = (below: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return (seed >>> 8) % below;
  };
  const expected = new Uint8Array(h.disk.length);
  for (let burst = 0; burst < 12; burst++) {
    // Places that are all different: then a read among them has one right answer.
    const reads: { segments: Segment[]; at: number }[] = [];
    const requests: WireRequest[] = [];
    for (let place = 0; place < 16; place++) {
      const pages = roll(3) === 0 ? 12 + roll(LARGE - 12) : 1 + roll(11);
      const at = place * MIB;
      const segments = guest.segments(pages);
      const operation = roll(2) === 0 ? READ : WRITE;
      const kind = pages > 11 ? "indirect" : "transfer";
      requests.push(guest[kind](operation, at / 512, segments));
      if (operation === READ) reads.push({ segments, at });
      else expected.set(Buffer.concat(segments.map(({ gref }) => Buffer.alloc(PAGE_SIZE, gref))), at);
    }
    for (const request of requests) {
      h.submit(request);
      h.window.giveBack();
      while (h.underway.length > 6) {
        const [io] = h.underway.splice(roll(h.underway.length), 1);
        h.window.giveBack();
        h.step([{ slot: io.slot, result: h.perform(io) }]);
      }
    }
    h.round();
    h.finish((count) => roll(count));
    assert.deepEqual(h.statuses(requests), Array(requests.length).fill(OKAY));
    for (const { segments, at } of reads) {
      const got = segments.map(({ gref }) => h.page(gref)[100]);
      assert.deepEqual(
        got,
        segments.map((_, i) => expected[at + i * PAGE_SIZE]),
      );
    }
  }
  assert.deepEqual(h.disk, expected);
  // The rest of a round that began with requests in flight, and one that did not.
  h.round();
  assert.equal(h.round(), "empty");
  h.release();
});

test("a window is given back when its ring has moved little since it was looked at, and then forgotten", () => {
  const h = new Scene(32);
  const windows = new IdleWindows();
  const serve = (mib: number): void => {
    for (let i = 0; i < mib; i++) {
      windows.note(h.window, h.core);
      assert.deepEqual(h.serve(h.guest.indirect(WRITE, i * MIB_SECTORS, LARGE)), [OKAY]);
    }
  };
  assert.equal(windows.due, Number.POSITIVE_INFINITY);
  const start = performance.now();
  serve(20);
  assert.ok(windows.due >= start + INTERVAL_MS && windows.due <= performance.now() + INTERVAL_MS);
  windows.tick(windows.due);
  assert.equal(h.given.length, 0, "it is in use");
  serve(1);
  let portions = 0;
  for (let now = windows.due; windows.due !== Number.POSITIVE_INFINITY; now = windows.due) {
    const was = h.given.length;
    windows.tick(now);
    assert.ok(h.given.length - was <= 2, "one portion at a time, besides the tables");
    assert.ok(++portions < 100);
  }
  assert.equal(h.kept, 0);
  windows.note(h.window, h.core);
  windows.forget(h.window);
  h.given = [];
  windows.tick(windows.due);
  assert.equal(h.given.length, 0, "the memory of a ring that has been detached is another's");
  assert.equal(windows.due, Number.POSITIVE_INFINITY);
  h.release();
});

test("where the kernel takes nothing back, the ring goes on with what it has", () => {
  const h = new Scene(1);
  const windows = new IdleWindows();
  const locked = new DataWindow(h.core, () => {
    throw new Error("madvise: EINVAL");
  });
  windows.note(locked, h.core);
  for (let i = 0; i < 3; i++) windows.tick(windows.due);
  assert.deepEqual(h.serve(h.guest.transfer(WRITE, 0, 11)), [OKAY]);
  h.release();
});
