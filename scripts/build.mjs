// Builds the core (AssemblyScript to build/blkif.wasm) and the host (TypeScript to build/), each only if it changed,
// what the command runs, the core in C with the headers for hosts in C, and the man pages.
//
// With --dev, what an edited line needs to be tested, in a second or two: the core with assertions and not optimised, the
// host with source maps, and neither header nor man pages. The next build without it makes what differs again.
//
// A build that is killed leaves nothing that a later one takes for finished, and of two at once the second waits.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { writeCore } from "./build-c.mjs";
import { buildCore, buildDevelopmentCore } from "./build-core.mjs";
import { writeBundle } from "./bundle.mjs";
import { writeHeader } from "./c-header.mjs";
import { writeManual } from "./manual.mjs";
import { writePage } from "./page.mjs";

const DEV = process.argv.includes("--dev");
const root = dirname(dirname(fileURLToPath(import.meta.url)));

/**
 * Waits until no other build of this checkout is running. The lock is an abstract socket, which ends with the process
 * that has it, however that ends.
 */
async function lock() {
  const name = `\0xbdback-build-${createHash("sha256").update(root).digest("hex").slice(0, 16)}`;
  for (let told = false; ; ) {
    const server = createServer().listen(name);
    try {
      await once(server, "listening");
      server.unref();
      return;
    } catch (error) {
      if (error.code !== "EADDRINUSE") throw error;
    }
    if (!told) process.stderr.write("waiting for another build of this checkout ...\n");
    told = true;
    await pause(200);
  }
}

/**
 * tsc writes its files one by one, and notes at last what it wrote; then it writes only what changed. If it was ended
 * in between, or its note is of files that are gone, it has to write all.
 */
function compileHost() {
  const note = join(root, "build/.tsbuildinfo");
  const running = join(root, "build/.tsc-running");
  if (existsSync(running) || !existsSync(join(root, "build/host"))) rmSync(note, { force: true });
  writeFileSync(running, "");
  const tsc = [join(root, "node_modules/typescript/bin/tsc"), "-p", "tsconfig.json"];
  if (DEV) tsc.push("--inlineSourceMap");
  const { status } = spawnSync(process.execPath, tsc, { cwd: root, stdio: "inherit" });
  // What it says of the sources' faults it has written, too.
  if (status !== null) rmSync(running);
  if (status !== 0) process.exit(status ?? 1);
}

/** Takes out of build/host and build/assembly, which are packed as they are, what has no source any more. */
function removeOrphans() {
  for (const directory of ["host", "assembly"]) {
    for (const name of readdirSync(join(root, "build", directory), { recursive: true })) {
      const source = /^(?!bundle\/)(.*?)(\.d\.ts|\.js)$/.exec(name);
      if (source && !existsSync(join(root, directory, `${source[1]}.ts`))) {
        rmSync(join(root, "build", directory, name));
      }
    }
  }
}

await lock();
mkdirSync(join(root, "build"), { recursive: true });
for (const name of readdirSync(join(root, "build"))) {
  if (name.includes(".unfinished-")) rmSync(join(root, "build", name));
}
if (!DEV) buildCore(root);
else if (!(await buildDevelopmentCore(root))) process.exit(1);
compileHost();
removeOrphans();
await writeBundle();
if (!DEV) {
  await writePage();
  await writeHeader();
  await writeCore();
  await writeManual();
}
