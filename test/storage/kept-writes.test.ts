/** The log of writes that a server has acknowledged and not flushed, in one thread and in several. */
import assert from "node:assert/strict";
import { fstatSync } from "node:fs";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { random } from "../../host/guest/workload.js";
import { RECORD_BYTES } from "../../host/storage/kept-memory.js";
import { KeptWrites, MOST_UNFLUSHED_BYTES } from "../../host/storage/kept-writes.js";
import { LIMIT } from "./helpers.js";

const MIB = 1 << 20;

/** What it has, as bytes of a disk. */
function applied(kept: KeptWrites, disk: Buffer): Buffer {
  const copy = Buffer.from(disk);
  for (const { position, length, views } of kept.writes()) {
    assert.equal(Buffer.concat(views).copy(copy, position), length);
  }
  return copy;
}

test("what is kept is what was written and not flushed, in its order", LIMIT, (t) => {
  const kept = KeptWrites.make();
  t.after(() => kept.close());
  const next = random(Number(process.env["XBDBACK_SEED"] ?? 1));
  let stable = Buffer.alloc(4 * MIB);
  const now = Buffer.alloc(4 * MIB);
  // A flush that began some writes ago.
  let flush = { mark: kept.mark(), covers: stable };
  let split = 0;
  for (let i = 0; i < 400; i++) {
    const length = 512 * (1 + (next() % 2048));
    const position = 512 * (next() % ((4 * MIB - length) / 512 + 1));
    const data = Buffer.alloc(length, 1 + (i % 255));
    const cut = next() % length;
    const views = [data.subarray(0, cut), data.subarray(cut)];
    if (!kept.add(position, views, length)) {
      assert.ok(kept.bytes + length + RECORD_BYTES > MOST_UNFLUSHED_BYTES);
      assert.deepEqual(applied(kept, stable), now);
      kept.forget(flush.mark);
      kept.forget(flush.mark);
      stable = flush.covers;
      assert.ok(kept.add(position, views, length));
    }
    data.copy(now, position);
    split += [...kept.writes()].filter((write) => write.views.length === 2).length;
    if (i % 16 === 0) flush = { mark: kept.mark(), covers: Buffer.from(now) };
  }
  assert.ok(split > 0);
  assert.deepEqual(applied(kept, stable), now);
  kept.lose(5);
  assert.equal(kept.lost, 5);
  assert.deepEqual([kept.bytes, kept.count, [...kept.writes()].length], [0, 0, 0]);
});

test(
  "small writes are bounded by their number, and the memory is given back when nothing is kept",
  LIMIT,
  (t) => {
    const kept = KeptWrites.make();
    t.after(() => kept.close());
    const sector = [Buffer.alloc(512, 1)];
    let count = 0;
    while (kept.add(0, sector, 512)) count++;
    assert.equal(count, MOST_UNFLUSHED_BYTES / 2048);
    assert.ok(kept.wantsFlush);
    const blocks = (): number => fstatSync(kept.shared.memoryFd).blocks;
    const before = blocks();
    assert.ok(before >= count);
    // Its header stays.
    const header = 4096 / 512;
    kept.tidy();
    kept.tidy();
    assert.equal(blocks(), before);
    kept.forget(kept.mark());
    kept.tidy();
    assert.equal(blocks(), header);
  },
);

test("threads that write at once lose nothing of each other's", LIMIT, async (t) => {
  const kept = KeptWrites.make();
  t.after(() => kept.close());
  const module = new URL("../../host/storage/kept-writes.js", import.meta.url).href;
  const source = `
    const { workerData } = require("node:worker_threads");
    import(${JSON.stringify(module)}).then(({ KeptWrites }) => {
      const { shared, thread } = workerData;
      const kept = new KeptWrites(shared);
      for (let i = 0; i < 3000; i++) {
        const data = Buffer.alloc(512 + 512 * (i % 7), thread * 64 + (i % 64));
        while (!kept.add(thread * 2 ** 32 + i * 512, [data], data.length)) kept.forget(kept.mark());
      }
      kept.close();
    });`;
  const order = [-1, -1, -1];
  let seen = 0;
  const workers = order.map(
    (_, thread) => new Worker(source, { eval: true, workerData: { shared: kept.shared, thread } }),
  );
  await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once("exit", resolve))));
  for (const { position, length, views } of kept.writes()) {
    const thread = Math.floor(position / 2 ** 32);
    const i = (position % 2 ** 32) / 512;
    assert.equal(length, 512 + 512 * (i % 7));
    assert.ok(Buffer.concat(views).every((byte) => byte === thread * 64 + (i % 64)));
    assert.ok(order[thread] === -1 || i === order[thread] + 1);
    order[thread] = i;
    seen++;
  }
  assert.deepEqual(order, [2999, 2999, 2999]);
  assert.equal(seen, kept.count);
});
