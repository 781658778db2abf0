/** The raw device over an engine that fails: short transfers, interruptions, errors, and flushes that lose data. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type BlockDevice, Result } from "../../host/storage/device.js";
import { openDevice } from "../../host/storage/open.js";
import { MAX_RETRIES } from "../../host/storage/transfer.js";
import {
  discard,
  EAGAIN,
  EINTR,
  EIO,
  ENOSPC,
  EOPNOTSUPP,
  EROFS,
  FaultyEngine,
  fill,
  flush,
  gather,
  image,
  LIMIT,
  pattern,
  read,
  scatter,
  tableOf,
  write,
} from "./helpers.js";

async function faulty(t: TestContext): Promise<{ engine: FaultyEngine; device: BlockDevice }> {
  const engine = new FaultyEngine();
  const device = await openDevice(image(t, 65536), { readOnly: false, engine });
  t.after(() => device.close());
  return { engine, device };
}

test("short transfers are continued where they ended, inside and between buffers", LIMIT, async (t) => {
  const { engine, device } = await faulty(t);
  const shorts = [1, 511, 512, 1024, 700, 3000].map((atMost) => ({ atMost }));
  const data = pattern(16384);
  const from = fill(scatter(512, 512, 1024, 4096, 8192, 2048), data);
  const table = tableOf(from);
  engine.transfers = [...shorts];
  assert.equal((await write(device, 8192, from)).result, Result.Success);
  assert.equal(engine.calls.writev, shorts.length + 1);
  assert.deepEqual(tableOf(from), table);
  engine.transfers = [...shorts].reverse();
  const to = scatter(4096, 12288);
  assert.equal((await read(device, 8192, to)).result, Result.Success);
  assert.equal(engine.calls.readv, shorts.length + 1);
  assert.deepEqual(gather(to), data);
});

test("EINTR and EAGAIN are retried, between short transfers too", LIMIT, async (t) => {
  const { engine, device } = await faulty(t);
  const data = pattern(4096);
  engine.transfers = [EINTR, { atMost: 600 }, EAGAIN, EINTR, { atMost: 1000 }, EINTR];
  assert.equal((await write(device, 0, fill(scatter(1024, 3072), data))).result, Result.Success);
  const to = scatter(4096);
  assert.equal((await read(device, 0, to)).result, Result.Success);
  assert.deepEqual(gather(to), data);
  engine.syncs = [EINTR, EINTR];
  assert.equal((await flush(device)).result, Result.Success);
  engine.allocations = [EINTR];
  assert.equal((await discard(device, 0, 512)).result, Result.Success);
});

test("endless interruptions end", LIMIT, async (t) => {
  const { engine, device } = await faulty(t);
  engine.transfers = new Array(1000).fill(EAGAIN);
  const { result, error } = await read(device, 0, scatter(512));
  assert.equal(result, Result.Failure);
  assert.match(error!.message, /EAGAIN/);
  assert.equal(engine.calls.readv, MAX_RETRIES + 1);
});

test("errors become results and name the disk", LIMIT, async (t) => {
  const { engine, device } = await faulty(t);
  const cases: [number, Result][] = [
    [EIO, Result.Failure],
    [ENOSPC, Result.Failure],
    [EROFS, Result.ReadOnly],
    [EOPNOTSUPP, Result.Unsupported],
  ];
  for (const [errno, expected] of cases) {
    engine.transfers = [errno];
    assert.equal((await write(device, 512, scatter(512))).result, expected);
  }
  engine.transfers = [{ atMost: 512 }, ENOSPC];
  const table = scatter(256, 768);
  const before = tableOf(table);
  const { result, error } = await write(device, 512, table);
  assert.equal(result, Result.Failure);
  assert.match(error!.message, /^write 1024 bytes at 512 of .*disk\.img: ENOSPC$/);
  assert.deepEqual(tableOf(table), before);
  assert.equal((await write(device, 512, scatter(512))).result, Result.Success);
});

test("a call that moves nothing is a failure, not an endless loop", LIMIT, async (t) => {
  const { engine, device } = await faulty(t);
  engine.transfers = [{ atMost: 512 }, { atMost: 0 }];
  assert.equal((await write(device, 0, scatter(1024))).result, Result.Failure);
  assert.equal(engine.calls.writev, 2);
});

test("after a failed flush nothing is written any more", LIMIT, async (t) => {
  const { engine, device } = await faulty(t);
  assert.equal((await write(device, 0, fill(scatter(512), pattern(512)))).result, Result.Success);
  engine.syncs = [EIO];
  const { result, error } = await flush(device);
  assert.equal(result, Result.Failure);
  assert.match(error!.message, /^fdatasync .*disk\.img: EIO; .*attached again$/);
  assert.equal((await flush(device)).result, Result.Failure);
  assert.equal((await write(device, 0, scatter(512))).result, Result.Failure);
  assert.equal((await discard(device, 0, 512)).result, Result.Failure);
  assert.deepEqual(engine.calls, { readv: 0, writev: 1, fdatasync: 1, fallocate: 0 });
  assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
});

test("a flush that is not supported is a failed flush", LIMIT, async (t) => {
  const { engine, device } = await faulty(t);
  engine.syncs = [EOPNOTSUPP];
  assert.equal((await flush(device)).result, Result.Failure);
  assert.equal((await write(device, 0, scatter(512))).result, Result.Failure);
});

test("flushes that come while one is under way share the next", LIMIT, async (t) => {
  const { engine, device } = await faulty(t);
  let open = (): void => {};
  engine.gate = new Promise((resolve) => (open = resolve));
  const first = flush(device);
  const waiting = [flush(device), flush(device), flush(device)];
  let ended = 0;
  for (const each of waiting) void each.then(() => ended++);
  assert.equal(engine.calls.fdatasync, 1);
  open();
  assert.equal((await first).result, Result.Success);
  assert.equal(ended, 0);
  for (const { result } of await Promise.all(waiting)) assert.equal(result, Result.Success);
  assert.equal(engine.calls.fdatasync, 2);
});

test("flushes that wait for one that fails, fail with it", LIMIT, async (t) => {
  const { engine, device } = await faulty(t);
  engine.syncs = [EIO];
  const outcomes = await Promise.all([flush(device), flush(device), flush(device)]);
  assert.deepEqual(
    outcomes.map(({ result }) => result),
    [Result.Failure, Result.Failure, Result.Failure],
  );
  assert.equal(engine.calls.fdatasync, 1);
});

test("a store that cannot discard after all says so from then on", LIMIT, async (t) => {
  const { engine, device } = await faulty(t);
  if (!device.canDiscard) return t.skip("the file system cannot punch holes");
  engine.allocations = [EIO, EOPNOTSUPP];
  assert.equal((await discard(device, 0, 4096)).result, Result.Failure);
  assert.equal(device.canDiscard, true);
  assert.equal((await discard(device, 0, 4096)).result, Result.Unsupported);
  assert.equal(device.canDiscard, false);
  assert.equal((await discard(device, 0, 4096)).result, Result.Unsupported);
  assert.equal(engine.calls.fallocate, 2);
});

test("close waits for a flush and for those behind it", LIMIT, async (t) => {
  const { engine, device } = await faulty(t);
  let open = (): void => {};
  engine.gate = new Promise((resolve) => (open = resolve));
  const flushes = [flush(device), flush(device)];
  let closed = false;
  const closing = device.close().then(() => (closed = true));
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(closed, false);
  open();
  await closing;
  for (const { result } of await Promise.all(flushes)) assert.equal(result, Result.Success);
});
