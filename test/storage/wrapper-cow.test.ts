/** The copy-on-write wrapper on files: what it writes where, who may have it, and overlays that are none. */
import assert from "node:assert/strict";
import {
  copyFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { random } from "../../host/guest/workload.js";
import { type BlockDevice, Result } from "../../host/storage/device.js";
import { type DiskOptions, openDisk } from "../../host/storage/disk.js";
import { DeviceError } from "../../host/storage/open.js";
import { CowDisk } from "../../host/storage/wrapper/cow.js";
import { loadOverlay } from "../../host/storage/wrapper/cow-file.js";
import { encodeHeader } from "../../host/storage/wrapper/cow-header.js";
import { CrashDisk, contentOf } from "./crash-disk.js";
import {
  directory,
  discard,
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

const BYTES = 1 << 20;

interface Files {
  readonly base: string;
  readonly overlay: string;
  readonly target: string;
  readonly content: Buffer;
}

function files(t: TestContext): Files {
  const content = pattern(BYTES);
  const base = image(t, BYTES, content);
  const overlay = join(directory(t), "overlay.cow");
  return { base, overlay, content, target: `cow:${overlay}:${base}` };
}

async function open(
  t: TestContext,
  target: string,
  options: Partial<DiskOptions> = {},
): Promise<BlockDevice> {
  const device = await openDisk(target, { readOnly: false, ...options });
  t.after(() => device.close());
  return device;
}

const refuses = (target: string, why: RegExp, options: Partial<DiskOptions> = {}): Promise<void> =>
  assert.rejects(openDisk(target, { readOnly: false, ...options }), (error: Error) => {
    assert.ok(error instanceof DeviceError, error.stack);
    assert.match(error.message, why);
    return true;
  });

async function wholeOf(device: BlockDevice): Promise<Buffer> {
  const to = scatter(4096, 512, device.size - 4608);
  assert.equal((await read(device, 0, to)).result, Result.Success);
  return gather(to);
}

test("an overlay in which everything was written, a whole page of bits among it", LIMIT, async (t) => {
  // A page has bits for 16 MiB of sectors of 512 bytes.
  const bytes = 17 << 20;
  const base = image(t, bytes);
  const target = `cow:${join(directory(t), "overlay.cow")}:${base}`;
  const device = await open(t, target);
  const data = pattern(bytes);
  assert.equal((await write(device, 0, fill(scatter(bytes), data))).result, Result.Success);
  await device.close();
  // Not deepEqual, which would take minutes to tell the difference.
  assert.ok(data.equals(await wholeOf(await open(t, target))));
});

test(
  "what is written is in the overlay, the rest in the base, and the base is never touched",
  LIMIT,
  async (t) => {
    const { base, overlay, target, content } = files(t);
    const device = await open(t, target);
    assert.equal(device.through, `copy-on-write in ${overlay}, over raw image ${base}`);
    assert.equal(statSync(overlay).mode & 0o777, 0o600);
    assert.ok(statSync(overlay).blocks * 512 < 65536, "it is sparse");
    const expected = Buffer.from(content);
    for (const [position, length] of [
      [0, 512],
      [1536, 4096],
      [100 * 512, 65536],
      [BYTES - 512, 512],
    ]) {
      const data = pattern(length, position + 7);
      data.copy(expected, position);
      const from = length > 512 ? scatter(512, length - 512) : scatter(length);
      assert.equal((await write(device, position, fill(from, data))).result, Result.Success);
      assert.deepEqual(await wholeOf(device), expected);
    }
    assert.equal((await flush(device)).result, Result.Success);
    await device.close();
    const again = await open(t, target, { cache: "none" });
    // Where direct I/O can put it.
    const aligned = scatter(BYTES);
    assert.equal((await read(again, 0, aligned)).result, Result.Success);
    assert.deepEqual(gather(aligned), expected);
    await again.close();
    const reader = await open(t, target, { readOnly: true });
    assert.equal(reader.readOnly, true);
    assert.deepEqual(await wholeOf(reader), expected);
    assert.equal((await write(reader, 0, scatter(512))).result, Result.ReadOnly);
    assert.equal((await flush(reader)).result, Result.Success);
    assert.deepEqual(readFileSync(base), content);
  },
);

test("a discard gives the overlay's space back, and shows zeros or the base", LIMIT, async (t) => {
  const { overlay, target, content } = files(t);
  const device = await open(t, target);
  await write(device, 0, fill(scatter(524288), pattern(524288, 9)));
  await flush(device);
  const full = statSync(overlay).blocks;
  assert.equal((await discard(device, 0, BYTES)).result, Result.Success);
  await flush(device);
  assert.ok(statSync(overlay).blocks <= full - 1000, `${statSync(overlay).blocks} of ${full}`);
  const seen = await wholeOf(device);
  assert.deepEqual(seen.subarray(0, 524288), Buffer.alloc(524288));
  assert.deepEqual(seen.subarray(524288), content.subarray(524288));
  assert.equal((await discard(device, 0, 512, true)).result, Result.Unsupported);
  await write(device, 512, fill(scatter(512), pattern(512, 3)));
  assert.deepEqual((await wholeOf(device)).subarray(512, 1024), pattern(512, 3));
});

test(
  "a write that does not get its bit stored fails, and one that comes later is not harmed",
  LIMIT,
  async () => {
    const { device, disk } = await inMemory();
    device.fails = (position, bytes) => position === 4096 && bytes === 4096;
    const { result, error } = await write(disk, 0, scatter(512));
    assert.equal(result, Result.Failure);
    assert.match(error?.message ?? "", /write 4096\+4096 failed/);
    device.fails = () => false;
    // Its bit is set, but not stored: it must not count as written before that.
    device.log.length = 0;
    assert.equal((await write(disk, 0, fill(scatter(512), pattern(512)))).result, Result.Success);
    assert.ok(device.log.includes("write 4096+4096"), device.log.join(", "));
    device.log.length = 0;
    await write(disk, 0, scatter(512));
    assert.equal(device.log.length, 1, "an overwrite is one write");
  },
);

test("a flush puts the data before the bits, and one that fails has failed for good", LIMIT, async () => {
  const { device, disk } = await inMemory();
  await write(disk, 0, scatter(512));
  device.log.length = 0;
  assert.equal((await flush(disk)).result, Result.Success);
  assert.deepEqual(device.log, ["flush", "write 8192+4096", "flush"]);
  device.log.length = 0;
  await flush(disk);
  assert.deepEqual(device.log, ["flush"]);
  await write(disk, 512, scatter(512));
  device.fails = (position) => position === 8192;
  assert.equal((await flush(disk)).result, Result.Failure);
  assert.notEqual(disk.flushErrno, 0);
  device.fails = () => false;
  assert.equal((await write(disk, 0, scatter(512))).result, Result.Failure);
  assert.equal((await flush(disk)).result, Result.Failure);
});

test("what cannot be flushed when it is closed is said", LIMIT, async () => {
  const { device, disk, lines } = await inMemory();
  await write(disk, 512, scatter(512));
  device.fails = (position) => position === 8192;
  await disk.close();
  assert.deepEqual(lines, ["cow: the last writes cannot be flushed and may be lost"]);
  assert.equal(device.closed, true);
});

/** A disk whose overlay is in memory, made as a file is. */
async function inMemory(): Promise<{ device: CrashDisk; disk: CowDisk; lines: string[] }> {
  const bootId = Buffer.alloc(16, 1);
  const header = encodeHeader({ size: BYTES, sectorSize: 512, bootId });
  const device = new CrashDisk(4096 + 8192 + BYTES, contentOf(header));
  const base = new CrashDisk(BYTES, new Map(), { readOnly: true });
  const lines: string[] = [];
  const overlay = await loadOverlay("/overlay", device, bootId);
  const disk = new CowDisk("cow", base, overlay, (line) => lines.push(line));
  return { device, disk, lines };
}

test("an overlay has one user, a base any number, and none that writes", LIMIT, async (t) => {
  const { base, overlay, target } = files(t);
  const other = join(dirname(overlay), "other.cow");
  const one = await open(t, target);
  const two = await open(t, `cow:${other}:${base}`);
  await refuses(target, /overlay\.cow: in use by this process/);
  // Not even where the administrator takes the blame.
  await refuses(target, /overlay\.cow: in use by this process/, { shared: true });
  await refuses(target, /overlay\.cow: in use by/, { readOnly: true });
  await refuses(base, /disk\.img: in use by/);
  await one.close();
  await two.close();
  await (await open(t, base)).close();
  // A refusal lets go of the base.
  await refuses(`cow:/no/such/dir/o:${base}`, /the overlay does not exist and cannot be created \(ENOENT\)/);
  await (await open(t, base)).close();
});

test("a check leaves no overlay behind, and a reader needs one", LIMIT, async (t) => {
  const { base, overlay, target, content } = files(t);
  const device = await open(t, target, { create: false });
  assert.deepEqual(await wholeOf(device), content);
  await device.close();
  assert.deepEqual(readdirSync(dirname(overlay)), []);
  await refuses(target, /overlay\.cow: no such file/, { readOnly: true });
  await (await open(t, target)).close();
  assert.deepEqual(readdirSync(dirname(overlay)), ["overlay.cow"]);
  await (await open(t, base)).close();
});

test(
  "an overlay of another base, of another program, or damaged is refused and not changed",
  LIMIT,
  async (t) => {
    const { base, overlay, target } = files(t);
    const made = await open(t, target);
    await write(made, 0, scatter(512));
    await made.close();
    const good = readFileSync(overlay);
    const change = (offset: number, byte: number): Buffer => {
      const bytes = Buffer.from(good);
      bytes[offset] = byte;
      return bytes;
    };
    const cases: [string, Buffer, RegExp][] = [
      ["empty", Buffer.alloc(0), /overlay\.cow: empty, less than a sector/],
      ["a sector", Buffer.alloc(512), /is not an overlay of xbdback; name another file/],
      ["zeros", Buffer.alloc(good.length), /is not an overlay of xbdback/],
      [
        "qcow2",
        Buffer.concat([Buffer.from("QFI\xfb", "latin1"), good.subarray(4)]),
        /is not an overlay of xbdback/,
      ],
      ["a later format", change(8, 2), /an overlay of format 2; this release knows 1/],
      ["another sector size", change(13, 4), /a damaged overlay: its header is damaged/],
      ["another size", change(18, 99), /a damaged overlay: its header/],
      ["another boot", change(33, good[33] ^ 1), /a damaged overlay: its header/],
      ["cut short", good.subarray(0, good.length - 512), /a damaged overlay: it has \d+ bytes and needs \d+/],
      ["bits behind the end", change(4096 + 300, 1), /a damaged overlay: it has sectors beyond the end/],
    ];
    for (const [what, bytes, why] of cases) {
      writeFileSync(overlay, bytes);
      await refuses(target, why);
      assert.ok(readFileSync(overlay).equals(bytes), what);
    }
    writeFileSync(overlay, good);
    truncateSync(base, BYTES * 2);
    await refuses(
      target,
      /created for a base of 1048576 bytes in sectors of 512, and .*disk\.img has 2097152/,
    );
    truncateSync(base, BYTES);
    await (await open(t, target)).close();
    // A file that is a disk's.
    await refuses(`cow:${base}:${base}`, /disk\.img: in use by this process/);
  },
);

test("no header makes it throw, or believe what was not written", LIMIT, async (t) => {
  const { base, overlay, target } = files(t);
  await (await open(t, target)).close();
  const good = readFileSync(overlay);
  const dice = random(7);
  for (let i = 0; i < 200; i++) {
    const bytes = Buffer.from(good);
    for (let n = 1 + (dice() % 4); n > 0; n--) bytes[dice() % 68] ^= 1 << (dice() % 8);
    writeFileSync(overlay, bytes.subarray(0, dice() % 4 ? bytes.length : dice() % bytes.length));
    // Two bits may have changed each other back.
    if (readFileSync(overlay).equals(good)) continue;
    await refuses(target, /overlay\.cow/);
  }
  writeFileSync(overlay, good);
  await (await open(t, base)).close();
});

test("one that is killed at any moment loses nothing that was acknowledged", LIMIT, async (t) => {
  const { base, overlay, target, content } = files(t);
  const device = await open(t, target);
  const dice = random(11);
  const copy = join(dirname(overlay), "copy.cow");
  const sectors = BYTES / 512;
  const done = new Map<number, number>();
  for (let seed = 1; seed <= 300; seed++) {
    const sector = dice() % sectors;
    assert.equal(
      (await write(device, sector * 512, fill(scatter(512), pattern(512, seed)))).result,
      Result.Success,
    );
    done.set(sector, seed);
    if (seed % 20 !== 0) continue;
    // As the kernel has it: nothing was flushed.
    copyFileSync(overlay, copy);
    const left = await open(t, `cow:${copy}:${base}`);
    const seen = await wholeOf(left);
    await left.close();
    for (let at = 0; at < sectors; at++) {
      const expected = done.has(at) ? pattern(512, done.get(at)) : content.subarray(at * 512, (at + 1) * 512);
      assert.ok(seen.subarray(at * 512, (at + 1) * 512).equals(expected), `sector ${at}`);
    }
  }
  assert.ok(existsSync(copy));
});

test("overlays upon overlays, and a large sparse disk", LIMIT, async (t) => {
  const { base, overlay, content } = files(t);
  const upper = join(dirname(overlay), "upper.cow");
  const lower = await open(t, `cow:${overlay}:${base}`);
  await write(lower, 0, fill(scatter(512), pattern(512, 21)));
  await lower.close();
  const both = await open(t, `cow:${upper}:cow:${overlay}:${base}`);
  await write(both, 512, fill(scatter(512), pattern(512, 22)));
  const seen = await wholeOf(both);
  assert.deepEqual(seen.subarray(0, 512), pattern(512, 21));
  assert.deepEqual(seen.subarray(512, 1024), pattern(512, 22));
  assert.deepEqual(seen.subarray(1024), content.subarray(1024));
  await both.close();
  const huge = image(t, 1 << 20);
  truncateSync(huge, 2 ** 36);
  const device = await open(t, `cow:${join(dirname(overlay), "huge.cow")}:${huge}`);
  await write(device, 2 ** 36 - 4096, fill(scatter(4096), pattern(4096)));
  await device.close();
  const again = await open(t, `cow:${join(dirname(overlay), "huge.cow")}:${huge}`);
  const to = scatter(4096);
  await read(again, 2 ** 36 - 4096, to);
  assert.deepEqual(gather(to), pattern(4096));
  assert.ok(statSync(join(dirname(overlay), "huge.cow")).blocks < 1000);
});
