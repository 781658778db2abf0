/** A build that was killed, or beside which another runs, leaves nothing wrong behind. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath, pathToFileURL } from "node:url";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const checkout = mkdtempSync(join(tmpdir(), "xbdback-build-"));
after(() => rmSync(checkout, { recursive: true, force: true }));

// All that a build reads, and nothing built.
for (const name of [
  "assembly",
  "asconfig.json",
  "host",
  "package.json",
  "packaging",
  "scripts",
  "web",
  "tsconfig.json",
])
  cpSync(join(ROOT, name), join(checkout, name), { recursive: true });
symlinkSync(join(ROOT, "node_modules"), join(checkout, "node_modules"));

const built = (name: string): string => join(checkout, "build", name);
const script = join(checkout, "scripts/build-core.mjs");
const call = `(await import(${JSON.stringify(script)})).buildCore(${JSON.stringify(checkout)})`;
const buildCore = ["--input-type=module", "-e", call];

/** A process with its children in a group of its own, so that all can be killed at once. */
function start(args: readonly string[]): ChildProcess {
  return spawn(process.execPath, args, {
    cwd: checkout,
    detached: true,
    stdio: ["ignore", "ignore", "pipe"],
  });
}

/** Kills it as soon as the condition holds; fails if it ends before. */
async function killWhen(child: ChildProcess, condition: () => boolean): Promise<void> {
  while (!condition()) {
    assert.equal(child.exitCode, null, "the build ended before it could be killed");
    await pause(5);
  }
  const ended = once(child, "exit");
  process.kill(-child.pid!, "SIGKILL");
  await ended;
}

function assertCoreIsRight(): void {
  for (const module of ["blkif.wasm", "blkif-plain.wasm"]) {
    assert.deepEqual(readFileSync(built(module)), readFileSync(join(ROOT, "build", module)), module);
  }
}

function run(args: readonly string[]): void {
  const { status, stderr } = spawnSync(process.execPath, args, { cwd: checkout, encoding: "utf8" });
  assert.equal(status, 0, stderr);
}

const OPTIONS = { timeout: 300_000 };

test(
  "a build killed between asc and wasm-opt leaves no core; the next one makes the right one",
  OPTIONS,
  async () => {
    mkdirSync(join(checkout, "build"));
    for (const name of ["blkif-plain.wasm", "blkif-plain.wasm.stamp"])
      cpSync(join(ROOT, "build", name), built(name));
    const compiled = (): boolean =>
      readdirSync(join(checkout, "build")).some(
        (name) => name.startsWith("blkif.wasm.unfinished") && statSync(built(name)).size > 0,
      );
    await killWhen(start(buildCore), compiled);
    assert.ok(!existsSync(built("blkif.wasm")));
    run(buildCore);
    assertCoreIsRight();
  },
);

test(
  "a core that something else wrote is made anew, and so is one of other sources or flags",
  OPTIONS,
  async () => {
    const asc = join(ROOT, "node_modules/assemblyscript/bin/asc.js");
    run([asc, "--config", "asconfig.json", "--target", "release"]);
    assert.notDeepEqual(readFileSync(built("blkif.wasm")), readFileSync(join(ROOT, "build/blkif.wasm")));
    run(buildCore);
    assertCoreIsRight();

    const { MODULES, isCurrent } = await import(pathToFileURL(script).href);
    const current = (): boolean[] => MODULES.map((module: object) => isCurrent(checkout, module));
    assert.deepEqual(current(), [true, true]);
    const [release, plain] = MODULES;
    assert.ok(!isCurrent(checkout, { ...release, optimise: ["-O2"] }), "another flag");
    assert.ok(!isCurrent(checkout, { ...plain, target: "debug" }), "another target");
    // Below a folder, and older than the core: neither is seen by a comparison of times in one folder.
    const source = join(checkout, "assembly/session/added.ts");
    writeFileSync(source, "export const ADDED = 1;\n");
    utimesSync(source, 0, 0);
    assert.deepEqual(current(), [false, false]);
    rmSync(source);
  },
);

test("the core for development has names, and is not taken for the one that is released", OPTIONS, () => {
  run(["--input-type=module", "-e", call.replace("buildCore", "buildDevelopmentCore")]);
  assert.ok(readFileSync(built("blkif.wasm"), "latin1").includes("assembly/decode/decode"));
  run(buildCore);
  assertCoreIsRight();
});

test(
  "a build killed while tsc writes is made good by the next; two at once do not disturb each other",
  OPTIONS,
  async () => {
    const build = [join(checkout, "scripts/build.mjs")];
    const core = built("host/core/blkif.js");
    await killWhen(start(build), () => existsSync(core));
    // As far as tsc had come, in the worst case.
    writeFileSync(core, readFileSync(core, "utf8").slice(0, 100));
    const both = [start(build), start(build)];
    const said = ["", ""];
    both.forEach((child, i) => {
      child.stderr!.setEncoding("utf8").on("data", (text) => (said[i] += text));
    });
    const statuses = await Promise.all(both.map(async (child) => (await once(child, "close"))[0]));
    assert.deepEqual(statuses, [0, 0], said.join());
    assert.deepEqual(said.sort(), ["", "waiting for another build of this checkout ...\n"]);
    for (const directory of ["host", "man", "assembly"]) {
      for (const name of readdirSync(join(ROOT, "build", directory), { recursive: true }) as string[]) {
        const [mine, its] = [built(join(directory, name)), join(ROOT, "build", directory, name)];
        if (!statSync(its).isFile()) continue;
        // The bundle names its packages by where they are.
        if (name.startsWith("bundle/")) assert.ok(readFileSync(mine).length > 0, name);
        else assert.equal(readFileSync(mine, "utf8"), readFileSync(its, "utf8"), name);
      }
    }
    run([join(checkout, "build/host/bundle/main.js"), "--version"]);
  },
);
