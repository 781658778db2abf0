// Builds the core (AssemblyScript to build/blkif.wasm) and the host (TypeScript to build/), each only if it changed,
// what the command runs, the core's header for hosts in C, and the man pages.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { writeBundle } from "./bundle.mjs";
import { writeHeader } from "./c-header.mjs";
import { writeManual } from "./manual.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));

function tool(path, args) {
  const { status } = spawnSync(process.execPath, [join(root, "node_modules", path), ...args], {
    cwd: root,
    stdio: "inherit",
  });
  if (status !== 0) process.exit(status ?? 1);
}

function newest(directory) {
  return Math.max(
    ...readdirSync(join(root, directory)).map((name) => statSync(join(root, directory, name)).mtimeMs),
    statSync(join(root, "asconfig.json")).mtimeMs,
  );
}

mkdirSync(join(root, "build"), { recursive: true });
const wasm = join(root, "build/blkif.wasm");
if (!existsSync(wasm) || statSync(wasm).mtimeMs < newest("assembly")) {
  tool("assemblyscript/bin/asc.js", ["--config", "asconfig.json", "--target", "release"]);
  // V8 calls what is not inlined, and asc inlines little: a third of the time of a small request is calls.
  const features = ["--enable-threads", "--enable-bulk-memory", "--enable-simd"];
  const inlining = ["-ocimfs", "100000", "-fimfs", "1000", "-ifwl"];
  tool("binaryen/bin/wasm-opt", [wasm, ...features, ...inlining, "-O3", "--converge", "-o", wasm]);
}
tool("typescript/bin/tsc", ["-p", "tsconfig.json"]);
await writeBundle();
await writeHeader();
await writeManual();
