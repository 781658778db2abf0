/** From the player of sessions, with the core inside, to a libFuzzer program: C (scripts/build-c.mjs), then clang. */
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { isStale, ROOT, run } from "../build.js";

const DRIVER = join(ROOT, "fuzz/native");
const TRANSLATOR = join(ROOT, "scripts/c");

/** Small tables, so that little has to be set again for each input, and limits are soon reached. */
const SIZES = { MAX_RING_PAGES: 2, MAX_SEGMENTS: 32, MAX_COPIES: 256, MAX_PERSISTENT: 16, MAX_LARGE: 2 };

function works(command: string, args: readonly string[], input = ""): boolean {
  return spawnSync(command, args, { input, encoding: "utf8" }).status === 0;
}

/** What is missing here, as one line with the remedy; null if nothing is. */
export function missingTools(coverage = false): string | null {
  const missing: string[] = [];
  const fuzzer = ["-fsanitize=fuzzer-no-link,address", "-xc", "-", "-o", "/dev/null"];
  if (!works("clang", ["--version"])) missing.push("clang", "libclang-rt-14-dev");
  else if (!works("clang", fuzzer, "int main(void) { return 0; }")) missing.push("libclang-rt-14-dev");
  if (coverage && !works("llvm-cov", ["--version"])) missing.push("llvm");
  if (missing.length === 0) return null;
  return `missing: ${missing.join(", ")} (apt-get install --no-install-recommends ${missing.join(" ")})`;
}

export type NativeKind = "fuzzer" | "coverage";

// The address sanitizer around the block, XBD_CHECKED for each access of the core's within it. Comparisons are not traced:
// it took two thirds of the time, and the core has no magic numbers but its journal's, which no session reaches.
const FLAGS = {
  fuzzer: [
    ...["-O2", "-g", "-DXBD_CHECKED", "-fsanitize=fuzzer,address", "-fno-sanitize-coverage=trace-cmp"],
    `-fsanitize-coverage-ignorelist=${join(DRIVER, "uninstrumented.txt")}`,
  ],
  coverage: ["-O1", "-g", "-fsanitize=fuzzer", "-fprofile-instr-generate", "-fcoverage-mapping"],
};

/** Compiles the program of a checkout or a copy of its sources; returns its path. */
export async function buildNative(kind: NativeKind, root: string = ROOT): Promise<string> {
  const program = join(root, "build/fuzz-native", kind);
  if (!isStale(program, join(root, "assembly"), DRIVER, TRANSLATOR)) return program;
  const { playerInC } = await import(pathToFileURL(join(ROOT, "scripts/build-c.mjs")).href);
  const source = join(dirname(program), `${kind}-c`);
  mkdirSync(source, { recursive: true });
  const byHand = readFileSync(join(DRIVER, "player.c"), "utf8");
  writeFileSync(join(source, "player-and-core.c"), await playerInC(root, byHand, SIZES));
  run("clang", [...FLAGS[kind], "-w", "-I", source, join(DRIVER, "driver.c"), "-o", program], root);
  return program;
}
