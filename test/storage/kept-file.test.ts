/** The log of unflushed writes that a daemon leaves to the next one, which believes nothing of it that it has not checked. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync, statSync, truncateSync, writeSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { RING_BYTES } from "../../host/storage/kept-memory.js";
import { LostWrites, openKept } from "../../host/storage/kept-open.js";
import { type KeptPlace, KeptWrites } from "../../host/storage/kept-writes.js";
import { DeviceError } from "../../host/storage/open.js";
import { directory, LIMIT } from "./helpers.js";

const nothing = (): void => {};

function placeIn(t: TestContext): KeptPlace {
  return { path: join(directory(t), "kept"), identity: "disk", again: true };
}

/** What the daemon before is to have kept. */
function leave(place: KeptPlace, count = 3): void {
  const kept = KeptWrites.create(place, nothing);
  for (let i = 0; i < count; i++) assert.ok(kept.add(i * 4096, [Buffer.alloc(4096, i + 1)], 4096));
  kept.close();
}

function overwrite(path: string, at: number, bytes: readonly number[]): void {
  const fd = openSync(path, "r+");
  writeSync(fd, Uint8Array.from(bytes), 0, bytes.length, at);
  closeSync(fd);
}

test("the next daemon has what was kept, without what was flushed, and goes on with it", LIMIT, (t) => {
  const place = placeIn(t);
  const first = KeptWrites.create(place, nothing);
  first.add(0, [Buffer.alloc(512, 1)], 512);
  const mark = first.mark();
  first.add(4096, [Buffer.alloc(1024, 2)], 1024);
  first.forget(mark);
  first.close();
  const lines: string[] = [];
  const second = openKept("d", { kept: place, unsettled: true }, (line) => lines.push(line));
  assert.deepEqual(lines, ["1 writes that the last daemon has not flushed are written again"]);
  second.add(0, [Buffer.alloc(512, 3)], 512);
  const written = [...second.writes()].map(({ position, views }) => [position, Buffer.concat(views)[0]]);
  assert.deepEqual(written, [
    [4096, 2],
    [0, 3],
  ]);
  assert.throws(
    () => openKept("d", { kept: place, unsettled: true }, nothing),
    (error) => error instanceof DeviceError && error.code === "EBUSY" && /still running$/.test(error.message),
  );
  second.lose(5);
  second.close();
  const third = openKept("d", { kept: place, unsettled: true }, nothing);
  assert.deepEqual([third.lost, third.count], [5, 0]);
  third.close();
  // Another use of the disk.
  const fourth = openKept("d", { kept: { ...place, again: false } }, nothing);
  assert.deepEqual([fourth.lost, fourth.count], [0, 0]);
  fourth.close();
});

const HEADER_BYTES = 4096;
const DAMAGES: readonly [string, (path: string) => void, RegExp][] = [
  ["cut short", (path) => truncateSync(path, 8192), /it has 8192 bytes, not 33558528/],
  ["empty", (path) => truncateSync(path, 0), /it has 0 bytes/],
  ["another file", (path) => overwrite(path, 0, [1]), /it does not begin as it must/],
  ["a header that was changed", (path) => overwrite(path, 90, [9]), /its header is damaged/],
  ["a tail that jumps", (path) => overwrite(path, 134, [1]), /its record 4 is not one that was written/],
  ["more than fits", (path) => overwrite(path, 132, [0, 0, 0, 128]), /it is said to hold 2147483648 bytes/],
  ["a head between two", (path) => overwrite(path, 128, [5]), /it is said to hold 12379 bytes from 5 on/],
  ["a head in a record", (path) => overwrite(path, 128, [32]), /its record 1 is not one that was written/],
  [
    "a record that was changed",
    (path) => overwrite(path, HEADER_BYTES + 4128 + 8, [0, 8]),
    /its record 2 is not one that was written/,
  ],
];

for (const [what, damage, says] of DAMAGES) {
  test(`a log that is ${what} is not believed`, LIMIT, (t) => {
    const place = placeIn(t);
    leave(place);
    damage(place.path);
    const before = statSync(place.path).size;
    assert.throws(
      () => openKept("d", { kept: place, unsettled: true }, nothing),
      (error) => error instanceof LostWrites && says.test(error.message) && /closed$/.test(error.message),
    );
    assert.equal(statSync(place.path).size, before);
    // Where the daemon before had flushed all.
    const lines: string[] = [];
    const kept = openKept("d", { kept: place }, (line) => lines.push(line));
    assert.equal(kept.count, 0);
    assert.match(lines[0], says);
    assert.match(lines[0], /^\S+kept, the log of writes .* cannot be used: .*; another one is begun$/);
    kept.close();
  });
}

