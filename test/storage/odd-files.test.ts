/** Files that are there and are not what they were taken for: each is refused, or warned of, in words that help. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type DiskOptions, openDisk } from "../../host/storage/disk.js";
import { roundDown } from "../../host/storage/geometry.js";
import { DeviceError } from "../../host/storage/open.js";
import { formatSize } from "../../host/storage/size.js";
import { absent } from "../support/programs.js";
import { directory, image, LIMIT } from "./helpers.js";

const refuses = (target: string, why: RegExp, options: Partial<DiskOptions> = {}): Promise<void> =>
  assert.rejects(openDisk(target, { readOnly: false, ...options }), (error: Error) => {
    assert.ok(error instanceof DeviceError, error.stack);
    assert.match(error.message, why);
    return true;
  });

test("a loop of links, and a path through a file, are named", LIMIT, async (t) => {
  const loop = join(directory(t), "loop.img");
  symlinkSync(loop, loop);
  await refuses(loop, /loop\.img: a loop of symbolic links/);
  await refuses(`qcow2:${loop}`, /loop\.img: a loop of symbolic links/);
  await refuses(`${image(t, 4096)}/disk.img`, /a part of the path is not a directory/);
});

test("a protected file says how its protection is taken away", LIMIT, async (t: TestContext) => {
  for (const [flag, words] of [
    ["i", /: immutable; attach it read-only, or `chattr -i` it/],
    ["a", /: append-only; attach it read-only, or `chattr -a` it/],
  ] as const) {
    const path = image(t, 4096);
    const set = spawnSync("chattr", [`+${flag}`, path]);
    if (set.status !== 0) return t.skip(`chattr +${flag}: ${set.error?.message ?? set.stderr}`);
    try {
      await refuses(path, words);
      await (await openDisk(path, { readOnly: true })).close();
    } finally {
      spawnSync("chattr", [`-${flag}`, path]);
    }
  }
});

test("a file of the kernel is no disk", LIMIT, async () => {
  await refuses(
    "/sys/kernel/mm/transparent_hugepage/enabled",
    /is a file of the kernel's sysfs, not a disk/,
    {
      readOnly: true,
    },
  );
  await refuses("/proc/self/maps", /is a file of the kernel's proc, not a disk/, { readOnly: true });
});

test("an empty file is not told to be enlarged where an image of a format is wanted", LIMIT, async (t) => {
  const path = image(t, 0);
  await refuses(
    `qcow2:${path}`,
    /: an empty file, not a qcow2 image; create one, .*`qemu-img create -f qcow2 /,
  );
  await refuses(`vhd:${path}`, /not a vpc image; create one, .*`qemu-img create -f vpc /);
});

test("an image that is encrypted with AES is refused as such", {
  ...LIMIT,
  skip: absent("qemu-img"),
}, async (t) => {
  const path = join(directory(t), "secret.qcow2");
  const secret = ["--object", "secret,id=s,data=secret"];
  const aes = "encrypt.format=aes,encrypt.key-secret=s";
  const made = spawnSync("qemu-img", ["create", "-q", ...secret, "-f", "qcow2", "-o", aes, path, "1M"]);
  assert.equal(made.status, 0, String(made.stderr));
  await refuses(
    `qcow2:${path}`,
    /secret\.qcow2: is encrypted in a way that protects nothing \(aes\): decrypt it/,
  );
});

test("LUKS that is served as it is gets a warning", LIMIT, async (t) => {
  const path = image(t, 4096);
  writeFileSync(path, Buffer.from("LUKS\xba\xbe".padEnd(4096, "\0"), "latin1"));
  const lines: string[] = [];
  await (await openDisk(path, { readOnly: true, warn: (line) => lines.push(line) })).close();
  assert.deepEqual(lines, [`${path}: holds LUKS and is served as it is: the guest has to decrypt it`]);
});

test("no size is rounded up: not the largest that a file can have, and not in print", LIMIT, async (t) => {
  assert.equal(BigInt(roundDown(2n ** 63n - 1n)), 2n ** 63n - 1024n);
  assert.equal(roundDown(2n ** 53n - 1n), 2 ** 53 - 1);
  assert.equal(roundDown(0n), 0);
  assert.equal(formatSize(roundDown(2n ** 63n - 1n)), "7.9 EiB");
  assert.equal(formatSize(2 ** 40 - 512), "1023.9 GiB");
  assert.equal(formatSize(1.5 * 2 ** 30), "1.5 GiB");
  const memory = mkdtempSync("/dev/shm/xbdback-test-");
  t.after(() => rmSync(memory, { recursive: true }));
  const path = join(memory, "largest.img");
  const made = spawnSync("truncate", ["-s", String(2n ** 63n - 1n), path]);
  if (made.status !== 0) return t.skip(`no file of that size: ${made.stderr}`);
  const device = await openDisk(path, { readOnly: true, warn: () => {} });
  assert.ok(BigInt(device.size) < 2n ** 63n, String(device.size));
  await device.close();
});
