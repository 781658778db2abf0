/** Helpers other than for image files, and what a helper may do wrong. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { openDisk } from "../../host/storage/disk.js";
import { openHelped } from "../../host/storage/helper/open.js";
import { Helper } from "../../host/storage/helper/process.js";
import type { Reach } from "../../host/storage/helper/reach.js";
import { parseSource } from "../../host/storage/source.js";
import { directory } from "../storage/helpers.js";
import { until } from "../vbd/harness.js";
import { withPrograms } from "./support.js";

const QEMU = ["qemu-storage-daemon", "qemu-img"] as const;
const LIMIT = { timeout: 60_000 };

test("targets and what they mean", () => {
  const rbd = (pool: string, namespace: string, image: string) => ({ kind: "rbd", pool, namespace, image });
  const cases: [string, object | null][] = [
    ["/disk.img", { kind: "raw", path: "/disk.img" }],
    ["nbd://h/e", { kind: "nbd", uri: "nbd://h/e" }],
    ["vhd:/a:b,c", { kind: "image", format: "vhd", path: "/a:b,c" }],
    ["rbd:pool/image", rbd("pool", "", "image")],
    ["rbd:pool/space/image", rbd("pool", "space", "image")],
    ["https://h/d.img?a=b", { kind: "http", url: "https://h/d.img?a=b" }],
    ["qcow2:disk.img", null],
    ["toString:/disk.img", null],
    ["rbd:image", null],
    ["rbd:pool/image:conf=/etc/x", null],
    ["json:{}", null],
    ["disk.img", null],
    ["", null],
  ];
  for (const [text, source] of cases) assert.deepEqual(parseSource(text), source, text);
});

withPrograms(QEMU, "a guest cannot make its fixed VHD an image with a base of its choice", async (t) => {
  const root = directory(t);
  const at = (name: string): string => join(root, name);
  execFileSync("qemu-img", ["create", "-q", "-f", "raw", at("secret.img"), "1M"]);
  execFileSync("qemu-img", [
    "create",
    "-q",
    "-f",
    "qcow2",
    "-b",
    at("secret.img"),
    "-F",
    "raw",
    at("header"),
    "8M",
  ]);
  const fixed = ["-o", "subformat=fixed,force_size=on"];
  execFileSync("qemu-img", ["create", "-q", "-f", "vpc", ...fixed, at("disk.vhd"), "8M"]);
  const written = readFileSync(at("header"));
  const fd = openSync(at("disk.vhd"), "r+");
  writeSync(fd, written, 0, written.length, 0);
  closeSync(fd);
  const source = { kind: "image", format: "vhd", path: at("disk.vhd") } as const;
  const device = await openHelped(at("disk.vhd"), source, { readOnly: false, warn: () => {} });
  t.after(() => device.close());
  assert.match(device.through ?? "", /: vpc \S+disk\.vhd$/);
  assert.deepEqual(
    readdirSync("/proc/self/fd")
      .map(targetOf)
      .filter((path) => path === at("secret.img")),
    [],
  );
});

withPrograms(
  QEMU,
  "an image that does not say its base's format is refused, unless that is raw",
  async (t) => {
    const root = directory(t);
    const at = (name: string): string => join(root, name);
    const create = (...args: string[]): void => {
      execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", ...args]);
    };
    create(at("base"), "1M");
    for (const name of ["silent", "plain", "over"]) create("-b", at("base"), "-F", "qcow2", at(name));
    writeFileSync(at("raw.img"), new Uint8Array(1 << 20));
    execFileSync("qemu-img", ["rebase", "-u", "-b", at("raw.img"), "-F", "raw", at("plain")]);
    execFileSync("qemu-img", ["rebase", "-u", "-b", at("silent"), "-F", "qcow2", at("over")]);
    for (const name of ["silent", "plain"]) {
      // As older programs write it: the header's extension is one that nobody knows.
      const bytes = readFileSync(at(name));
      bytes.writeUInt32BE(0x11223344, bytes.indexOf(Buffer.of(0xe2, 0x79, 0x2a, 0xca)));
      writeFileSync(at(name), bytes);
    }
    const open = (name: string) =>
      openHelped(
        at(name),
        { kind: "image", format: "qcow2", path: at(name) },
        { readOnly: true, warn: () => {} },
      );
    for (const name of ["silent", "over"])
      await assert.rejects(open(name), /silent: does not name the format of its base \S+base, .*rebase -u/);
    await (await open("plain")).close();
  },
);

/** What a descriptor of ours is; "" of one that is gone. */
function targetOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return "";
  }
}

