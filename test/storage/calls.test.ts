/** Calls that may wait for storage: however many wait, nobody else does. What hangs here is a FIFO that nobody writes to. */
import assert from "node:assert/strict";
import { closeSync, constants, fstatSync, openSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { makeFifo } from "../../host/platform/libc.js";
import { decodeStatx, isType, plainStats } from "../../host/storage/calls/file-stats.js";
import { FileLocks } from "../../host/storage/calls/locks.js";
import { LoopEngine } from "../../host/storage/calls/loop-engine.js";
import { Place } from "../../host/storage/calls/place.js";
import { inThread } from "../../host/storage/calls/threads.js";
import { openDevice } from "../../host/storage/open.js";
import { directory, image } from "./helpers.js";

const LIMIT = { timeout: 60_000 };

function fifo(t: TestContext): string {
  const path = join(directory(t), "fifo");
  makeFifo(path);
  return path;
}

/** Wakes those who wait in open(2), or are about to. */
async function wake(paths: readonly string[], opening: readonly Promise<number>[]): Promise<void> {
  let ended = false;
  const all = Promise.all(opening).finally(() => {
    ended = true;
  });
  for (; !ended; await sleep(5))
    for (const path of paths) closeSync(openSync(path, constants.O_RDWR | constants.O_NONBLOCK));
  for (const fd of await all) closeSync(fd);
}

test(
  "a hundred opens that hang, in io_uring and in threads, keep no other disk waiting",
  LIMIT,
  async (t) => {
    const path = image(t, 4096);
    // More than the kernel has workers by default, and more than the threads that are active at a time.
    const fifos = Array.from({ length: 100 }, () => fifo(t));
    const hanging = fifos.map((path, i) =>
      i < 96
        ? Place.of(path).open(constants.O_RDONLY)
        : Place.of(path).call("open", path, constants.O_RDONLY, 0),
    );
    const device = await openDevice(path, { readOnly: false });
    assert.equal(await Place.of(path).call("realpath", path), path);
    await device.refreshSize();
    await device.close();
    await wake(fifos, hanging);
  },
);

test("one call at a time for a path; what hangs is told, and since when", LIMIT, async (t) => {
  const path = fifo(t);
  const before = Date.now();
  const opening = Place.of(path).open(constants.O_RDONLY);
  let looked = false;
  const look = Place.of(path)
    .stat()
    .then(() => {
      looked = true;
    });
  assert.equal(Place.outageAt(path), null, "nothing hangs from the start");
  while (Place.outageAt(path) === null) await sleep(20);
  const outage = Place.outageAt(path);
  assert.equal(outage?.reason, `${path} does not answer (open)`);
  assert.ok(outage.since >= before && outage.since <= Date.now() - 1000);
  assert.equal(looked, false, "a second call was made at a path that hangs");
  await wake([path], [opening]);
  await look;
  assert.equal(Place.outageAt(path), null);
});

test("io_uring and threads tell the same of a file, and of one that is not there", LIMIT, async (t) => {
  const path = image(t, 12345);
  const engine = new LoopEngine();
  const stats = await engine.stat(path);
  assert.deepEqual(stats, await inThread("stat", path));
  const fd = await engine.open(path, constants.O_RDWR, 0);
  assert.deepEqual(await engine.stat(fd), stats);
  assert.deepEqual(plainStats(fstatSync(fd, { bigint: true })), stats);
  assert.ok(isType(stats, "file") && !isType(stats, "block"));
  assert.ok(isType(await engine.stat("/dev"), "directory"));
  const bytes = new TextEncoder().encode("xbdback");
  assert.equal(await engine.write(fd, bytes, 100), 7);
  assert.deepEqual(await inThread("read", fd, 7, 100), bytes);
  const missing = join(directory(t), "missing");
  // One after the other: what fails before it is waited for is an unhandled rejection.
  for (const ask of [() => engine.stat(missing), () => inThread("stat", missing)])
    await assert.rejects(ask, { code: "ENOENT", errno: constants.O_RDONLY + 2, syscall: "stat" });
  await new Promise<void>((resolve) => engine.closeFile(fd, () => resolve()));
  assert.throws(() => fstatSync(fd), { code: "EBADF" });
  engine.close();
  // A device's number is made of both its parts.
  const raw = new Uint8Array(256);
  new DataView(raw.buffer).setUint32(128, 0xabcde, true);
  new DataView(raw.buffer).setUint32(132, 0x12345, true);
  assert.equal(decodeStatx(raw).rdev, (0xab000n << 32n) | (0xcden << 8n) | (0x12300n << 12n) | 0x45n);
});

test("locks in memory and through a thread are the same", LIMIT, async (t) => {
  const path = image(t, 4096);
  const place = Place.of(path);
  const [one, other] = [await place.open(constants.O_RDWR), await place.open(constants.O_RDWR)];
  for (const inMemory of [true, false]) {
    const [mine, yours] = [new FileLocks(one, place, inMemory), new FileLocks(other, place, !inMemory)];
    assert.equal(await mine.tryLock(true), true);
    assert.equal(await yours.tryLock(true), false);
    await mine.shareRange(100, 1);
    assert.equal(await yours.isRangeLocked(100, 1), true);
    await mine.unlock();
    assert.equal(await yours.isRangeLocked(100, 1), false);
    assert.equal(await yours.tryLock(true), true);
    await yours.unlock();
  }
  await place.close(one);
  await place.close(other);
});
