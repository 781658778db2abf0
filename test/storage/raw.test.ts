/** The raw device over either engine on image files: bytes, sizes, discard, read-only, closing. */
import assert from "node:assert/strict";
import { readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { Result } from "../../host/storage/device.js";
import {
  directory,
  discard,
  ENGINES,
  fill,
  flush,
  gather,
  image,
  LIMIT,
  openOn,
  pattern,
  read,
  scatter,
  tableOf,
  write,
} from "./helpers.js";

const MIB = 1 << 20;

for (const engine of ENGINES) {
  test(`${engine}: what is written in pieces is read back in other pieces`, LIMIT, async (t) => {
    const path = image(t, MIB);
    const device = await openOn(engine, path, { readOnly: false });
    const data = pattern(65536);
    const from = fill(scatter(512, 4096, 28672, 512, 31744), data);
    assert.equal((await write(device, 4096, from)).result, Result.Success);
    assert.equal((await flush(device)).result, Result.Success);
    const to = scatter(32768, 512, 1024, 31232);
    assert.equal((await read(device, 4096, to)).result, Result.Success);
    assert.deepEqual(gather(to), data);
    await device.close();
    const file = readFileSync(path);
    assert.equal(file.length, MIB);
    assert.deepEqual(file.subarray(4096, 4096 + 65536), data);
    assert.ok(file.subarray(0, 4096).every((byte) => byte === 0));
  });

  test(`${engine}: 256 entries go in one vector, and the last sector is reached`, LIMIT, async (t) => {
    const device = await openOn(engine, image(t, MIB), { readOnly: false });
    const lengths = new Array<number>(256).fill(512);
    const data = pattern(256 * 512);
    assert.equal((await write(device, MIB - data.length, fill(scatter(...lengths), data))).result, 0);
    const to = scatter(...lengths);
    assert.equal((await read(device, MIB - data.length, to)).result, Result.Success);
    assert.deepEqual(gather(to), data);
    await device.close();
  });

  test(`${engine}: positions beyond 4 GiB are exact`, LIMIT, async (t) => {
    const size = 3 * 2 ** 40;
    const device = await openOn(engine, image(t, size), { readOnly: false });
    assert.equal(device.size, size);
    const data = pattern(4096, 9);
    for (const position of [2 ** 32 - 512, 2 ** 41 + 512, size - 4096]) {
      assert.equal((await write(device, position, fill(scatter(4096), data))).result, Result.Success);
      const to = scatter(4096);
      assert.equal((await read(device, position, to)).result, Result.Success);
      assert.deepEqual(gather(to), data);
    }
    const low = scatter(512);
    await read(device, 2 ** 32 - 1024, low);
    assert.ok(gather(low).every((byte) => byte === 0));
    await device.close();
  });

  test(`${engine}: many operations are under way at once`, LIMIT, async (t) => {
    const device = await openOn(engine, image(t, MIB), { readOnly: false });
    const sectors = Array.from({ length: 200 }, (_, i) => pattern(512, i));
    const writes = sectors.map((data, i) => write(device, i * 512, fill(scatter(512), data)));
    assert.ok((await Promise.all(writes)).every(({ result }) => result === Result.Success));
    const to = scatter(200 * 512);
    await read(device, 0, to);
    assert.deepEqual(gather(to), Buffer.concat(sectors));
    await device.close();
  });

  test(`${engine}: an image tells sizes that a guest can use`, LIMIT, async (t) => {
    const device = await openOn(engine, image(t, MIB), { readOnly: false });
    assert.equal(device.size, MIB);
    assert.equal(device.sectorSize, 512);
    for (const size of [device.physicalSectorSize, device.discardGranularity]) {
      assert.ok(size >= 512 && size <= 4096 && (size & (size - 1)) === 0, String(size));
    }
    assert.equal(device.discardAlignment, 0);
    assert.equal(device.canSecureDiscard, false);
    assert.equal(device.readOnly, false);
    await device.close();
  });

  test(`${engine}: an odd tail is not served, said once, and left alone`, LIMIT, async (t) => {
    const data = pattern(1536 + 100);
    const path = image(t, 0, data);
    const lines: string[] = [];
    const device = await openOn(engine, path, { readOnly: false, warn: (line) => lines.push(line) });
    assert.equal(device.size, 1536);
    assert.deepEqual(lines, [
      `${path}: 1636 bytes are not a multiple of the sector size 512; the guest does not see the last 100`,
    ]);
    const beyond = await write(device, 1536, fill(scatter(512), pattern(512, 5)));
    assert.equal(beyond.result, Result.Failure);
    assert.match(beyond.error!.message, /beyond its end at 1536/);
    assert.equal((await write(device, 1024, fill(scatter(512), pattern(512, 5)))).result, Result.Success);
    await device.close();
    assert.deepEqual(readFileSync(path).subarray(1536), data.subarray(1536));
  });

  test(`${engine}: an image in a format that is served as raw is told of`, LIMIT, async (t) => {
    const lines: string[] = [];
    const warn = (line: string): void => void lines.push(line);
    const data = pattern(1024);
    await (await openOn(engine, image(t, 0, data), { readOnly: false, warn })).close();
    assert.deepEqual(lines, []);
    data.set(Buffer.from("QFI\xfb", "latin1"));
    const path = image(t, 0, data);
    await (await openOn(engine, path, { readOnly: false, warn })).close();
    assert.deepEqual(lines, [
      `${path}: begins as a qcow2 image does, and is served as a raw one: is format=qcow2 missing?`,
    ]);
  });

  test(`${engine}: discard gives blocks back and leaves its neighbours`, LIMIT, async (t) => {
    const data = pattern(MIB);
    const path = image(t, 0, data);
    const device = await openOn(engine, path, { readOnly: false });
    if (!device.canDiscard) {
      await device.close();
      return t.skip("the file system cannot punch holes");
    }
    await flush(device);
    const before = statSync(path).blocks;
    assert.ok(before >= MIB / 512, String(before));
    assert.equal((await discard(device, 512, MIB / 2)).result, Result.Success);
    assert.ok(statSync(path).blocks <= before - (MIB / 2 - 8192) / 512);
    assert.equal((await discard(device, 0, 0)).result, Result.Success);
    assert.equal((await discard(device, MIB - 512, 1024)).result, Result.Failure);
    assert.equal((await discard(device, 0, 4096, true)).result, Result.Unsupported);
    await device.close();
    data.fill(0, 512, 512 + MIB / 2);
    assert.deepEqual(readFileSync(path), data);
  });

  test(`${engine}: opening changes nothing in the image`, LIMIT, async (t) => {
    const data = pattern(10_000);
    const path = image(t, 0, data);
    const before = statSync(path);
    const device = await openOn(engine, path, { readOnly: false, warn: () => {} });
    await device.close();
    assert.deepEqual(readFileSync(path), data);
    assert.equal(statSync(path).size, before.size);
    assert.equal(statSync(path).blocks, before.blocks);
  });

  test(`${engine}: a read-only device is not changed`, LIMIT, async (t) => {
    const data = pattern(8192);
    const path = image(t, 0, data);
    const device = await openOn(engine, path, { readOnly: true });
    assert.equal(device.readOnly, true);
    assert.equal(device.canDiscard, false);
    const to = scatter(8192);
    assert.equal((await read(device, 0, to)).result, Result.Success);
    assert.deepEqual(gather(to), data);
    const from = fill(scatter(512), pattern(512, 3));
    assert.equal((await write(device, 0, from)).result, Result.ReadOnly);
    assert.equal((await discard(device, 0, 4096)).result, Result.ReadOnly);
    assert.equal((await discard(device, 0, 4096, true)).result, Result.ReadOnly);
    assert.equal((await flush(device)).result, Result.Success);
    await device.close();
    assert.deepEqual(readFileSync(path), data);
  });

  test(`${engine}: reading behind the end of an image that shrank fails`, LIMIT, async (t) => {
    const path = image(t, 0, pattern(16384));
    const device = await openOn(engine, path, { readOnly: false });
    truncateSync(path, 6144);
    const across = await read(device, 4096, scatter(1024, 3072));
    assert.equal(across.result, Result.Failure);
    assert.match(across.error!.message, /disk\.img: the disk ends after 2048 of them/);
    assert.equal((await read(device, 8192, scatter(4096))).result, Result.Failure);
    assert.equal((await read(device, 4096, scatter(2048))).result, Result.Success);
    assert.equal(device.size, 16384);
    assert.equal(await device.refreshSize(), true);
    assert.equal(device.size, 6144);
    assert.equal((await write(device, 8192, fill(scatter(512), pattern(512)))).result, Result.Failure);
    assert.equal(statSync(path).size, 6144);
    await device.close();
  });

  test(`${engine}: a larger image is noticed`, LIMIT, async (t) => {
    const path = image(t, 4096);
    const device = await openOn(engine, path, { readOnly: false });
    assert.equal(await device.refreshSize(), false);
    truncateSync(path, MIB + 100);
    assert.equal(await device.refreshSize(), true);
    assert.equal(device.size, MIB);
    assert.equal(await device.refreshSize(), false);
    assert.equal((await write(device, MIB - 512, fill(scatter(512), pattern(512)))).result, Result.Success);
    await device.close();
  });

  test(`${engine}: close waits for what is under way; afterwards all fails`, LIMIT, async (t) => {
    const path = image(t, 4 * MIB);
    const device = await openOn(engine, path, { readOnly: false });
    let ended = 0;
    const data = pattern(65536, 7);
    const writes = Array.from({ length: 64 }, (_, i) =>
      write(device, i * 65536, fill(scatter(32768, 32768), data)).then(({ result }) => {
        ended++;
        return result;
      }),
    );
    const flushed = flush(device);
    const closed = device.close();
    assert.equal(device.close(), closed);
    const late = [
      write(device, 0, scatter(512)),
      read(device, 0, scatter(512)),
      flush(device),
      discard(device, 0, 512),
    ];
    await closed;
    assert.equal(ended, 64);
    assert.ok((await Promise.all(writes)).every((result) => result === Result.Success));
    assert.equal((await flushed).result, Result.Success);
    for (const { result, error } of await Promise.all(late)) {
      assert.equal(result, Result.Failure);
      assert.match(error!.message, /disk\.img: the disk is closed/);
    }
    assert.equal((await read(device, 0, scatter(512))).result, Result.Failure);
    assert.equal(await device.refreshSize(), false);
    const file = readFileSync(path);
    for (let i = 0; i < 64; i++) assert.deepEqual(file.subarray(i * 65536, (i + 1) * 65536), data);
  });

  test(`${engine}: the table of a vector is the same afterwards`, LIMIT, async (t) => {
    const path = `${directory(t)}/short.img`;
    writeFileSync(path, pattern(4096));
    const device = await openOn(engine, path, { readOnly: true });
    truncateSync(path, 1536);
    const to = scatter(1024, 1024, 2048);
    const before = tableOf(to);
    assert.equal((await read(device, 0, to)).result, Result.Failure);
    assert.deepEqual(tableOf(to), before);
    await device.close();
  });
}