const NOTHING: Reach = { files: [], configuration: [], directory: null, remote: false };

/** A helper that is a shell script. */
function script(t: TestContext, text: string): { start: () => Helper; lines: string[] } {
  const path = `${directory(t)}/helper`;
  writeFileSync(path, `#!/bin/sh\n${text}\n`);
  chmodSync(path, 0o755);
  const lines: string[] = [];
  process.env["PATH"] = `${path.slice(0, -"/helper".length)}:${process.env["PATH"]}`;
  const command = (socket: string) => ({
    program: "helper",
    package: "helper-utils",
    args: [socket],
    reach: { ...NOTHING, directory: dirname(socket) },
  });
  return { start: () => Helper.start("disk", command, (line) => void lines.push(line)), lines };
}

const leftovers = (): string[] =>
  readdirSync(tmpdir()).filter((name) => /^xbdback-[A-Za-z0-9]{6}$/.test(name));

test("a helper that is not installed is named with its package", LIMIT, () => {
  const command = () => ({ program: "no-such-helper", package: "helper-utils", args: [], reach: NOTHING });
  assert.throws(
    () => Helper.start("disk", command, () => {}),
    /^Error: disk: needs no-such-helper, which is not installed: `apt install helper-utils`$/,
  );
});

test("a helper that ends instead of serving says why, in its words", LIMIT, async (t) => {
  const before = leftovers();
  const { start, lines } = script(t, "echo it is full of bugs >&2; exit 3");
  const helper = start();
  await assert.rejects(helper.connect("disk"), /^Error: disk: helper cannot serve it: it is full of bugs$/);
  await helper.stop();
  assert.deepEqual(lines, ["helper: it is full of bugs", "helper ended with status 3"]);
  const busy = script(t, "echo 'Failed to get \"write\" lock' >&2; exit 1").start();
  await assert.rejects(busy.connect("disk"), { errno: 16 });
  const mute = script(t, "exit 0").start();
  await assert.rejects(mute.connect("disk"), /exited without any output/);
  assert.deepEqual(leftovers(), before);
});

test("a helper that does not listen is named with the time that it had", LIMIT, async (t) => {
  const idle = script(t, "exec sleep 600").start();
  await assert.rejects(
    idle.connect("disk", 300),
    /^Error: disk: helper does not listen 0\.3 s after its start$/,
  );
  await idle.stop();
});

withPrograms(QEMU, "an image that is larger than is supported is refused with its size", async (t) => {
  const path = `${directory(t)}/disk.qcow2`;
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", path, "64P"]);
  await assert.rejects(
    openDisk(`qcow2:${path}`, { readOnly: true, warn: () => {} }),
    /disk\.qcow2: its disk has 72057594037927936 bytes, and less than 8 PiB \(9007199254740992\) are supported$/,
  );
});

test("a helper that neither serves nor ends when it is asked is killed", { timeout: 120_000 }, async (t) => {
  const { start, lines } = script(t, "trap '' TERM; echo ready >&2; while :; do sleep 0.1; done");
  const helper = start();
  await until("it ignores SIGTERM", () => lines.length > 0);
  await helper.stop();
  assert.match(lines.at(-1) ?? "", /^helper ended with SIGKILL$/);
  assert.throws(() => process.kill(helper.pid, 0), { code: "ESRCH" });
});

withPrograms(QEMU, "an image is a file or in a device, wherever its path is", async (t) => {
  const create = (path: string): void =>
    void execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", path, "16M"]);
  const serves = async (path: string): Promise<void> => {
    const device = await openDisk(`qcow2:${path}`, { readOnly: false });
    assert.equal(device.size, 16 << 20);
    await device.close();
  };
  const memory = mkdtempSync("/dev/shm/xbdback-");
  t.after(() => rmSync(memory, { recursive: true }));
  create(join(memory, "disk.qcow2"));
  await serves(join(memory, "disk.qcow2"));
  if (process.geteuid?.() !== 0) return t.diagnostic("not in a device: loop devices need root");
  const file = join(memory, "device");
  create(file);
  truncateSync(file, 32 << 20);
  const made = spawnSync("losetup", ["--find", "--show", file], { encoding: "utf8" });
  if (made.status !== 0) return t.diagnostic(`not in a device: ${made.error?.message ?? made.stderr.trim()}`);
  t.after(() => spawnSync("losetup", ["--detach", made.stdout.trim()]));
  symlinkSync(made.stdout.trim(), join(memory, "link"));
  await serves(join(memory, "link"));
});
