/** Overlays: what is written where, who may have one, over which base, and files that are none. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import {
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import type { TestContext } from "node:test";
import { type BlockDevice, Result } from "../../host/storage/device.js";
import { type DiskOptions, openDisk } from "../../host/storage/disk.js";
import { DeviceError } from "../../host/storage/open.js";
import {
  directory,
  discard,
  fill,
  flush,
  gather,
  image,
  pattern,
  read,
  scatter,
  write,
} from "../storage/helpers.js";
import { MIB, withPrograms } from "./support.js";

const QEMU = ["qemu-storage-daemon", "qemu-img"] as const;
/** Of an overlay that we make. */
const CLUSTER = 128 << 10;

interface Files {
  readonly root: string;
  readonly base: string;
  readonly overlay: string;
  readonly target: string;
  readonly content: Buffer;
}

function files(t: TestContext): Files {
  const content = pattern(MIB);
  const base = image(t, MIB, content);
  const root = directory(t);
  const overlay = join(root, "overlay.qcow2");
  return { root, base, overlay, content, target: `cow:${overlay}:${base}` };
}

async function open(
  t: TestContext,
  target: string,
  options: Partial<DiskOptions> = {},
): Promise<BlockDevice> {
  const device = await openDisk(target, { readOnly: false, warn: () => {}, ...options });
  t.after(() => device.close());
  return device;
}

async function make(target: string): Promise<void> {
  await (await openDisk(target, { readOnly: false, warn: () => {} })).close();
}

const refuses = (target: string, why: RegExp, options: Partial<DiskOptions> = {}): Promise<void> =>
  assert.rejects(openDisk(target, { readOnly: false, warn: () => {}, ...options }), (error: Error) => {
    assert.ok(error instanceof DeviceError, error.stack);
    assert.match(error.message, why);
    assert.doesNotMatch(error.message, /\n/);
    return true;
  });

const qemuImg = (...args: string[]): Buffer => execFileSync("qemu-img", args);

async function wholeOf(device: BlockDevice): Promise<Buffer> {
  const to = scatter(4096, 512, device.size - 4608);
  assert.equal((await read(device, 0, to)).result, Result.Success);
  return gather(to);
}

async function put(device: BlockDevice, position: number, data: Buffer): Promise<void> {
  const { result, error } = await write(device, position, fill(scatter(data.length), data));
  assert.equal(result, Result.Success, error?.message);
}

withPrograms(QEMU, "what is written is in the overlay, and the base is never touched", async (t) => {
  const { base, overlay, target, content } = files(t);
  const device = await open(t, target);
  assert.match(
    device.through ?? "",
    /^qemu-storage-daemon, process \d+.*: qcow2 \S+overlay\.qcow2, over raw \S+disk\.img$/,
  );
  assert.deepEqual(device.bases, [base]);
  assert.equal(device.fenced, true);
  assert.equal(statSync(overlay).mode & 0o777, 0o600);
  const expected = Buffer.from(content);
  for (const [position, length] of [
    [0, 512],
    [1536, 4096],
    [100 * 512, 65536],
    [CLUSTER - 512, CLUSTER + 1024],
    [MIB - 512, 512],
  ]) {
    const data = pattern(length, position + 7);
    data.copy(expected, position);
    await put(device, position, data);
    assert.deepEqual(await wholeOf(device), expected);
  }
  assert.equal((await flush(device)).result, Result.Success);
  await device.close();
  const again = await open(t, target, { cache: "none" });
  assert.ok((await wholeOf(again)).equals(expected));
  await again.close();
  const reader = await open(t, target, { readOnly: true });
  assert.equal(reader.readOnly, true);
  assert.ok((await wholeOf(reader)).equals(expected));
  assert.equal((await write(reader, 0, scatter(512))).result, Result.ReadOnly);
  assert.ok(readFileSync(base).equals(content));
});

