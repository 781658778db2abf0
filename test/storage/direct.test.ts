/** I/O past the page cache: chosen where it works, said where it does not, and never half. */
import assert from "node:assert/strict";
import { closeSync, constants, openSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { Place } from "../../host/storage/calls/place.js";
import { Result } from "../../host/storage/device.js";
import { makeDirect } from "../../host/storage/direct.js";
import { openDevice, openStore } from "../../host/storage/open.js";
import { fill, gather, image, LIMIT, pattern, read, scatter, write } from "./helpers.js";

function isDirect(fd: number): boolean {
  const [, flags] = /^flags:\s+([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1"))!;
  return (Number.parseInt(flags, 8) & constants.O_DIRECT) !== 0;
}

test("none is direct or says why not; auto and writeback of an image are not", LIMIT, async (t) => {
  const path = image(t, 65536, pattern(65536));
  const expected = { none: true, auto: false, writeback: false };
  for (const cache of ["none", "auto", "writeback"] as const) {
    const lines: string[] = [];
    const store = await openStore(path, { readOnly: false, cache, warn: (line) => lines.push(line) });
    assert.equal(isDirect(store.fd) || lines.length === 1, expected[cache], `${cache}: ${lines}`);
    closeSync(store.fd);
  }
});

test("where a sector cannot be read directly, nothing is changed and the reason is told", LIMIT, async () => {
  const fd = openSync("/proc/self/status", "r");
  assert.equal(await makeDirect(fd, Place.of("/proc/self/status"), 512, 4096), "EINVAL");
  assert.equal(isDirect(fd), false);
  closeSync(fd);
});

test("direct transfers of single sectors, to memory that is aligned to 512 bytes only", LIMIT, async (t) => {
  const path = image(t, 65536, pattern(65536));
  const device = await openDevice(path, { readOnly: false, cache: "none", warn: () => {} });
  const io = { ...scatter(512, 4096), bytes: 1024 };
  const entries = new BigUint64Array(io.memory.memory.buffer, 0, 4);
  entries.set([4096 + 1536, 512, 4096 + 512, 512].map((n, i) => BigInt(i % 2 ? n : n + io.memory.base)));
  assert.equal((await write(device, 512, fill(io, pattern(1024, 5)))).result, Result.Success);
  const expected = pattern(65536);
  expected.set(pattern(1024, 5), 512);
  assert.deepEqual(readFileSync(path), expected);
  fill(io, new Uint8Array(1024));
  assert.equal((await read(device, 512, io)).result, Result.Success);
  assert.deepEqual(gather(io), pattern(1024, 5));
  await device.close();
});
