/** Disks of modules: the example, and modules that are wrong, throw, die, are late or never answer. */
import assert from "node:assert/strict";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type BlockDevice, Result } from "../../host/storage/device.js";
import { openDisk } from "../../host/storage/disk.js";
import { DeviceError } from "../../host/storage/open.js";
import {
  directory,
  discard,
  exampleModule,
  fill,
  flush,
  gather,
  LIMIT,
  pattern,
  read,
  scatter,
  write,
} from "./helpers.js";

const example = exampleModule();

/** A module with this in its device, and before it. */
function moduleOf(t: TestContext, device: string, before = "", rest = "api: 1,"): string {
  const path = join(directory(t), "device.js");
  writeFileSync(
    path,
    `${before}
    const content = new Uint8Array(65536);
    const healthy = {
      size: 65536,
      read(position, to) { to.set(content.subarray(position, position + to.length)); },
      write(position, from) { content.set(from, position); },
      flush() {},
    };
    export default { ${rest} open: (how) => ({ ...healthy, ${device} }) };`,
    { mode: 0o644 },
  );
  return path;
}

interface Opened {
  readonly device: BlockDevice;
  readonly lines: string[];
}

async function open(t: TestContext, path: string, query = "", readOnly = false): Promise<Opened> {
  const lines: string[] = [];
  const warn = (line: string): void => void lines.push(line);
  const device = await openDisk(`device:${path}${query}`, { readOnly, modules: [path], warn });
  t.after(() => device.close());
  return { device, lines };
}

const refuses = async (t: TestContext, path: string, why: RegExp, query = ""): Promise<void> => {
  await assert.rejects(open(t, path, query), (error: Error) => {
    assert.ok(error instanceof DeviceError, error.stack);
    assert.match(error.message, why);
    assert.ok(!error.message.includes("\n"), error.message);
    return true;
  });
};

test("the example is a disk in memory", LIMIT, async (t) => {
  const { device } = await open(t, example, "?size=1M");
  assert.equal(device.size, 1 << 20);
  assert.equal(device.volatile, true);
  assert.equal(device.through, `the module ${example}`);
  const data = pattern(8192);
  assert.equal((await write(device, 4096, fill(scatter(512, 7680), data))).result, Result.Success);
  const to = scatter(4096, 512, 3584, 512);
  assert.equal((await read(device, 4096, to)).result, Result.Success);
  assert.deepEqual(gather(to), Buffer.concat([data, Buffer.alloc(512)]));
  assert.equal((await flush(device)).result, Result.Success);
  assert.equal((await discard(device, 4096, 512)).result, Result.Success);
  assert.equal((await discard(device, 4096, 512, true)).result, Result.Unsupported);
  assert.match((await read(device, 1 << 20, scatter(512))).error?.message ?? "", /beyond its end/);
  await device.close();
  assert.match((await read(device, 0, scatter(512))).error?.message ?? "", /the disk is closed/);
  await refuses(t, example, /cannot open it: "much" is no size: write \?size=64M/, "?size=much");
});

