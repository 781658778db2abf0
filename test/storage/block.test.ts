/** Block devices, with loop devices for disks: needs root, and is skipped without. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, statSync, truncateSync } from "node:fs";
import { type TestContext, test } from "node:test";
import { Result } from "../../host/storage/device.js";
import { DeviceError, openDevice } from "../../host/storage/open.js";
import { absent, searchPath } from "../support/programs.js";
import {
  directory,
  discard,
  EBUSY,
  EROFS,
  fill,
  flush,
  gather,
  image,
  LIMIT,
  pattern,
  read,
  scatter,
  write,
} from "./helpers.js";

const MIB = 1 << 20;

/** A loop device on an image; null, and the test is skipped, where there can be none. */
function loopDevice(t: TestContext, path: string, ...options: string[]): string | null {
  if (process.geteuid!() !== 0) {
    t.skip("loop devices need root");
    return null;
  }
  const losetup = spawnSync("losetup", ["--find", "--show", ...options, path]);
  if (losetup.status !== 0) {
    t.skip(`no loop device: ${losetup.error?.message ?? losetup.stderr.toString().trim()}`);
    return null;
  }
  const device = losetup.stdout.toString().trim();
  t.after(() => spawnSync("losetup", ["--detach", device]));
  return device;
}

const refused =
  (errno: number, message: RegExp) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof DeviceError, String(error));
    assert.equal(error.errno, errno);
    assert.match(error.message, message);
    return true;
  };

test("a block device is read, written, flushed and discarded", LIMIT, async (t) => {
  const path = image(t, 0, pattern(MIB));
  const loop = loopDevice(t, path);
  if (!loop) return;
  const device = await openDevice(loop, { readOnly: false });
  t.after(() => device.close());
  assert.equal(device.size, MIB);
  assert.equal(device.sectorSize, 512);
  assert.equal(device.canSecureDiscard, false);
  const data = pattern(8192, 4);
  assert.equal((await write(device, 512, fill(scatter(4096, 4096), data))).result, Result.Success);
  assert.equal((await flush(device)).result, Result.Success);
  assert.deepEqual(readFileSync(path).subarray(512, 512 + 8192), data);
  const to = scatter(8192);
  assert.equal((await read(device, 512, to)).result, Result.Success);
  assert.deepEqual(gather(to), data);
  if (device.canDiscard) {
    const before = statSync(path).blocks;
    assert.ok(device.discardGranularity >= 512);
    assert.equal((await discard(device, MIB / 2, MIB / 4)).result, Result.Success);
    assert.ok(statSync(path).blocks < before);
    assert.equal((await read(device, MIB / 2 - 4096, to)).result, Result.Success);
    assert.deepEqual(gather(to).subarray(0, 4096), pattern(MIB).subarray(MIB / 2 - 4096, MIB / 2));
    assert.ok(
      gather(to)
        .subarray(4096)
        .every((byte) => byte === 0),
    );
  }
  assert.equal((await discard(device, 0, 4096, true)).result, Result.Unsupported);
});

test("a block device has one user", LIMIT, async (t) => {
  const loop = loopDevice(t, image(t, MIB));
  if (!loop) return;
  const device = await openDevice(loop, { readOnly: true });
  await assert.rejects(openDevice(loop, { readOnly: false }), refused(EBUSY, /in use by this process/));
  await assert.rejects(openDevice(loop, { readOnly: true }), refused(EBUSY, /in use by this process/));
  await (await openDevice(loop, { readOnly: true, shared: true })).close();
  await device.close();
  await (await openDevice(loop, { readOnly: false })).close();
});

test("a mounted block device is in use", { ...LIMIT, skip: absent("mkfs.ext4") }, async (t) => {
  const path = image(t, 2 * MIB);
  const loop = loopDevice(t, path);
  if (!loop) return;
  const mountPoint = directory(t);
  const made = spawnSync("mkfs.ext4", ["-q", loop], { env: { PATH: searchPath() }, encoding: "utf8" });
  assert.equal(made.status, 0, made.stderr);
  if (spawnSync("mount", [loop, mountPoint]).status !== 0) return t.skip("no permission to mount");
  try {
    const message = new RegExp(`mounted on ${mountPoint}; unmount it with`);
    await assert.rejects(openDevice(loop, { readOnly: false }), refused(EBUSY, message));
  } finally {
    spawnSync("umount", [mountPoint]);
  }
});

test("sectors of 4096 bytes are told", LIMIT, async (t) => {
  const loop = loopDevice(t, image(t, MIB), "--sector-size", "4096");
  if (!loop) return;
  const device = await openDevice(loop, { readOnly: false });
  assert.equal(device.sectorSize, 4096);
  assert.ok(device.physicalSectorSize >= 4096);
  assert.ok(device.discardGranularity >= 4096);
  await device.close();
});

test("a write-protected block device is not opened for writing", LIMIT, async (t) => {
  const loop = loopDevice(t, image(t, MIB), "--read-only");
  if (!loop) return;
  await assert.rejects(openDevice(loop, { readOnly: false }), refused(EROFS, /attach it read-only/));
  const device = await openDevice(loop, { readOnly: true });
  assert.equal((await write(device, 0, scatter(512))).result, Result.ReadOnly);
  await device.close();
});

test("a block device that grows is noticed", LIMIT, async (t) => {
  const path = image(t, MIB);
  const loop = loopDevice(t, path);
  if (!loop) return;
  const device = await openDevice(loop, { readOnly: false });
  truncateSync(path, 2 * MIB);
  assert.equal(spawnSync("losetup", ["--set-capacity", loop]).status, 0);
  assert.equal(await device.refreshSize(), true);
  assert.equal(device.size, 2 * MIB);
  await device.close();
});

test("an image that a loop device serves is in use", LIMIT, async (t) => {
  const path = image(t, MIB);
  const loop = loopDevice(t, path);
  if (!loop) return;
  const message = new RegExp(`disk\\.img: in use by ${loop}; detach it with \`losetup -d ${loop}\``);
  await assert.rejects(openDevice(path, { readOnly: false }), refused(EBUSY, message));
  await assert.rejects(openDevice(path, { readOnly: true }), refused(EBUSY, message));
});

test("an image that a read-only loop device serves can be read", LIMIT, async (t) => {
  const path = image(t, MIB);
  const loop = loopDevice(t, path, "--read-only");
  if (!loop) return;
  await assert.rejects(openDevice(path, { readOnly: false }), refused(EBUSY, /in use by/));
  await (await openDevice(path, { readOnly: true })).close();
});