withPrograms(QEMU, "a discard gives whole clusters back, which read as zeros", async (t) => {
  const { overlay, target, content } = files(t);
  const device = await open(t, target);
  await put(device, 0, pattern(MIB / 2, 9));
  await flush(device);
  const full = statSync(overlay).blocks;
  assert.equal((await discard(device, 0, MIB / 4)).result, Result.Success);
  assert.equal((await discard(device, MIB - CLUSTER, CLUSTER)).result, Result.Success);
  await flush(device);
  assert.ok(statSync(overlay).blocks <= full - MIB / 4 / 512, `${statSync(overlay).blocks} of ${full}`);
  const seen = await wholeOf(device);
  assert.deepEqual(seen.subarray(0, MIB / 4), Buffer.alloc(MIB / 4));
  assert.deepEqual(seen.subarray(MIB / 4, MIB / 2), pattern(MIB / 2, 9).subarray(MIB / 4));
  assert.deepEqual(seen.subarray(MIB / 2, MIB - CLUSTER), content.subarray(MIB / 2, MIB - CLUSTER));
  // Where the overlay had nothing, too.
  assert.deepEqual(seen.subarray(MIB - CLUSTER), Buffer.alloc(CLUSTER));
  assert.equal((await discard(device, 0, 512, true)).result, Result.Unsupported);
  await put(device, 512, pattern(512, 3));
  assert.deepEqual((await wholeOf(device)).subarray(512, 1024), pattern(512, 3));
});

withPrograms(QEMU, "a first write of 4 KiB puts nothing of the base into the overlay", async (t) => {
  const { overlay, target } = files(t);
  const device = await open(t, target);
  await put(device, 4096, pattern(4096, 2));
  await flush(device);
  await device.close();
  const map = JSON.parse(qemuImg("map", "-f", "qcow2", "--output=json", overlay).toString());
  const own = map.filter(({ depth }: { depth: number }) => depth === 0);
  assert.deepEqual(
    own.map(({ start, length }: { start: number; length: number }) => [start, length]),
    [[4096, 4096]],
  );
});