test("a module is loaded only where it is allowed, and nobody else could write it", LIMIT, async (t) => {
  const path = moduleOf(t, "", "process.exit(1);");
  await assert.rejects(
    openDisk(`device:${path}`, { readOnly: false }),
    /a module that is not allowed here; .*`xbdback serve --device \/.*device\.js`/,
  );
  await assert.rejects(openDisk(`device:${path}`, { readOnly: false, modules: [`${path}x`] }), /not allowed/);
  await assert.rejects(
    openDisk("device:disk.js", { readOnly: false, modules: ["disk.js"] }),
    /neither an absolute path/,
  );
  await refuses(t, "/no/such/device.js", /module not found: \/no\/such\/device\.js/);
  chmodSync(path, 0o664);
  await refuses(
    t,
    path,
    /users other than the administrator may write the module; `chown root .* && chmod go-w/,
  );
});

const WRONG: Record<string, [device: string, why: RegExp, before?: string, rest?: string]> = {
  "another version": [
    "",
    /cannot open it: made for version 2 of the device interface, and this xbdback has 1/,
    "",
    "api: 2,",
  ],
  "no version": ["", /made for version undefined of/, "", ""],
  "no read": ["read: undefined,", /the opened device has no function read/],
  "no size": ["size: undefined,", /the module is wrong: its size is undefined/],
  "a size of nothing": ["size: 100,", /its size is 100, less than a sector or not a number/],
  "a size that is none": ["size: NaN,", /its size is NaN/],
  "large sectors": ["sectorSize: 8192,", /its sectorSize is 8192, not 512/],
  "an unknown promise": ['survives: "all",', /its survives is all, not "stop" or "kill"/],
  "no time": ["timeoutSeconds: 0,", /its timeoutSeconds is 0/],
  "what cannot be sent": ["size: () => 1,", /cannot open it: .*could not be cloned/],
  "a throw when it is loaded": [
    "",
    /cannot open it: not today \(\S+device\.js:1:7\)$/,
    'throw new Error("not today\\nor tomorrow");',
  ],
  "an end when it is loaded": ["", /cannot open it: its thread has ended/, "process.exit(0);"],
  "a syntax error": ["", /cannot open it: Unexpected/, "]"],
};

for (const [what, [device, why, before, rest]] of Object.entries(WRONG)) {
  test(`a module with ${what} is refused`, LIMIT, (t) => refuses(t, moduleOf(t, device, before, rest), why));
}

test("a module without a default export, or without write, is refused in its own words", LIMIT, async (t) => {
  const path = join(directory(t), "empty.js");
  writeFileSync(path, "export const api = 1;", { mode: 0o644 });
  await refuses(t, path, /it has no default export with a function open; docs\/disks\.md/);
  const reads = moduleOf(t, "write: undefined,");
  await refuses(t, reads, /read-only; attach it read-only/);
  const { device } = await open(t, reads, "", true);
  assert.equal((await write(device, 0, scatter(512))).result, Result.ReadOnly);
  assert.equal((await flush(device)).result, Result.Success);
});

test("what is thrown fails the operation, and no other", LIMIT, async (t) => {
  const { device, lines } = await open(
    t,
    moduleOf(
      t,
      `read(position, to) { if (position === 512) throw new Error("bad spot\\nreally"); healthy.read(position, to); },
       async write(position, from) { if (position === 512) throw undefined; healthy.write(position, from); },`,
    ),
  );
  const failed = await read(device, 512, scatter(512));
  assert.equal(failed.result, Result.Failure);
  assert.match(
    failed.error?.message ?? "",
    /^read 512 bytes at 512 of device:.*device\.js: bad spot \(\S+device\.js:\d+:\d+\)$/,
  );
  assert.match((await write(device, 512, scatter(512))).error?.message ?? "", /device\.js: undefined$/);
  assert.equal((await write(device, 0, fill(scatter(512), pattern(512)))).result, Result.Success);
  const to = scatter(512);
  await read(device, 0, to);
  assert.deepEqual(gather(to), pattern(512));
  // The whole stack, once, on one line.
  assert.equal(lines.length, 1);
  assert.match(lines[0] ?? "", /Error: bad spot\\nreally\\n +at Object\.read/);
});

test("a flush that fails has failed for good", LIMIT, async (t) => {
  const { device } = await open(t, moduleOf(t, 'flush() { throw new Error("full"); },'));
  assert.match(
    (await flush(device)).error?.message ?? "",
    /^flush device:.*: full \(\S+device\.js:\d+:\d+\)$/,
  );
  assert.equal((await write(device, 0, scatter(512))).result, Result.Failure);
  assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
});

const BREAKS: Record<string, [string, RegExp]> = {
  "never answers": ["read: () => new Promise(() => {}),", /a read has not ended within 0\.3 s/],
  "never comes back": ["read() { for (;;); },", /a read has not ended within 0\.3 s/],
  "throws outside of every call": [
    'read: () => new Promise(() => setTimeout(() => { throw new Error("surprise\\n!"); })),',
    /surprise/,
  ],
  "rejects a promise that is nobody's": [
    'read: () => { Promise.reject(new Error("lost")); return new Promise(() => {}); },',
    /lost/,
  ],
  "ends its thread": ["read() { process.exit(3); },", /its thread has ended/],
};

for (const [what, [device, why]] of Object.entries(BREAKS)) {
  test(
    `a device that ${what} is broken: its guest gets errors, and the operator one line`,
    LIMIT,
    async (t) => {
      const { device: disk, lines } = await open(t, moduleOf(t, `timeoutSeconds: 0.3, ${device}`));
      const outcomes = await Promise.all([read(disk, 0, scatter(512)), read(disk, 512, scatter(512))]);
      for (const { result, error } of outcomes) {
        assert.equal(result, Result.Failure);
        assert.match(error?.message ?? "", why);
      }
      assert.match((await write(disk, 0, scatter(512))).error?.message ?? "", why);
      assert.match(disk.through ?? "", /^the module .*, failed: /);
      await disk.close();
      assert.equal(lines.length, 1, lines.join("\n"));
      assert.match(lines[0], /^device:.*; the disk fails until it is attached again$/);
      assert.match(lines[0], why);
    },
  );
}

test("an answer that comes too late, or a buffer that is kept, reaches no guest", LIMIT, async (t) => {
  const { device } = await open(
    t,
    moduleOf(
      t,
      `timeoutSeconds: 0.3,
       read: (position, to) => { globalThis.kept = to; return new Promise((resolve) => setTimeout(resolve, position)); },
       write() { kept.fill(7); },`,
    ),
  );
  const to = scatter(512);
  await read(device, 0, to);
  // The device fills what it was given before.
  await write(device, 0, scatter(512));
  assert.deepEqual(gather(to), Buffer.alloc(512));
  const late = scatter(512);
  assert.equal((await read(device, 1024, late)).result, Result.Failure);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  assert.deepEqual(gather(late), Buffer.alloc(512));
});

test("a device that gives its buffer away fails, and what it prints is said", LIMIT, async (t) => {
  const { device, lines } = await open(
    t,
    moduleOf(t, 'read(_, to) { console.log("reading"); structuredClone(to, { transfer: [to.buffer] }); },'),
  );
  assert.match(
    (await read(device, 0, scatter(512))).error?.message ?? "",
    /the module detached the buffer it was given/,
  );
  await device.close();
  assert.deepEqual(lines, [`${device.name}: reading`]);
});

test("closing waits for what is under way, calls close, and not for ever", LIMIT, async (t) => {
  const { device, lines } = await open(
    t,
    moduleOf(
      t,
      `read: () => new Promise((resolve) => setTimeout(resolve, 200)),
       timeoutSeconds: 2, close() { console.log("closing"); return new Promise(() => {}); },`,
    ),
  );
  const order: string[] = [];
  const reading = read(device, 0, scatter(512)).then(({ result }) => order.push(`read ${result}`));
  await Promise.all([reading, device.close().then(() => order.push("closed"))]);
  assert.deepEqual(order, ["read 0", "closed"]);
  assert.match(lines.join("\n"), /: closing\n.*a close has not ended within 2 s/);
});
