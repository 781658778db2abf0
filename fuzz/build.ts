/** Builds the player of sessions with the core inside (assembly/session), each only if a source has changed. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The checkout; this file runs from build/fuzz. */
export const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** Targets of assembly/session/asconfig.json: `coverage` keeps names and is not optimized. */
export type SessionTarget = "release" | "coverage" | "wasi";

const OUTPUT = {
  release: "blkif-session.wasm",
  coverage: "blkif-session.coverage.wasm",
  wasi: "blkif-wasi.wasm",
};

/** Runs a program to its end. Throws an Error with all its output when it fails. */
export function run(command: string, args: readonly string[], cwd: string): void {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd, encoding: "utf8" });
  if (status !== 0)
    throw new Error(`${command} ${args.join(" ")}: ${error?.message ?? `${stdout}${stderr}`}`);
}

function newest(directory: string): number {
  const files = readdirSync(directory, { recursive: true, encoding: "utf8" });
  return Math.max(...files.map((name) => statSync(join(directory, name)).mtimeMs));
}

/** Whether `file` is older than what lies in any of the directories, or not there. */
export function isStale(file: string, ...directories: string[]): boolean {
  return !existsSync(file) || statSync(file).mtimeMs < Math.max(...directories.map(newest));
}

/** Compiles `root`/assembly/session; returns the path of the module. `root` may be a copy of the checkout's sources. */
export function buildSession(target: SessionTarget, root: string = ROOT): string {
  const file = join(root, "build", OUTPUT[target]);
  if (!isStale(file, join(root, "assembly"))) return file;
  mkdirSync(dirname(file), { recursive: true });
  const entry = `assembly/session/${target === "wasi" ? "wasi" : "index"}.ts`;
  const asc = join(ROOT, "node_modules/assemblyscript/bin/asc.js");
  const config = [
    "--config",
    "assembly/session/asconfig.json",
    "--target",
    target,
    "--path",
    join(ROOT, "node_modules"),
  ];
  run(process.execPath, [asc, entry, ...config, "--outFile", file], root);
  return file;
}