withPrograms(QEMU, "an overlay has one user, a base any number, and none that writes", async (t) => {
  const { root, base, target } = files(t);
  const one = await open(t, target);
  const two = await open(t, `cow:${join(root, "other")}:readonly:${base}`);
  const busy = /overlay\.qcow2: in use by process \d+ \(qemu-storage-da/;
  await refuses(target, busy);
  // Not even where the administrator takes the blame.
  await refuses(target, busy, { shared: true });
  await refuses(target, busy, { readOnly: true });
  await refuses(base, /disk\.img: in use by/);
  await one.close();
  await two.close();
  await (await open(t, base)).close();
  // A refusal gives the base back.
  await refuses(`cow:/no/such/dir/o:${base}`, /the overlay does not exist and cannot be created \(ENOENT\)/);
  await (await open(t, base)).close();
});

withPrograms(QEMU, "of two that create the same overlay, one has it, and the other is told", async (t) => {
  const { root, target } = files(t);
  const both = await Promise.allSettled(
    [1, 2].map(() => openDisk(target, { readOnly: false, warn: () => {} })),
  );
  const errors = both.flatMap((one) => (one.status === "rejected" ? [one.reason] : []));
  for (const one of both) if (one.status === "fulfilled") await one.value.close();
  assert.equal(errors.length, 1);
  assert.match(
    errors[0].message,
    /overlay\.qcow2: (another process has just created it|.*in use by|.*lock)/i,
  );
  assert.equal(errors[0].code, "EBUSY");
  assert.deepEqual(readdirSync(root), ["overlay.qcow2"]);
  await make(target);
});

withPrograms(QEMU, "a check leaves no overlay behind, and a reader needs one", async (t) => {
  const { root, target, content } = files(t);
  const device = await open(t, target, { create: false });
  assert.match(device.through ?? "", /: qcow2 \S+overlay\.qcow2, over raw /);
  assert.ok((await wholeOf(device)).equals(content));
  assert.deepEqual(readdirSync(root), []);
  await device.close();
  await refuses(target, /overlay\.qcow2: no such file/, { readOnly: true });
  await make(target);
  assert.deepEqual(readdirSync(root), ["overlay.qcow2"]);
  // One that is there is what a check opens.
  await (await open(t, target, { create: false })).close();
  assert.ok(existsSync(join(root, "overlay.qcow2")));
});

withPrograms(
  QEMU,
  "an overlay over another base than the said one is refused, and not changed",
  async (t) => {
    const { root, base, overlay, target } = files(t);
    await make(target);
    const before = readFileSync(overlay);
    const other = image(t, MIB, pattern(MIB, 2));
    await refuses(
      `cow:${overlay}:${other}`,
      /overlay\.qcow2: was made over the base \S+disk\.img, and not over \S+disk\.img: name that one; if it is the same, `qemu-img rebase -u -b \S+ -F raw \S+` records it$/,
    );
    await refuses(`cow:${overlay}:vhd:${base}`, /cannot read its header/);
    const moved = join(root, "moved.img");
    renameSync(base, moved);
    await refuses(
      `cow:${overlay}:${moved}`,
      /was made over the base \S+disk\.img, and not over \S+moved\.img/,
    );
    assert.ok(readFileSync(overlay).equals(before));
    // The remedy, and another name of the same file.
    qemuImg("rebase", "-u", "-f", "qcow2", "-b", moved, "-F", "raw", overlay);
    await make(`cow:${overlay}:${moved}`);
    symlinkSync(moved, base);
    await make(target);
  },
);

/** Takes the format of its base out of a header. */
function forgetFormat(path: string): void {
  const bytes = readFileSync(path);
  // The first of the header's extensions (QEMU's docs/interop/qcow2.txt); what is unknown is skipped.
  const extension = bytes.readUInt32BE(100);
  assert.equal(bytes.readUInt32BE(extension), 0xe2792aca);
  bytes.writeUInt32BE(0x12345678, extension);
  writeFileSync(path, bytes);
}

withPrograms(QEMU, "the format of the base is part of what it is", async (t) => {
  const { root, base, overlay } = files(t);
  const qcow2 = join(root, "base.qcow2");
  qemuImg("convert", "-f", "raw", "-O", "qcow2", base, qcow2);
  await make(`cow:${overlay}:qcow2:${qcow2}`);
  await refuses(
    `cow:${overlay}:${qcow2}`,
    /was made over a base of format qcow2, and not raw: name that one/,
  );
  forgetFormat(overlay);
  await refuses(`cow:${overlay}:qcow2:${qcow2}`, /over a base of format unknown, and not qcow2: .*rebase -u/);
});

withPrograms(
  QEMU,
  "a base that is smaller than the overlay is refused, and a larger one is served",
  async (t) => {
    const { base, target, overlay } = files(t);
    await make(target);
    truncateSync(base, MIB - 512);
    await refuses(
      target,
      /overlay\.qcow2: has 1048576 bytes, and its base \S+disk\.img only 1048064: name the base/,
    );
    truncateSync(base, 2 * MIB);
    const lines: string[] = [];
    const device = await open(t, target, { warn: (line) => void lines.push(line) });
    assert.equal(device.size, MIB);
    const grown = lines.filter((line) =>
      /disk\.img has grown to 2097152 bytes; the overlay keeps its 1048576$/.test(line),
    );
    assert.equal(grown.length, 1, lines.join("\n"));
    await device.close();
    qemuImg("resize", "-q", "-f", "qcow2", overlay, "4M");
    await refuses(target, /if it was enlarged since, attach it as qcow2:\S+overlay\.qcow2$/);
    await (await open(t, `qcow2:${overlay}`)).close();
  },
);

withPrograms(QEMU, "a file that is not an overlay is refused, and not changed", async (t) => {
  const { root, base, overlay, target } = files(t);
  const former = Buffer.alloc(8192);
  former.write("xbdbackC");
  for (const [bytes, why] of [
    [Buffer.alloc(0), /overlay\.qcow2: an empty file, not a qcow2 image/],
    [Buffer.alloc(4096), /overlay\.qcow2: qemu-img cannot read its header: .* not in qcow2 format$/],
    [
      former,
      /overlay\.qcow2: is an overlay in xbdback's own format, which 0\.1\.0 was the last version to read: /,
    ],
  ] as const) {
    writeFileSync(overlay, bytes);
    await refuses(target, why);
    assert.ok(readFileSync(overlay).equals(bytes));
  }
  const alone = join(root, "alone");
  qemuImg("create", "-q", "-f", "qcow2", alone, "1M");
  await refuses(
    `cow:${alone}:${base}`,
    /alone: has no base and is no overlay: attach it as qcow2:\S+alone, or name/,
  );
  await refuses(`cow:${base}:${base}`, /disk\.img: qemu-img cannot read its header/);
  await refuses(`cow:${root}:${base}`, /: is a directory/);
  await (await open(t, base)).close();
});

withPrograms(QEMU, "what cannot be a base is refused with the remedy", async (t) => {
  const { base, overlay } = files(t);
  for (const [target, why] of [
    [
      `delay:5ms:${base}`,
      /^delay:5ms:\S+: is not an image; put the wrapper before the overlay instead of behind it$/,
    ],
    [
      "nbd+unix:///?socket=/s",
      /^nbd\S+: cannot be the base of an overlay, which is an image or a block device: copy/,
    ],
    ["disk.img", /^disk\.img: is neither an absolute path nor a known target$/],
    ["delay:5:/a", /"5" is not known here/],
    ["/no/such/base", /^\/no\/such\/base: no such file/],
  ] as const)
    await refuses(`cow:${overlay}:${target}`, why);
  assert.deepEqual(readdirSync(dirname(overlay)), []);
});

withPrograms(QEMU, "overlays upon overlays, each over its own base", async (t) => {
  const { root, base, overlay, target, content } = files(t);
  const upper = join(root, "upper");
  await refuses(`cow:${upper}:${target}`, /overlay\.qcow2: no such file/);
  const lower = await open(t, target);
  await put(lower, 0, pattern(512, 21));
  await lower.close();
  const both = await open(t, `cow:${upper}:${target}`);
  assert.deepEqual(both.bases, [overlay, base]);
  await put(both, 512, pattern(512, 22));
  const seen = await wholeOf(both);
  assert.deepEqual(seen.subarray(0, 512), pattern(512, 21));
  assert.deepEqual(seen.subarray(512, 1024), pattern(512, 22));
  assert.deepEqual(seen.subarray(1024), content.subarray(1024));
  await both.close();
  const other = image(t, MIB);
  await refuses(`cow:${upper}:cow:${overlay}:${other}`, /overlay\.qcow2: was made over the base/);
});

withPrograms(QEMU, "an overlay over a sparse base of 1 TiB is small, and opens", async (t) => {
  const { root } = files(t);
  const base = image(t, 2 ** 40);
  const overlay = join(root, "huge");
  const device = await open(t, `cow:${overlay}:${base}`);
  await put(device, 2 ** 40 - 4096, pattern(4096));
  await device.close();
  const again = await open(t, `cow:${overlay}:${base}`);
  const to = scatter(4096);
  await read(again, 2 ** 40 - 4096, to);
  assert.deepEqual(gather(to), pattern(4096));
  assert.ok(statSync(overlay).blocks < 4096, `${statSync(overlay).blocks} blocks`);
});

withPrograms(QEMU, "an overlay has the sectors of its base", async (t) => {
  if (process.geteuid?.() !== 0) return t.skip("loop devices need root");
  const { base, overlay } = files(t);
  const options = ["--find", "--show", "--sector-size", "4096", base];
  const made = spawnSync("losetup", options, { encoding: "utf8" });
  if (made.status !== 0) return t.skip(`no loop device: ${made.error?.message ?? made.stderr.trim()}`);
  const loop = made.stdout.trim();
  t.after(() => spawnSync("losetup", ["--detach", loop]));
  const device = await open(t, `cow:${overlay}:${loop}`, { cache: "none" });
  assert.equal(device.sectorSize, 4096);
  await put(device, 4096, pattern(4096, 5));
  const to = scatter(8192);
  assert.equal((await read(device, 0, to)).result, Result.Success);
  assert.deepEqual(gather(to), Buffer.concat([pattern(MIB).subarray(0, 4096), pattern(4096, 5)]));
});
