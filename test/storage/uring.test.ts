/** What only io_uring does: full rings, overflowing completions, waits that end, its queue of a ring's I/Os. */
import assert from "node:assert/strict";
import { closeSync, constants, openSync, readFileSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { BlkifCore } from "../../host/core/blkif.js";
import { coreModule } from "../../host/core/load.js";
import { allocateMemory } from "../../host/core/memory.js";
import {
  addressOf,
  eventFd,
  makeFifo,
  readNonBlocking,
  signalEventFd,
  writeNonBlocking,
} from "../../host/platform/libc.js";
import { waitingEventFd } from "../../host/platform/sharing.js";
import { Activity } from "../../host/reactor/activity.js";
import type { IoOwner } from "../../host/reactor/io-queue.js";
import { UringQueue } from "../../host/reactor/uring-queue.js";
import { Result } from "../../host/storage/device.js";
import { openStore } from "../../host/storage/open.js";
import { RawDevice } from "../../host/storage/raw.js";
import { UringEngine } from "../../host/storage/uring/engine.js";
import {
  directory,
  EAGAIN,
  EIO,
  ENOSPC,
  FaultyEngine,
  flush,
  gather,
  image,
  LIMIT,
  PumpedUring,
  pattern,
  scatter,
} from "./helpers.js";

test("more operations than the rings hold, and completions that overflow: each ends once", LIMIT, (t) => {
  const path = image(t, 65536, pattern(65536));
  const fd = openSync(path, "r");
  const engine = new UringEngine({ submissions: 8, completions: 8 });
  const ends = new Array<number>(200).fill(0);
  const reads = ends.map((_, i) => {
    const to = scatter(512);
    engine.readv(fd, i * 320 - ((i * 320) % 512), to, (errno, bytes) => {
      assert.deepEqual([errno, bytes], [0, 512]);
      ends[i]++;
    });
    return to;
  });
  let reaped = 0;
  for (let turns = 0; reaped < ends.length; turns++) {
    assert.ok(turns < 1000, `only ${reaped} came back`);
    engine.ring.enter(1, 1000);
    reaped += engine.reap();
  }
  assert.ok(ends.every((n) => n === 1));
  const content = pattern(65536);
  for (const [i, to] of reads.entries()) {
    const at = i * 320 - ((i * 320) % 512);
    assert.deepEqual(gather(to), content.subarray(at, at + 512));
  }
  engine.close();
  closeSync(fd);
});

test("a wait ends after its time, and at once when the descriptor that is polled is signalled", LIMIT, () => {
  const engine = new UringEngine();
  const fd = eventFd();
  let ready = 0;
  engine.poll(fd, () => ready++);
  const start = performance.now();
  engine.ring.enter(1, 30);
  assert.equal(engine.reap(), 0);
  assert.ok(performance.now() - start >= 29);
  signalEventFd(fd);
  engine.ring.enter(1, Number.POSITIVE_INFINITY);
  engine.reap();
  assert.equal(ready, 1);
  engine.close();
  closeSync(fd);
});

test(
  "a read of a FIFO waits for a word that is written; words that cannot be written are an error",
  LIMIT,
  (t) => {
    const path = join(directory(t), "fifo");
    makeFifo(path);
    const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
    const engine = new UringEngine();
    const inbox = new Uint32Array(new ArrayBuffer(64));
    const results: number[] = [];
    const hear = (): void =>
      engine.read(fd, addressOf(new Uint8Array(inbox.buffer)), 64, (result) => results.push(result));
    hear();
    engine.ring.enter(1, 10);
    assert.equal(engine.reap(), 0, "there is nothing yet");
    for (const word of [7, 0xffffffff]) engine.writeWord(fd, word);
    for (let turns = 0; results.length < 1 && turns < 100; turns++) {
      engine.ring.enter(1, 1000);
      engine.reap();
    }
    if (results[0] === 4) {
      hear();
      engine.ring.enter(1, 1000);
      assert.equal(engine.reap(), 1, "the words alone have no completions");
    }
    assert.equal(
      results.reduce((sum, bytes) => sum + bytes, 0),
      8,
    );
    assert.ok([7, 0xffffffff].includes(inbox[0]));
    engine.ring.enter(0, 0);
    assert.equal(engine.reap(), 0);
    const readable = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    engine.writeWord(readable, 1);
    engine.ring.enter(1, 1000);
    assert.throws(() => engine.reap(), /write event channels: EBADF/);
    engine.close();
    closeSync(readable);
    closeSync(fd);
  },
);

test("quiet writes have no completions; those that wait can be cancelled", LIMIT, () => {
  const engine = new UringEngine();
  const word = new Uint8Array(new BigUint64Array([1n]).buffer);
  const counter = (fd: number): bigint => {
    const read = new BigUint64Array(1);
    readNonBlocking(fd, new Uint8Array(read.buffer));
    return read[0];
  };
  const [free, full] = [eventFd(), waitingEventFd()];
  for (let i = 0; i < 2; i++) engine.writeQuietly(free, addressOf(word), 8);
  engine.ring.enter(0, 0);
  assert.equal(counter(free), 2n);
  assert.equal(engine.reap(), 0);
  const most = 2n ** 64n - 2n;
  writeNonBlocking(full, new Uint8Array(new BigUint64Array([most]).buffer));
  for (let i = 0; i < 2; i++) engine.writeQuietly(full, addressOf(word), 8);
  engine.ring.enter(0, 0);
  assert.equal(engine.reap(), 0, "they wait");
  engine.cancelQuiet(full);
  // Of the two, which have not succeeded, and of the cancelling.
  for (let ends = 0; ends < 3; ends += engine.reap()) engine.ring.enter(1, 1000);
  assert.equal(counter(full), most);
  engine.ring.enter(0, 0);
  signalEventFd(full);
  assert.equal(counter(full), 1n, "none waits any longer");
  engine.close();
  for (const fd of [free, full]) closeSync(fd);
});

test("who looks without a call sees that a completion waits for one", LIMIT, () => {
  const engine = new UringEngine();
  const fd = eventFd();
  let signals = 0;
  engine.poll(fd, () => signals++);
  engine.ring.enter(0, 0);
  assert.equal(engine.ring.promising, false);
  signalEventFd(fd);
  assert.equal(engine.ring.promising, true);
  engine.ring.enter(0, 0);
  engine.reap();
  assert.equal(signals, 1);
  assert.equal(engine.ring.promising, false);
  engine.close();
  closeSync(fd);
});

test("a wait for several completions is content with one after a while", LIMIT, (t) => {
  const engine = new UringEngine();
  const fd = openSync(image(t, 4096), "r");
  let done = 0;
  engine.readv(fd, 0, scatter(512), () => done++);
  const start = performance.now();
  engine.ring.enter(8, 5000, 1000);
  engine.reap();
  assert.equal(done, 1);
  if (engine.ring.canWaitForMore) assert.ok(performance.now() - start < 2500);
  engine.close();
  closeSync(fd);
});

/** A queue whose I/Os are written into the core's table by hand. */
async function queueOn(path: string, readOnly = false) {
  const memory = allocateMemory(abi.MEMORY_BYTES, addressOf);
  const core = new BlkifCore(coreModule(), memory);
  const store = await openStore(path, { readOnly });
  const pumped = new PumpedUring();
  const { engine } = pumped;
  engine.register(store.fd);
  // What is not plain goes through the device, which needs somebody who turns the loop.
  const device = new RawDevice(store, pumped);
  const ends: { slot: number; result: Result; error: Error | undefined }[] = [];
  const owner: IoOwner = { ended: (slot, result, error) => void ends.push({ slot, result, error }) };
  const queue = new UringQueue(engine, device, core, owner, new Activity());
  const u16 = new Uint16Array(memory.memory.buffer);
  return {
    ...{ queue, device, engine, memory, ends, store },
    io(slot: number, operation: number, sector: number, lengths: number[], flags = 0): void {
      const at = abi.IOS + slot * abi.IO_BYTES;
      const bytes = lengths.reduce((a, b) => a + b, 0);
      memory.u8[at + abi.IO_OPERATION] = operation;
      memory.u8[at + abi.IO_FLAGS] = flags;
      u16[(at + abi.IO_IOVECS) >> 1] = lengths.length;
      memory.u32[(at + abi.IO_LENGTH) >> 2] = bytes;
      memory.u32[(at + abi.IO_SECTOR) >> 2] = sector % 2 ** 32;
      memory.u32[(at + abi.IO_SECTOR + 4) >> 2] = Math.floor(sector / 2 ** 32);
      memory.u32[(at + abi.IO_SECTORS) >> 2] = bytes / 512;
      const table = new BigUint64Array(memory.memory.buffer, abi.IOVECS + slot * abi.IOVECS_PER_SLOT * 16);
      let data = abi.DATA + slot * abi.DATA_SMALL_BYTES;
      for (const [i, length] of lengths.entries()) {
        table[i * 2] = BigInt(memory.base + data);
        table[i * 2 + 1] = BigInt(length);
        data += length;
      }
    },
    data: (slot: number, bytes: number) => {
      const at = abi.DATA + slot * abi.DATA_SMALL_BYTES;
      return memory.u8.subarray(at, at + bytes);
    },
    async until(count: number): Promise<void> {
      for (let turns = 0; ends.length < count; turns++) {
        assert.ok(turns < 2000, `${ends.length} of ${count} I/Os ended`);
        engine.ring.enter(0, 0);
        engine.reap();
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    },
    async close(): Promise<void> {
      queue.close();
      engine.unregister(store.fd);
      await device.close();
      pumped.close();
    },
  };
}

test("I/Os go from the core's table to the disk and back, in one piece and in several", LIMIT, async (t) => {
  const path = image(t, 1 << 20);
  const q = await queueOn(path);
  const data = pattern(8192);
  q.io(3, abi.IO_WRITE, 8, [8192]);
  q.data(3, 8192).set(data);
  q.io(511, abi.IO_WRITE, 1000, [512, 4096, 512]);
  q.data(511, 5120).set(data.subarray(0, 5120));
  q.queue.start(3);
  q.queue.start(511);
  assert.deepEqual(q.ends, []);
  await q.until(2);
  assert.ok(q.ends.every(({ result }) => result === Result.Success));
  q.io(4, abi.IO_READ, 8, [512, 7680]);
  q.queue.start(4);
  q.io(5, abi.IO_FLUSH, 0, []);
  q.queue.start(5);
  q.io(6, abi.IO_WRITE, 40, [512], abi.IO_PREFLUSH | abi.IO_FUA);
  q.data(6, 512).fill(7);
  q.queue.start(6);
  await q.until(5);
  assert.ok(q.ends.every(({ result }) => result === Result.Success));
  assert.deepEqual(Buffer.from(q.data(4, 8192)), data);
  await q.close();
  const file = readFileSync(path);
  assert.deepEqual(file.subarray(4096, 4096 + 8192), data);
  assert.deepEqual(file.subarray(512000, 512000 + 5120), data.subarray(0, 5120));
  assert.ok(file.subarray(20480, 20992).every((byte) => byte === 7));
});

test("positions beyond 4 GiB are exact in the entries, too", LIMIT, async (t) => {
  const q = await queueOn(image(t, 3 * 2 ** 40));
  const sectors = [2 ** 23 - 1, 2 ** 32 + 1, (3 * 2 ** 40) / 512 - 1];
  for (const [i, sector] of sectors.entries()) {
    q.io(i, abi.IO_WRITE, sector, [512]);
    q.data(i, 512).fill(i + 1);
    q.queue.start(i);
  }
  await q.until(3);
  for (const [i, sector] of sectors.entries()) {
    q.io(10 + i, abi.IO_READ, sector, [512]);
    q.queue.start(10 + i);
  }
  await q.until(6);
  for (let i = 0; i < 3; i++) assert.ok(q.data(10 + i, 512).every((byte) => byte === i + 1));
  // One sector further it is out of reach, and the image does not grow.
  q.io(20, abi.IO_WRITE, (3 * 2 ** 40) / 512, [512]);
  q.queue.start(20);
  await q.until(7);
  assert.equal(q.ends[6].result, Result.Failure);
  assert.match(q.ends[6].error!.message, /beyond its end/);
  await q.close();
});

test("a transfer that is cut short is done again, and fails where the store ends", LIMIT, async (t) => {
  const path = image(t, 65536, pattern(65536));
  const q = await queueOn(path);
  truncateSync(path, 61440);
  q.io(0, abi.IO_READ, 112, [8192]);
  q.queue.start(0);
  await q.until(1);
  assert.equal(q.ends[0].result, Result.Failure);
  assert.match(q.ends[0].error!.message, /the disk ends after 4096 of them/);
  // As if the kernel had moved less than all, or asked for patience.
  for (const [i, result] of [512, 0, -EAGAIN].entries()) {
    q.io(i, abi.IO_READ, i * 8, [4096]);
    q.queue.completed(i, result);
  }
  await q.until(4);
  for (let i = 0; i < 3; i++) {
    assert.equal(q.ends[1 + i].result, Result.Success);
    assert.deepEqual(Buffer.from(q.data(i, 4096)), pattern(65536).subarray(i * 4096, (i + 1) * 4096));
  }
  await q.close();
});

test("an error of the kernel's becomes a result that names the disk", LIMIT, async (t) => {
  const path = image(t, 65536);
  const q = await queueOn(path);
  q.io(0, abi.IO_WRITE, 8, [4096]);
  q.queue.completed(0, -ENOSPC);
  q.io(1, abi.IO_READ, 16, [512]);
  q.queue.completed(1, -EIO);
  assert.deepEqual(
    q.ends.map(({ result, error }) => [result, error!.message]),
    [
      [Result.Failure, `write 4096 bytes at 4096 of ${path}: ENOSPC`],
      [Result.Failure, `read 512 bytes at 8192 of ${path}: EIO`],
    ],
  );
  await q.close();
});

test("a flush that fails in one thread stops the writes of another", LIMIT, async (t) => {
  const q = await queueOn(image(t, 65536));
  const faulty = new FaultyEngine();
  faulty.syncs = [EIO];
  const other = new RawDevice(q.store, faulty, openSync(q.store.name, "r"));
  q.io(0, abi.IO_WRITE, 8, [512]);
  q.queue.start(0);
  await q.until(1);
  assert.equal(q.ends[0].result, Result.Success);
  assert.equal((await flush(other)).result, Result.Failure);
  q.queue.start(0);
  await q.until(2);
  assert.equal(q.ends[1].result, Result.Failure);
  assert.match(q.ends[1].error!.message, /fdatasync .*: EIO; written data may be lost/);
  q.io(1, abi.IO_READ, 8, [512]);
  q.queue.start(1);
  await q.until(3);
  assert.equal(q.ends[2].result, Result.Success);
  await other.close();
  await q.close();
});

test("a read-only disk is not written", LIMIT, async (t) => {
  const q = await queueOn(image(t, 65536), true);
  q.io(0, abi.IO_WRITE, 8, [512]);
  q.queue.start(0);
  await q.until(1);
  assert.equal(q.ends[0].result, Result.ReadOnly);
  await q.close();
});

test(
  "a registered descriptor keeps a closed image locked no longer than it is registered",
  LIMIT,
  async (t) => {
    const path = image(t, 65536);
    for (let i = 0; i < 5; i++) {
      const q = await queueOn(path);
      q.io(0, abi.IO_READ, 0, [512]);
      q.queue.start(0);
      await q.until(1);
      await q.close();
    }
  },
);
