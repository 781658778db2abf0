/**
 * Faults of our NBD client and of our overlay format that are known. A later issue replaces both, so they are not mended
 * here: each test shows one, and is to pass then.
 */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync, truncateSync, writeSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Result } from "../../host/storage/device.js";
import { openDisk } from "../../host/storage/disk.js";
import { directory, image, pattern, read, scatter } from "../storage/helpers.js";
import { absent } from "../support/programs.js";

const OVERLAYS = "the overlay format is to be replaced";
const QEMU = absent("qemu-storage-daemon", "qemu-img", "qemu-io");
const LIMIT = { timeout: 60_000 };
const MIB = 1 << 20;

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
    patience: { reconnectMs: 3000 },
    warn: (line) => lines.push(line),
  });
  t.after(() => device.close());
  const before = performance.now();
  const [bad, good] = await Promise.all([
    read(device, 65536, scatter(4096)),
    read(device, 131072, scatter(4096)),
  ]);
  assert.equal(bad.result, Result.Failure);
  assert.equal(good.result, Result.Success);
  const took = performance.now() - before;
  assert.ok(took < 2000, `${took} ms; ${lines.length} lines in the log`);
});

test("an overlay over another base of the same size is refused", { ...LIMIT, todo: OVERLAYS }, async (t) => {
  const overlay = join(directory(t), "overlay.cow");
  const warn = (): void => {};
  const [one, two] = [1, 2].map((seed) => image(t, MIB, pattern(MIB, seed)));
  await (await openDisk(`cow:${overlay}:${one}`, { readOnly: false, warn })).close();
  await assert.rejects(async () => {
    await (await openDisk(`cow:${overlay}:${two}`, { readOnly: false, warn })).close();
  }, /base/);
});

test("an overlay is served when its base has grown", { ...LIMIT, todo: OVERLAYS }, async (t) => {
  const overlay = join(directory(t), "overlay.cow");
  const base = image(t, MIB, pattern(MIB));
  await (await openDisk(`cow:${overlay}:${base}`, { readOnly: false })).close();
  truncateSync(base, 2 * MIB);
  const device = await openDisk(`cow:${overlay}:${base}`, { readOnly: false, warn: () => {} });
  assert.equal(device.size, MIB);
  await device.close();
});

test("an overlay over a sparse base of 1 TiB opens within seconds", {
  ...LIMIT,
  todo: OVERLAYS,
}, async (t) => {
  const base = image(t, MIB);
  truncateSync(base, 2 ** 40);
  const target = `cow:${join(directory(t), "overlay.cow")}:${base}`;
  const disk = new URL("../../host/storage/disk.js", import.meta.url).href;
  const script = `const { openDisk } = await import(${JSON.stringify(disk)});
    await openDisk(${JSON.stringify(target)}, { readOnly: false });
    process.exit(0);`;
  // In another process: it may keep its main thread for long.
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "ignore", "inherit"],
    timeout: 4000,
    killSignal: "SIGKILL",
  });
  const [status] = await once(child, "exit");
  assert.equal(status, 0, "not open after 4 s");
});
