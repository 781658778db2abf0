// Compiles the core: build/blkif.wasm, and build/blkif-plain.wasm for memory that is not shared.
//
// A stamp beside each says of what it was made and what it is, so that it is made again whenever either differs: when a
// source, a flag or a compiler's version changed, or something else wrote the file.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from "node:fs";
import { join, relative } from "node:path";
import { unfinished, writeWhole } from "./write-whole.mjs";

// V8 calls what is not inlined, and asc inlines little: a third of the time of a small request is calls.
const FEATURES = ["--enable-threads", "--enable-bulk-memory", "--enable-simd"];
const INLINING = ["-ocimfs", "100000", "-fimfs", "1000", "-ifwl"];
// asc leaves what an assertion would look at where it takes the assertion out; loads that nobody needs cannot trap here.
const UNUSED = "--ignore-implicit-traps";
const OPTIMISE = [...FEATURES, ...INLINING, UNUSED, "-O3", "--converge"];

export const MODULES = [
  { file: "build/blkif.wasm", target: "release", optimise: OPTIMISE },
  { file: "build/blkif-plain.wasm", target: "plain", optimise: ["--enable-bulk-memory", UNUSED, "-O3"] },
];

/** For edited lines: with the names of functions and with assertions. */
const DEVELOPMENT = { file: "build/blkif.wasm", target: "debug", optimise: null };

/** Of all parts, as one hash. */
export function digest(...parts) {
  const hash = createHash("sha256");
  // With its length, as the end of one part could be the beginning of the next.
  for (const part of parts) hash.update(`${part.length} `).update(part);
  return hash.digest("hex");
}

/** Of an installed package. */
export function version(root, name) {
  return JSON.parse(readFileSync(join(root, "node_modules", name, "package.json"), "utf8")).version;
}

/** What a module is made of, as one hash. */
function inputs(root, { target, optimise }) {
  const sources = readdirSync(join(root, "assembly"), { recursive: true })
    .filter((name) => /\.(ts|json)$/.test(name))
    .sort()
    .flatMap((name) => [name, readFileSync(join(root, "assembly", name))]);
  const compilers = [version(root, "assemblyscript"), version(root, "binaryen")];
  return digest(
    readFileSync(join(root, "asconfig.json")),
    target,
    String(optimise),
    ...compilers,
    ...sources,
  );
}

function run(root, path, args) {
  const command = [join(root, "node_modules", path), ...args];
  const { status } = spawnSync(process.execPath, command, { cwd: root, stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}

/** A file's stamp, were it made now of what there is. */
function stampOf(root, module, file) {
  return `${inputs(root, module)} ${digest(readFileSync(file))}\n`;
}

/** Whether the module is there, as its compilers would make it now. */
export function isCurrent(root, module) {
  const file = join(root, module.file);
  if (!existsSync(file) || !existsSync(`${file}.stamp`)) return false;
  return readFileSync(`${file}.stamp`, "utf8") === stampOf(root, module, file);
}

/** Makes what is missing or made of something else. Ends the process if a compiler fails. */
export function buildCore(root) {
  mkdirSync(join(root, "build"), { recursive: true });
  for (const module of MODULES) {
    if (isCurrent(root, module)) continue;
    const file = join(root, module.file);
    const temporary = unfinished(file);
    const asc = ["--config", "asconfig.json", "--target", module.target, "--outFile", temporary];
    run(root, "assemblyscript/bin/asc.js", asc);
    if (module.optimise) run(root, "binaryen/bin/wasm-opt", [temporary, ...module.optimise, "-o", temporary]);
    putInPlace(root, module, temporary);
  }
}

function putInPlace(root, module, temporary) {
  const stamp = stampOf(root, module, temporary);
  const file = join(root, module.file);
  renameSync(temporary, file);
  writeWhole(`${file}.stamp`, stamp);
}

/**
 * Makes build/blkif.wasm for development, in this process: its compiler takes a second, and less each time that it is
 * called again. Returns false if the core does not compile; the compiler has said why.
 */
export async function buildDevelopmentCore(root) {
  mkdirSync(join(root, "build"), { recursive: true });
  if (isCurrent(root, DEVELOPMENT)) return true;
  const { default: asc } = await import("assemblyscript/asc");
  const temporary = unfinished(join(root, DEVELOPMENT.file));
  const target = ["--config", "asconfig.json", "--baseDir", root, "--target", DEVELOPMENT.target];
  // Below the base directory, as asc wants it.
  const streams = { stdout: process.stdout, stderr: process.stderr };
  const { error } = await asc.main([...target, "--outFile", relative(root, temporary)], streams);
  if (error) return false;
  putInPlace(root, DEVELOPMENT, temporary);
  return true;
}
