/** Runs of `npm run bench` in tests. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statfsSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";

export const program = fileURLToPath(new URL("../../bench/plane/main.js", import.meta.url));
const documentation = readFileSync(new URL("../../../docs/bench.md", import.meta.url), "utf8");

/** TMPDIR is on tmpfs on a Debian 13, where a file cannot be measured with O_DIRECT. */
const build = fileURLToPath(new URL("../..", import.meta.url));
const TMPFS = 0x01021994;
export const skip = statfsSync(build).type === TMPFS && "the checkout is on tmpfs, which has no O_DIRECT";

export function workplace(t: TestContext): string {
  const directory = mkdtempSync(join(build, "bench-test-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

export function bench(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [program, ...args], { encoding: "utf8", timeout: 240_000 });
}

/** Keys of the report whose objects are by name, not by words of the format. */
const NAMED = ["compared", "contestants", "left", "programs"];

function keysOf(value: unknown, into = new Set<string>()): Set<string> {
  if (Array.isArray(value)) for (const entry of value) keysOf(entry, into);
  else if (typeof value === "object" && value !== null)
    for (const [key, inner] of Object.entries(value)) {
      into.add(key);
      for (const part of NAMED.includes(key) ? Object.values(inner as object) : [inner]) keysOf(part, into);
    }
  return into;
}

/** Each key of what `--json` prints. */
export function assertDocumented(result: object): void {
  for (const key of keysOf(result))
    assert.ok(documentation.includes(`\`${key}\``), `${key} is not documented`);
}
