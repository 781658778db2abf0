/** Opening: refusals that name the path and the remedy, and one user at a time. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  symlinkSync,
} from "node:fs";
import { open } from "node:fs/promises";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { makeFifo } from "../../host/platform/libc.js";
import { DeviceError, openDevice } from "../../host/storage/open.js";
import { absent } from "../support/programs.js";
import { directory, EBUSY, image, LIMIT, pattern } from "./helpers.js";

const WITH_QEMU = { ...LIMIT, skip: absent("qemu-nbd") };

const MODULE = new URL("../../host/storage/open.js", import.meta.url).href;

async function refusal(path: string, readOnly = false): Promise<DeviceError> {
  try {
    await (await openDevice(path, { readOnly })).close();
  } catch (error) {
    assert.ok(error instanceof DeviceError, String(error));
    assert.equal(error.path, path);
    assert.ok(error.message.startsWith(`${path}: `) && !error.message.includes("\n"), error.message);
    return error;
  }
  return assert.fail(`${path} was opened`);
}

async function opens(path: string, readOnly = false): Promise<void> {
  await (await openDevice(path, { readOnly })).close();
}

/** Another process that has the image open until it is killed. */
async function otherProcess(t: TestContext, path: string, readOnly: boolean): Promise<ChildProcess> {
  const script = `
    const { openDevice } = await import(${JSON.stringify(MODULE)});
    await openDevice(${JSON.stringify(path)}, { readOnly: ${readOnly} });
    console.log("open");
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => child.kill("SIGKILL"));
  await once(child.stdout!, "data");
  return child;
}

test("what is no disk is refused by name", LIMIT, async (t) => {
  const base = directory(t);
  const missing = await refusal(join(base, "missing.img"));
  assert.equal(missing.code, "ENOENT");
  assert.match(missing.message, /no such file; create it/);
  assert.deepEqual(readdirSync(base), []);

  mkdirSync(join(base, "folder"));
  const folder = await refusal(join(base, "folder"), true);
  assert.equal(folder.code, "EISDIR");
  assert.match(folder.message, /is a directory; name an image file/);

  const device = await refusal("/dev/null");
  assert.equal(device.code, "EINVAL");
  assert.match(device.message, /is a character device; name an image file/);

  makeFifo(join(base, "fifo"));
  assert.match((await refusal(join(base, "fifo"), true)).message, /is a FIFO/);

  const server = createServer().listen(join(base, "socket"));
  await once(server, "listening");
  assert.match((await refusal(join(base, "socket"))).message, /is a socket/);
  server.close();

  symlinkSync("nowhere", join(base, "dangling"));
  assert.equal((await refusal(join(base, "dangling"))).code, "ENOENT");
});

test("images without a sector are refused and left as they are", LIMIT, async (t) => {
  const empty = image(t, 0);
  const error = await refusal(empty);
  assert.equal(error.code, "EINVAL");
  assert.match(error.message, /empty, less than a sector; give it a size, e\.g\. `truncate/);
  assert.equal(readFileSync(empty).length, 0);
  const tiny = image(t, 511);
  assert.match((await refusal(tiny, true)).message, /only 511 bytes long/);
  await opens(image(t, 512));
});

test("a file without permission is refused", LIMIT, async (t) => {
  const path = image(t, 4096);
  chmodSync(dirname(path), 0o755);
  chmodSync(path, 0o400);
  const root = process.geteuid!() === 0;
  if (root) process.seteuid!(65534);
  try {
    const error = await refusal(path);
    assert.equal(error.code, "EACCES");
    assert.match(error.message, /permission denied; run as root/);
    if (root) assert.equal((await refusal(path, true)).code, "EACCES");
    else await opens(path, true);
  } finally {
    if (root) process.seteuid!(0);
  }
});

