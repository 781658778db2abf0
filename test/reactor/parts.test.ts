/** How long I/Os are handed to the kernel while other guests have I/O as well. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { BlkifCore } from "../../host/core/blkif.js";
import { coreModule } from "../../host/core/load.js";
import { allocateMemory } from "../../host/core/memory.js";
import { addressOf, isDirect } from "../../host/platform/libc.js";
import { Activity } from "../../host/reactor/activity.js";
import { Disks } from "../../host/reactor/disks.js";
import { PART, PART_BESIDE_SMALL } from "../../host/reactor/gate.js";
import { UringQueue } from "../../host/reactor/uring-queue.js";
import type { IoVector } from "../../host/storage/device.js";
import { Result } from "../../host/storage/device.js";
import type { TransferDone } from "../../host/storage/engine.js";
import { openStore } from "../../host/storage/open.js";
import { gather, image, LIMIT, PumpedUring, pattern, read, scatter } from "../storage/helpers.js";

const BYTES = 256 << 10;

/** An engine that notes what it is asked to read. */
class Noting extends PumpedUring {
  readonly parts: IoVector[] = [];

  override readv(fd: number, position: number, to: IoVector, done: TransferDone): void {
    this.parts.push({ ...to });
    super.readv(fd, position, to, done);
  }
}

async function diskOn(t: TestContext, cache: "none" | "writeback") {
  const activity = new Activity();
  const engine = new Noting();
  const disks = new Disks(engine, activity);
  const path = image(t, BYTES, pattern(BYTES));
  const store = await openStore(path, { readOnly: true, cache, warn: () => {} });
  const device = await disks.take(store);
  t.after(async () => {
    await disks.release(device);
    engine.close();
  });
  const beSeen = (): void => {
    for (const domid of [1, 2]) activity.note(domid);
  };
  return { activity, engine, device, beSeen };
}

test("a disk's long reads are done in parts, and only beside others", LIMIT, async (t) => {
  const { activity, engine, device, beSeen } = await diskOn(t, "writeback");
  const lengths = [...new Array<number>(64).fill(512), 96 << 10, 128 << 10];
  const read256 = async (): Promise<void> => {
    engine.parts.length = 0;
    const to = scatter(...lengths);
    const { result } = await read(device, 0, to);
    assert.equal(result, Result.Success);
    assert.deepEqual(gather(to), pattern(BYTES));
  };
  await read256();
  assert.equal(engine.parts.length, 1);
  beSeen();
  await read256();
  assert.equal(engine.parts.length, 4 + 2 + 2);
  assert.ok(engine.parts.every(({ bytes, count }) => bytes <= PART.bytes && count <= PART.entries));
  activity.beginSmall();
  await read256();
  const { bytes: most, entries } = PART_BESIDE_SMALL;
  assert.equal(engine.parts.length, 64 / entries + ((96 + 128) << 10) / most);
  assert.ok(engine.parts.every(({ bytes, count }) => bytes <= most && count <= entries));
});

for (const cache of ["none", "writeback"] as const) {
  test(
    `cache ${cache}: of a ring's I/Os, those past the page cache that are long go in parts`,
    LIMIT,
    async (t) => {
      const { activity, engine, device, beSeen } = await diskOn(t, cache);
      const direct = isDirect(device.store.fd);
      assert.ok(cache === "none" || !direct);
      const memory = allocateMemory(abi.MEMORY_BYTES, addressOf);
      const core = new BlkifCore(coreModule(), memory);
      let ended: (result: Result) => void = () => {};
      const owner = { ended: (_: number, result: Result) => ended(result) };
      const queue = new UringQueue(engine.engine, device, core, owner, activity);
      const u16 = new Uint16Array(memory.memory.buffer);
      /** How many parts a read of so many entries is done in: 0 where it went straight to the ring. */
      const parts = async (count: number, bytes: number): Promise<number> => {
        engine.parts.length = 0;
        memory.u8[abi.IOS + abi.IO_OPERATION] = abi.IO_READ;
        u16[(abi.IOS + abi.IO_IOVECS) >> 1] = count;
        memory.u32[(abi.IOS + abi.IO_LENGTH) >> 2] = count * bytes;
        memory.u32[(abi.IOS + abi.IO_SECTORS) >> 2] = (count * bytes) / 512;
        const table = new BigUint64Array(memory.memory.buffer, abi.IOVECS);
        for (let i = 0; i < count; i++) {
          table[2 * i] = BigInt(memory.base + abi.DATA + i * 4096 * Math.ceil(bytes / 4096));
          table[2 * i + 1] = BigInt(bytes);
        }
        const result = await new Promise<Result>((resolve) => {
          ended = resolve;
          queue.start(0);
          const turn = (): void => {
            engine.engine.ring.enter(0, 0);
            engine.engine.reap();
            if (engine.engine.underWay > 0) setImmediate(turn);
          };
          turn();
        });
        assert.equal(result, Result.Success);
        return engine.parts.length;
      };
      assert.deepEqual([await parts(1, BYTES), await parts(256, 512)], [0, 0]);
      beSeen();
      assert.deepEqual([await parts(1, PART.bytes), await parts(16, 512)], [0, 0]);
      const expected = direct ? [4, 2] : [0, 0];
      assert.deepEqual([await parts(1, BYTES), await parts(32, 512)], expected);
      activity.beginSmall();
      const { bytes: most, entries } = PART_BESIDE_SMALL;
      assert.deepEqual([await parts(1, most), await parts(entries, 512)], [0, 0]);
      assert.deepEqual(
        [await parts(1, PART.bytes), await parts(16, 512)],
        direct ? [PART.bytes / most, 16 / entries] : [0, 0],
      );
      queue.close();
    },
  );
}