test("the guest waits for the release that knows a log of a later format", LIMIT, (t) => {
  const place = placeIn(t);
  leave(place);
  overwrite(place.path, 8, [2]);
  const says = /it has format 2; this xbdback knows 1: start the release that wrote it; the guest waits$/;
  assert.throws(
    () => openKept("d", { kept: place, unsettled: true }, nothing),
    (error) => error instanceof DeviceError && !(error instanceof LostWrites) && says.test(error.message),
  );
  overwrite(place.path, 8, [1]);
  const kept = openKept("d", { kept: place, unsettled: true }, nothing);
  assert.equal(kept.count, 3);
  kept.close();
});

test("another disk's log is not written to this one, and one that is missing is missed", LIMIT, (t) => {
  const place = placeIn(t);
  leave(place);
  const other = { kept: { ...place, identity: "another" }, unsettled: true };
  assert.throws(
    () => openKept("d", other, nothing),
    /cannot be used: it is another disk's; the disk is closed/,
  );
  const missing = { kept: { ...place, path: `${place.path}.not` } };
  assert.throws(
    () => openKept("d", { ...missing, unsettled: true }, nothing),
    /: \S+kept\.not, the log of writes .* is not there; the disk is closed$/,
  );
  const lines: string[] = [];
  openKept("d", missing, (line) => lines.push(line)).close();
  assert.deepEqual(lines, []);
  assert.throws(
    () => openKept("d", { kept: { ...place, path: "/nowhere/kept" } }, nothing),
    (error) => error instanceof DeviceError && /ENOENT.*\/nowhere\/kept/.test(error.message),
  );
});

test("no byte that a damaged log may have makes the next daemon fail", LIMIT, (t) => {
  const place = placeIn(t);
  leave(place);
  const intact = readFileSync(place.path);
  // The counters, and a record.
  const places = [...Array(12).keys()].map((i) => 128 + i).concat([...Array(24).keys()].map((i) => 4096 + i));
  for (const at of places) {
    for (const value of [0x01, 0x80, 0xff]) {
      overwrite(place.path, at, [intact[at] ^ value]);
      try {
        const kept = openKept("d", { kept: place, unsettled: true }, nothing);
        for (const { length, views } of kept.writes()) assert.equal(Buffer.concat(views).length, length);
        kept.close();
      } catch (error) {
        assert.ok(error instanceof LostWrites, String(error));
      }
      overwrite(place.path, at, [intact[at]]);
    }
  }
});

/** Adds and forgets as fast as it can; the number of each write is in its position, and in all of its data. */
const WRITER = `
const [module, path] = process.argv.slice(1);
const { KeptWrites } = await import(module);
const kept = KeptWrites.create({ path, identity: "disk", again: false }, () => {});
console.log("begun");
const marks = [];
for (let i = 0; ; i++) {
  const length = 512 * (1 + (i * 7) % 128);
  const data = new Uint8Array(new Uint32Array(length / 4).fill(i).buffer);
  while (!kept.add(i * 512, [data], length)) kept.forget(marks.shift());
  if (i % 50 === 0) marks.push(kept.mark());
  if (i % 75 === 0) kept.forget(marks.shift());
}`;

async function killed(writer: ChildProcess, milliseconds: number): Promise<void> {
  await once(writer.stdout as NodeJS.ReadableStream, "data");
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
  const exited = once(writer, "exit");
  writer.kill("SIGKILL");
  await exited;
}

test(
  "whenever it is killed, what was added and not forgotten is there, whole and in its order",
  LIMIT,
  async (t) => {
    const place = placeIn(t);
    const module = new URL("../../host/storage/kept-writes.js", import.meta.url).href;
    let wraps = 0;
    for (let kill = 0; kill < 10; kill++) {
      const args = ["--input-type=module", "-e", WRITER, module, place.path];
      await killed(spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] }), 40 * kill);
      const kept = openKept("d", { kept: place, unsettled: true }, nothing);
      let before: number | null = null;
      for (const { position, length, views } of kept.writes()) {
        const i = position / 512;
        assert.equal(i, before === null ? i : before + 1);
        assert.equal(length, 512 * (1 + ((i * 7) % 128)));
        const words = new Uint32Array(Uint8Array.from(Buffer.concat(views)).buffer);
        assert.ok(words.every((word) => word === i));
        before = i;
        if (views.length === 2) wraps++;
      }
      assert.ok(kept.bytes <= RING_BYTES);
      kept.close();
    }
    t.diagnostic(`${wraps} logs went round the end of the memory`);
  },
);
