/** An image that is damaged in one place, which costs the requests for that place and no others. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Result } from "../../host/storage/device.js";
import { openDisk } from "../../host/storage/disk.js";
import { directory, read, scatter } from "../storage/helpers.js";
import { absent } from "../support/programs.js";

const QEMU = absent("qemu-storage-daemon", "qemu-img", "qemu-io");
const LIMIT = { timeout: 60_000 };

/** Makes the image's second cluster one that QEMU cannot read: as it is, it is no compressed data. */
function spoilSecondCluster(path: string): void {
  const bytes = readFileSync(path);
  const table = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(40))) & 0x00fffffffffffe00n);
  const entry = Buffer.alloc(8);
  const cluster = bytes.readBigUInt64BE(table + 8) & 0x00fffffffffffe00n;
  entry.writeBigUInt64BE((1n << 62n) | cluster);
  const fd = openSync(path, "r+");
  writeSync(fd, entry, 0, 8, table + 8);
  closeSync(fd);
}

test("an unreadable cluster fails the request for it, at once", {
  ...LIMIT,
  skip: QEMU,
}, async (t) => {
  const path = join(directory(t), "disk.qcow2");
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", path, "1M"]);
  execFileSync("qemu-io", ["-f", "qcow2", "-c", "write 0 256k", path]);
  spoilSecondCluster(path);
  const lines: string[] = [];
  const device = await openDisk(`qcow2:${path}`, {
    readOnly: true,
    warn: (line) => lines.push(line),
  });
  t.after(() => device.close());
  const [bad, good] = await Promise.all([
    read(device, 65536, scatter(4096)),
    read(device, 131072, scatter(4096)),
  ]);
  assert.equal(bad.result, Result.Failure);
  assert.equal(good.result, Result.Success);
  // Nothing was tried again, and the helper lives.
  assert.deepEqual(
    lines.filter((line) => !/not confined/.test(line)),
    [],
  );
});
