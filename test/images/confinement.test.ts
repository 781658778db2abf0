/** What a helper can reach: its files, and what the kernel forbids it. */
import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { chmodSync, chownSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { landlockVersion } from "../../host/platform/libc.js";
import type { BlockDevice } from "../../host/storage/device.js";
import { confined, unconfined } from "../../host/storage/helper/confined.js";
import { openHelped } from "../../host/storage/helper/open.js";
import type { Reach } from "../../host/storage/helper/reach.js";
import { root, Scene } from "../e2e/harness.js";
import { directory, fill, gather, read, scatter, write } from "../storage/helpers.js";
import { absent, type Program } from "../support/programs.js";
import { until } from "../vbd/harness.js";

const run = promisify(execFile);
const VERSION = landlockVersion();
const isRoot = process.getuid?.() === 0;
const needing = (version: number, ...programs: readonly Program[]) => ({
  timeout: 60_000,
  skip:
    (VERSION < version && `Landlock ${version} is not in this kernel, which has ${VERSION}`) ||
    absent(...programs),
});

const REACH: Reach = { files: [], configuration: [], directory: null, remote: false };

/** Does each step by itself, in a program that is started as a helper is; what became of it: "ok", or the error's name. */
async function attempt(
  reach: Partial<Reach>,
  steps: Record<string, string>,
): Promise<Record<string, string>> {
  const script = `
    const fs = require("node:fs"), net = require("node:net"), results = {};
    const dial = (to) => new Promise((done, fail) => net.connect(to).on("connect", done).on("error", fail));
    const listen = (on) => new Promise((done, fail) => net.createServer().on("error", fail).listen(on, done));
    (async () => {
      ${Object.entries(steps)
        .map(([name, step]) => {
          const fail = `results[${JSON.stringify(name)}] = error.code ?? error.message`;
          return `try { await ${step}; results[${JSON.stringify(name)}] = "ok"; } catch (error) { ${fail}; }`;
        })
        .join("\n")}
      fs.writeSync(1, JSON.stringify(results));
      process.exit(0);
    })();`;
  const { program, args, env } = confined(process.execPath, ["-e", script], { ...REACH, ...reach });
  const { stdout } = await run(program, [...args], { env });
  return JSON.parse(stdout);
}

test("a helper reads and writes its own files, and no others", needing(1), async (t) => {
  const place = directory(t);
  const at = (name: string): string => join(place, name);
  const [top, base, other] = ["top", "base", "other"].map((name) => at(name));
  for (const path of [top, base, other]) writeFileSync(path, path);
  mkdirSync(at("sockets"));
  const files = [
    { path: top, writable: true },
    { path: base, writable: false },
  ];
  const sockets = at("sockets");
  const results = await attempt(
    { files, directory: sockets },
    {
      "read its own": `fs.readFileSync("${top}")`,
      "write its own": `fs.writeFileSync("${top}", "new")`,
      "read its base": `fs.readFileSync("${base}")`,
      "write its base": `fs.openSync("${base}", "r+")`,
      "read another": `fs.readFileSync("${other}")`,
      "write another": `fs.openSync("${other}", "r+")`,
      "make a file": `fs.writeFileSync("${other}.new", "")`,
      "make a file by its socket": `fs.writeFileSync("${sockets}/file", "")`,
      "make its socket": `listen("${sockets}/nbd")`,
      "remove its socket": `fs.unlinkSync("${sockets}/nbd")`,
      "remove another": `fs.unlinkSync("${other}")`,
      "rename its own": `fs.renameSync("${top}", "${other}")`,
      "list its directory": `fs.readdirSync("${at("")}")`,
      "read the passwords": `fs.readFileSync("/etc/shadow")`,
      "read a library": `fs.readdirSync("/usr/lib")`,
      "use /dev/null": `fs.writeFileSync("/dev/null", "")`,
    },
  );
  assert.deepEqual(results, {
    "read its own": "ok",
    "write its own": "ok",
    "read its base": "ok",
    "write its base": "EACCES",
    "read another": "EACCES",
    "write another": "EACCES",
    "make a file": "EACCES",
    "make a file by its socket": "EACCES",
    "make its socket": "ok",
    "remove its socket": "ok",
    "remove another": "EACCES",
    "rename its own": "EACCES",
    "list its directory": "EACCES",
    "read the passwords": "EACCES",
    "read a library": "ok",
    "use /dev/null": "ok",
  });
  assert.equal(readFileSync(other, "utf8"), other);
});

test("only a helper for other machines reaches a network", needing(4), async (t) => {
  const server = createServer((socket) => socket.end());
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const dial = { dial: `dial({ host: "127.0.0.1", port: ${(server.address() as AddressInfo).port} })` };
  assert.deepEqual(await attempt({}, dial), { dial: "EACCES" });
  assert.deepEqual(await attempt({ remote: true }, dial), { dial: "ok" });
});

test("a helper sends no signals to others", needing(6), async () => {
  assert.deepEqual(await attempt({}, { signal: `process.kill(${process.pid}, 0)` }), { signal: "EPERM" });
});

/** CapPrm and CapBnd of a program that is started as a helper of these files is. */
async function capabilities(reach: Partial<Reach>, ...wrapper: string[]): Promise<bigint[]> {
  const { program, args, env } = confined("/bin/cat", ["/proc/self/status"], { ...REACH, ...reach });
  const command = [...wrapper, program, ...args];
  const { stdout } = await run(command[0], command.slice(1), { env });
  assert.match(stdout, /^NoNewPrivs:\s+1$/m);
  return ["CapPrm", "CapBnd"].map((set) =>
    BigInt(`0x${new RegExp(`^${set}:\\s+([0-9a-f]+)$`, "m").exec(stdout)?.[1]}`),
  );
}

test("a helper has capabilities only where its files cannot be opened without", {
  skip: !isRoot && "not root",
  timeout: 60_000,
}, async (t) => {
  const place = directory(t);
  const at = (name: string): string => join(place, name);
  const NOBODY = 65534;
  for (const [name, owner, mode] of [
    ["ours", 0, 0o600],
    ["read-only", 0, 0o444],
    ["theirs", NOBODY, 0o600],
  ] as const) {
    writeFileSync(at(name), "");
    chmodSync(at(name), mode);
    chownSync(at(name), owner, owner);
  }
  const file = (name: string, writable = true) => ({ files: [{ path: at(name), writable }] });
  const TO_FILES = 0b110n;
  assert.deepEqual(await capabilities(file("ours")), [0n, 0n]);
  assert.deepEqual(await capabilities(file("read-only", false)), [0n, 0n]);
  assert.deepEqual(await capabilities(file("read-only")), [TO_FILES, TO_FILES]);
  assert.deepEqual(await capabilities(file("theirs")), [TO_FILES, TO_FILES]);
  assert.deepEqual(await capabilities({ configuration: [at("theirs")] }), [TO_FILES, TO_FILES]);
  assert.deepEqual(await capabilities({ remote: true }), [0n, 0n]);
});

test("with the unit's user and capability, a helper opens its own file of any owner, and no other", {
  ...needing(1),
  ...(!isRoot && { skip: "not root" }),
}, async (t) => {
  const place = directory(t);
  for (const name of ["disk", "other"]) writeFileSync(join(place, name), name, { mode: 0o600 });
  for (const name of ["disk", "other"]) chmodSync(join(place, name), 0o600);
  // The wrapper is the launcher's parent.
  const helper = (name: string) => {
    const files = [{ path: join(place, "disk"), writable: true }];
    const { program, args, env } = confined("/bin/cat", [join(place, name)], { ...REACH, files });
    const unit = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"];
    const rights = ["--inh-caps=-all,+dac_override", "--ambient-caps=+dac_override"];
    return run("setpriv", [...unit, ...rights, "--bounding-set=-all,+dac_override", program, ...args], {
      env,
    });
  };
  assert.equal((await helper("disk")).stdout, "disk");
  await assert.rejects(helper("other"), /cat: \S+other: Permission denied/);
  chownSync(join(place, "disk"), 65534, 65534);
  chmodSync(place, 0o755);
  assert.equal((await helper("disk")).stdout, "disk");
});

test("a helper that is started by a process that has ended does not run", { timeout: 60_000 }, async () => {
  const { program, args, env } = confined("/bin/echo", ["it runs"], REACH);
  // A shell forks for it, since another command follows.
  const { stdout } = await run("sh", ["-c", `"$0" "$@"; true`, program, ...args], { env });
  assert.equal(stdout, "");
});

const QEMU = ["qemu-storage-daemon", "qemu-img"] as const;

function create(path: string, ...args: string[]): void {
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", ...args, path, "1M"]);
}

test(
  "an image's header that is rewritten after the check opens no other file",
  needing(1, ...QEMU),
  async (t) => {
    const place = directory(t);
    const at = (name: string): string => join(place, name);
    writeFileSync(at("raw"), Buffer.alloc(1 << 20, "raw"));
    create(at("middle"), "-b", at("raw"), "-F", "raw");
    create(at("disk"), "-b", at("middle"), "-F", "qcow2");
    create(at("ext"), "-o", `data_file=${at("victim")},data_file_raw=on`);
    const lines: string[] = [];
    const device = await openHelped(
      at("disk"),
      { kind: "image", format: "qcow2", path: at("disk") },
      { readOnly: false, warn: (line) => void lines.push(line), patience: { reconnectMs: 100 } },
    );
    t.after(() => device.close());
    const io = scatter(512);
    assert.equal((await read(device, 0, io)).error, undefined);
    assert.match(gather(io).toString(), /^rawrawraw/);
    assert.equal((await write(device, 512, fill(io, Buffer.alloc(512, "new")))).error, undefined);
    // The same file: only what is in it is new.
    writeFileSync(at("disk"), readFileSync(at("ext")), { flag: "r+" });
    process.kill(helperOf(device), "SIGKILL");
    await until("the next helper is refused", () =>
      lines.some((line) => /victim.*Permission denied/.test(line)),
    );
    assert.ok(readFileSync(at("victim")).every((byte) => byte === 0));
  },
);

function helperOf({ through }: BlockDevice): number {
  return Number(/, process ([0-9]+)/.exec(through ?? "")?.[1]);
}

test("without perl a helper runs, and is said not to be confined", needing(1), () => {
  const { program, args } = confined("/bin/echo", ["it runs"], REACH, { perl: null });
  assert.deepEqual([program, ...args], ["/bin/echo", "it runs"]);
  assert.equal(unconfined(null), "perl is not installed: `apt install perl-base`");
  assert.equal(unconfined(), null);
});

test("without Landlock a disk is served, and is said not to be confined", needing(0, ...QEMU), async (t) => {
  const scene = new Scene(t);
  const image = scene.path("disk.qcow2");
  create(image);
  const forbid = new URL("../support/forbid.js", import.meta.url);
  const SYS_landlock_create_ruleset = 444;
  const outcome = await scene
    .start("env", [
      `FORBID=${SYS_landlock_create_ruleset}`,
      `NODE_OPTIONS=--import=${forbid.href}`,
      process.execPath,
      join(root, "bin/xbdback.mjs"),
      "check",
      `${image},qcow2,xvda,rw`,
    ])
    .outcome();
  outcome
    .expect(0)
    .expectMatch(/qemu-storage-daemon, process [0-9]+, not confined to its files: qcow2 \S+disk\.qcow2/);
  const said = `${outcome.stdout}${outcome.stderr}`.match(
    /helpers are not confined to their files: this kernel has/g,
  );
  assert.equal(said?.length, 1, outcome.story);
});
