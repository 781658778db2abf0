/** What the tests of other hosts build with: programs, and the core with plain memory. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { assertAsked } from "../support/programs.js";

/** The checkout; this file runs from build/test/hosts. */
export const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

/** Where wabt's packages keep the C runtime of wasm2c. */
export const WASM2C_RUNTIME = "/usr/share/wabt/wasm2c";

/** Runs a program to its end and returns what it printed. Throws an Error with its errors if it fails. */
export function run(program: string, args: readonly string[], input = ""): string {
  assertAsked(program);
  const options = { cwd: ROOT, input, encoding: "utf8", timeout: 60_000 } as const;
  const { status, signal, stdout, stderr, error } = spawnSync(program, args, options);
  if (status === 0) return stdout;
  // What the program said first: that it did not read all its input follows from it.
  const reason = `${stdout ?? ""}${stderr ?? ""}` || error?.message || signal;
  throw new Error(`${program} ${args.join(" ")}: ${reason}`);
}

/** The core for memory that is not shared. */
export const PLAIN_CORE = join(ROOT, "build/blkif-plain.wasm");