test("one writer or many readers in this process", LIMIT, async (t) => {
  const path = image(t, 4096);
  const link = join(dirname(path), "link.img");
  symlinkSync("disk.img", link);
  const writer = await openDevice(path, { readOnly: false });
  const error = await refusal(link);
  assert.equal(error.errno, EBUSY);
  assert.equal(error.code, "EBUSY");
  assert.equal(error.holder, process.pid);
  assert.match(error.message, new RegExp(`in use by this process \\(${process.pid}\\); stop it`));
  assert.equal((await refusal(path, true)).errno, EBUSY);
  const forced = await openDevice(path, { readOnly: false, shared: true });
  await forced.close();
  assert.equal((await refusal(path)).errno, EBUSY);
  await writer.close();

  const readers = [await openDevice(path, { readOnly: true }), await openDevice(path, { readOnly: true })];
  assert.equal((await refusal(path)).errno, EBUSY);
  for (const reader of readers) await reader.close();
  await opens(path);
});

test("another process excludes us until the kernel has let go of it", LIMIT, async (t) => {
  const path = image(t, 4096);
  const child = await otherProcess(t, path, false);
  const error = await refusal(path);
  assert.equal(error.errno, EBUSY);
  assert.equal(error.holder, child.pid);
  assert.match(error.message, new RegExp(`in use by process ${child.pid} \\(node`));
  assert.equal((await refusal(path, true)).errno, EBUSY);
  child.kill("SIGKILL");
  await once(child, "exit");
  await opens(path);
});

test("a reader in another process excludes writers only", LIMIT, async (t) => {
  const path = image(t, 4096);
  await otherProcess(t, path, true);
  await opens(path, true);
  assert.equal((await refusal(path)).errno, EBUSY);
});

/** A qemu-nbd that serves the image. */
async function qemuNbd(t: TestContext, path: string, ...options: string[]): Promise<ChildProcess> {
  const base = join(dirname(path), `nbd-${options.length}`);
  // The socket is there before the image is open; the pid file is not.
  const where = ["-k", `${base}.socket`, `--pid-file=${base}.pid`];
  const server = spawn("qemu-nbd", ["-f", "raw", "-t", ...where, ...options, path], { stdio: "inherit" });
  t.after(() => server.kill("SIGKILL"));
  while (!existsSync(`${base}.pid`)) {
    assert.equal(server.exitCode, null);
    await sleep(10);
  }
  return server;
}

test("an image that QEMU writes is in use", WITH_QEMU, async (t) => {
  const path = image(t, 0, pattern(65536));
  const server = await qemuNbd(t, path);
  const error = await refusal(path);
  assert.equal(error.errno, EBUSY);
  assert.equal(error.holder, server.pid);
  assert.match(error.message, /in use by process \d+ \(qemu-nbd\)/);
  assert.equal((await refusal(path, true)).errno, EBUSY);
  server.kill("SIGKILL");
  await once(server, "exit");
  await opens(path);
});

test("an image that QEMU reads can be read", WITH_QEMU, async (t) => {
  const path = image(t, 65536);
  await qemuNbd(t, path, "--read-only");
  await opens(path, true);
  assert.equal((await refusal(path)).errno, EBUSY);
});

test("a file system that hangs keeps nobody but the one who opens", LIMIT, async (t) => {
  const base = directory(t);
  const path = image(t, 4096);
  // Every thread of libuv's pool waits in open(2), as on a server that does not answer.
  const fifos = Array.from({ length: Number(process.env.UV_THREADPOOL_SIZE ?? 4) }, (_, i) =>
    join(base, `fifo${i}`),
  );
  for (const fifo of fifos) makeFifo(fifo);
  const hanging = fifos.map((fifo) => open(fifo, "r"));
  const device = await openDevice(path, { readOnly: false });
  await device.refreshSize();
  await device.close();
  assert.equal((await refusal(join(base, "missing.img"))).code, "ENOENT");
  for (const fifo of fifos) closeSync(openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK));
  for (const file of await Promise.all(hanging)) await file.close();
});
