/** Wrappers around a disk: how they are written, what each does to operations, and what they leave as it was. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type BlockDevice, Result } from "../../host/storage/device.js";
import { type DiskOptions, openDisk, usesOf } from "../../host/storage/disk.js";
import { DeviceError } from "../../host/storage/open.js";
import { partOf } from "../../host/storage/part.js";
import { ratesIn } from "../../host/storage/wrapper/index.js";
import { Wrapper } from "../../host/storage/wrapper/wrapper.js";
import { parseDisk, sourceOf } from "../../host/toolstack/disk-specification.js";
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
  tableOf,
  write,
} from "./helpers.js";

const BYTES = 1 << 20;

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
    assert.ok(!error.message.includes("\n"));
    return true;
  });

test("a part of a scatter list, and the whole again", () => {
  const data = pattern(4096);
  const io = fill(scatter(512, 1024, 512, 2048), data);
  const before = tableOf(io);
  for (const [start, length] of [
    [0, 512],
    [0, 700],
    [100, 50],
    [512, 1024],
    [600, 3000],
    [4095, 1],
    [0, 4096],
  ]) {
    const part = partOf(io, start, length);
    assert.deepEqual(gather(part.io), data.subarray(start, start + length), `${length} bytes at ${start}`);
    part.mend();
    assert.deepEqual(tableOf(io), before);
  }
});

test("wrappers stand before any target of a disk specification, whose format is that of the innermost", () => {
  const cases: [string, string][] = [
    ["vdev=xvda,target=delay:5ms:/a:b,c", "delay:5ms:/a:b,c"],
    ["delay:5ms:error:write+rate=1%:/a,,xvda,rw", "delay:5ms:error:write+rate=1%:/a"],
    [
      "vdev=xvda,target=limit:iops=10+bps=1M:cow:/o%3Ax:vg/disk",
      "limit:iops=10+bps=1M:cow:/o%3Ax:/dev/vg/disk",
    ],
    ["format=qcow2,vdev=xvda,target=cow:/o:/a.img", "cow:/o:qcow2:/a.img"],
    ["vdev=xvda,target=readonly:log:/l:vhd:/a.img", "readonly:log:/l:vhd:/a.img"],
    ["vdev=xvda,target=readonly:nbd+unix:///?socket=/s", "readonly:nbd+unix:///?socket=/s"],
  ];
  for (const [text, target] of cases) assert.equal(sourceOf(parseDisk(text)), target, text);
  const wrong: [string, RegExp][] = [
    ["delay:/a", /: target delay:\/a: names no target: write delay:TIME:TARGET/],
    ["readonly:", /names no target/],
    ["delay:5:/a", /"5" is not known here: write delay:TIME/],
    ["delay:read:/a", /it takes a time/],
    ["delay:2s-1s:/a", /shorter one first/],
    ["delay:2h:/a", /"2h" is not known/],
    ["delay:4000s:/a", /an hour at most/],
    ["error:rate=101%:/a", /100% at most/],
    ["error:sectors=9-8:/a", /first sector comes first/],
    ["error:often:/a", /"often" is not known here: write error:WHICH:TARGET/],
    ["limit:iops=0:/a", /"iops=0" is not a rate: write limit:RATES/],
    ["limit:10:/a", /"10" is not a rate/],
    ["log:relative:/a", /"relative" is not an absolute path: write log:FILE:TARGET/],
    ["cow:/o%zz:/a", /badly encoded/],
    ["readonly:delay:x:/a", /"x" is not known/],
    ["vdev=xvda,format=qcow2,target=cow:/o:vhd:/a", /format is qcow2, but the target has vhd/],
  ];
  for (const [target, why] of wrong) {
    const text = target.startsWith("vdev") ? target : `vdev=xvda,target=${target}`;
    assert.throws(() => parseDisk(text), why, target);
  }
});

test(
  "a wrong argument, or a target below that cannot be opened, is refused with its name",
  LIMIT,
  async (t) => {
    await refuses("delay:5:/a", /^delay:5:\/a: "5" is not known here/);
    await refuses("readonly:/no/such/disk.img", /^\/no\/such\/disk\.img: no such file/);
    await refuses("readonly:disk.img", /^disk\.img: is neither an absolute path/);
    const path = image(t, BYTES);
    await open(t, `readonly:${path}`);
    await refuses(`delay:1ms:${path}`, /disk\.img: in use by this process/);
  },
);

test("readonly reads, has any number of users, and refuses what would change it", LIMIT, async (t) => {
  const content = pattern(BYTES);
  const path = image(t, BYTES, content);
  const devices = [await open(t, `readonly:${path}`), await open(t, `readonly:${path}`)];
  for (const device of devices) {
    assert.equal(device.readOnly, true);
    // It is the image itself, which reactors serve.
    assert.ok(device.store);
    const to = scatter(512, 4096);
    assert.equal((await read(device, 1024, to)).result, Result.Success);
    assert.deepEqual(gather(to), content.subarray(1024, 1024 + 4608));
    assert.equal((await write(device, 0, scatter(512))).result, Result.ReadOnly);
    assert.equal((await discard(device, 0, 512)).result, Result.ReadOnly);
  }
  assert.deepEqual(readFileSync(path), content);
});

test("delay delays the operations that are named, and no others", LIMIT, async (t) => {
  const path = image(t, BYTES);
  const device = await open(t, `delay:150ms+write:${path}`);
  assert.equal(device.through, `delay of 150 ms on write, over raw image ${path}`);
  const took = async (operation: Promise<unknown>): Promise<number> => {
    const start = performance.now();
    await operation;
    return performance.now() - start;
  };
  assert.ok((await took(write(device, 0, fill(scatter(512), pattern(512))))) >= 145);
  const to = scatter(512);
  assert.equal((await read(device, 0, to)).result, Result.Success);
  assert.deepEqual(gather(to), pattern(512));
  // Closing waits for what is delayed.
  const last = write(device, 512, scatter(512));
  const order: string[] = [];
  await Promise.all([last.then(() => order.push("write")), device.close().then(() => order.push("closed"))]);
  assert.deepEqual(order, ["write", "closed"]);
  assert.match((await read(device, 0, scatter(512))).error?.message ?? "", /the disk is closed/);
});

test("error fails operations, on sectors, at a rate; the others do not notice", LIMIT, async (t) => {
  const path = image(t, BYTES);
  const some = await open(t, `error:write+sectors=2-3:${path}`);
  assert.match(some.through ?? "", /^errors, 100% on write of sectors 2 to 3, over raw image/);
  const { result, error } = await write(some, 0, fill(scatter(2048), pattern(2048)));
  assert.equal(result, Result.Failure);
  assert.equal(error?.message, `write 2048 bytes at 0 of error:write+sectors=2-3:${path}: EIO`);
  assert.deepEqual(readFileSync(path).subarray(0, 2048), Buffer.alloc(2048));
  for (const [position, length] of [
    [0, 1024],
    [2048, 512],
  ])
    assert.equal((await write(some, position, scatter(length))).result, Result.Success);
  assert.equal((await read(some, 1024, scatter(512))).result, Result.Success);
  await some.close();

  const half = await open(t, `error:read+rate=50%:${path}`);
  let failed = 0;
  for (let i = 0; i < 200; i++) if ((await read(half, 0, scatter(512))).result === Result.Failure) failed++;
  assert.ok(failed > 50 && failed < 150, `${failed} of 200`);
  await half.close();
});

test("a flush that is made to fail has failed for good", LIMIT, async (t) => {
  const device = await open(t, `delay:1ms:error:flush:${image(t, BYTES)}`);
  assert.equal((await write(device, 0, scatter(512))).result, Result.Success);
  assert.equal((await flush(device)).result, Result.Failure);
  assert.notEqual(device.flushErrno, 0);
  assert.equal((await write(device, 0, scatter(512))).result, Result.Failure);
  assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
});

test(
  "a limit is a property of the disk, which is served without a layer; the lowest counts",
  LIMIT,
  async (t) => {
    const path = image(t, BYTES);
    const device = await open(t, `limit:iops=50:${path}`);
    assert.ok(device.store);
    assert.deepEqual(ratesIn(`limit:iops=50:${path}`), { iops: 50, bps: 0 });
    assert.deepEqual(ratesIn("log:/l:limit:iops=7+bps=2M:readonly:limit:bps=1M:/a"), {
      iops: 7,
      bps: 1 << 20,
    });
    for (const target of [path, "readonly:/a", "limit:fast:/a", "log:limit:iops=9:/a"])
      assert.equal(ratesIn(target), null, target);
  },
);

test("log writes a line for each operation, failed or not", LIMIT, async (t) => {
  const path = image(t, BYTES);
  const log = join(directory(t), "disk,a:1.log");
  const device = await open(
    t,
    `log:${log.replace(",", "%2C").replace(":", "%3A")}:error:read+sectors=8-8:${path}`,
  );
  await write(device, 1024, scatter(4096));
  await read(device, 4096, scatter(512));
  await flush(device);
  await device.close();
  const lines = readFileSync(log, "utf8").trimEnd().split("\n");
  assert.equal(lines.length, 3, lines.join("\n"));
  assert.match(lines[0], /^\d{4}-\S+Z write of 4096 bytes at sector 2: done after [0-9.]+ ms$/);
  assert.match(lines[1], /read of 512 bytes at sector 8: failed \(read .*: EIO\) after/);
  assert.match(lines[2], /flush: done after/);
  // The next one appends.
  await (await open(t, `log:${log.replace(",", "%2C").replace(":", "%3A")}:${path}`)).close();
  assert.equal(readFileSync(log, "utf8").trimEnd().split("\n").length, 3);
});

test("a log that is none is refused, and one that fails stops without the disk", LIMIT, async (t) => {
  const path = image(t, BYTES);
  await refuses(`log:${path}:${path}`, /in use as a disk; log to another file/);
  await refuses(`log:/no/such/dir/log:${path}`, /\/no\/such\/dir\/log: cannot be logged to \(ENOENT\)/);
  await refuses(`log:/dev/null:${path}`, /is not a regular file/);
  const log = join(directory(t), "log");
  await (await openDisk(`log:${log}:${path}`, { readOnly: false, create: false })).close();
  assert.equal(existsSync(log), false);
  // Whatever was refused has let go.
  await (await open(t, path)).close();
});

test("what a disk has open: the store below all wrappers, and overlays", LIMIT, async (t) => {
  const path = image(t, BYTES);
  const overlay = join(directory(t), "overlay");
  writeFileSync(overlay, "");
  const [{ identity: base }] = await usesOf(path, false);
  const [{ identity: file }] = await usesOf(overlay, false);
  assert.deepEqual(await usesOf(`delay:1ms:readonly:${path}`, false), [
    { path, identity: base, readOnly: true, missing: false },
  ]);
  assert.deepEqual(await usesOf(`delay:1ms:${path}`, false), [
    { path, identity: base, readOnly: false, missing: false },
  ]);
  assert.deepEqual(await usesOf(`log:/l:cow:${overlay}:${path}`, false), [
    { path: overlay, identity: file, readOnly: false, missing: false },
    { path, identity: base, readOnly: true, missing: false },
  ]);
  // What an open overlay is over is known from its header, too, and said once.
  const lower = image(t, BYTES);
  const [{ identity: bottom }] = await usesOf(lower, true);
  assert.deepEqual(await usesOf(`cow:${overlay}:qcow2:${path}`, false, [path, lower]), [
    { path: overlay, identity: file, readOnly: false, missing: false },
    { path, identity: base, readOnly: true, missing: false },
    { path: lower, identity: bottom, readOnly: true, missing: false },
  ]);
});

test("what becomes of a disk with the process is what the disk below says", async (t) => {
  const raw = await open(t, image(t, BYTES));
  for (const fenced of [undefined, true, false]) {
    for (const volatile of [undefined, true, false]) {
      const inner = Object.create(raw, { fenced: { value: fenced }, volatile: { value: volatile } });
      const wrapper = new Wrapper("wrapped", "for nothing", inner);
      assert.equal(wrapper.fenced, fenced !== false);
      assert.equal(wrapper.volatile, volatile === true);
    }
  }
  const based = new Wrapper("wrapped", "for nothing", Object.create(raw, { bases: { value: ["/base"] } }));
  assert.deepEqual(based.bases, ["/base"]);
});

test("what is refused is answered once, and the disk below is not asked", async (t) => {
  const raw = await open(t, image(t, BYTES));
  let asked = 0;
  class Counting extends Wrapper {
    override read(...call: Parameters<Wrapper["read"]>): void {
      asked++;
      super.read(...call);
    }
    override write(...call: Parameters<Wrapper["write"]>): void {
      asked++;
      super.write(...call);
    }
    override discard(...call: Parameters<Wrapper["discard"]>): void {
      asked++;
      super.discard(...call);
    }
  }
  const inner = new Counting("counting", "for nothing", raw);
  const wrapper = new Wrapper("wrapped", "for nothing", inner);
  const answers: number[] = [];
  wrapper.read(BYTES, scatter(512), (result) => answers.push(result));
  wrapper.write(BYTES - 512, scatter(1024), (result) => answers.push(result));
  wrapper.discard(BYTES, 4096, false, (result) => answers.push(result));
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(answers.length, 3);
  assert.ok(!answers.includes(Result.Success));
  assert.equal(asked, 0);
});

test(
  "what is delayed begins at once when delays are disabled, and later operations are delayed again",
  LIMIT,
  async (t) => {
    for (const target of ["delay:1000s", "readonly:delay:1000s"]) {
      const device = await open(t, `${target}:${image(t, BYTES)}`);
      const queue = Promise.all(Array.from({ length: 16 }, () => read(device, 0, scatter(512))));
      device.setDelays?.(false);
      for (const { result } of await queue) assert.equal(result, Result.Success);
      assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
      device.setDelays?.(true);
      const waiting = Promise.all([read(device, 0, scatter(512)), read(device, 0, scatter(512))]);
      const first = await Promise.race([
        waiting,
        new Promise((resolve) => setTimeout(resolve, 100, "it waits")),
      ]);
      assert.equal(first, "it waits", target);
      device.setDelays?.(false);
      await waiting;
    }
  },
);
