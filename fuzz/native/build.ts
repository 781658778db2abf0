/** From the player of sessions to a libFuzzer program: wasm2c, then clang with AddressSanitizer. */
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { buildSession, isStale, ROOT, run } from "../build.js";

/** Where Debian's wabt keeps the runtime of wasm2c. */
const RUNTIME = "/usr/share/wabt/wasm2c";
const DRIVER = join(ROOT, "fuzz/native");

function works(command: string, args: readonly string[], input = ""): boolean {
  return spawnSync(command, args, { input, encoding: "utf8" }).status === 0;
}

/** What is missing here, as one line with the remedy; null if nothing is. */
export function missingTools(coverage = false): string | null {
  const missing: string[] = [];
  if (!works("wasm2c", ["--version"])) missing.push("wabt");
  const fuzzer = ["-fsanitize=fuzzer-no-link,address", "-xc", "-", "-o", "/dev/null"];
  if (!works("clang", ["--version"])) missing.push("clang", "libclang-rt-14-dev");
  else if (!works("clang", fuzzer, "int main(void) { return 0; }")) missing.push("libclang-rt-14-dev");
  if (coverage && !works("llvm-cov", ["--version"])) missing.push("llvm");
  if (missing.length === 0) return null;
  return `missing: ${missing.join(", ")} (apt-get install --no-install-recommends ${missing.join(" ")})`;
}

export type NativeKind = "fuzzer" | "coverage";

const FLAGS = {
  fuzzer: [
    ...["-O2", "-fsanitize=fuzzer,address"],
    `-fsanitize-coverage-ignorelist=${join(DRIVER, "uninstrumented.txt")}`,
  ],
  coverage: ["-O1", "-g", "-fsanitize=fuzzer", "-fprofile-instr-generate", "-fcoverage-mapping"],
};

/** Compiles the program of a checkout or a copy of its sources; returns its path. */
export function buildNative(kind: NativeKind, root: string = ROOT): string {
  const program = join(root, "build/fuzz-native", kind);
  if (!isStale(program, join(root, "assembly"), DRIVER)) return program;
  const module = buildSession(kind === "fuzzer" ? "release" : "coverage", root);
  const source = join(dirname(program), `${kind}-c`);
  mkdirSync(source, { recursive: true });
  run("wasm2c", [module, "-n", "session", "-o", join(source, "session.c")], root);
  // Bounds checks in the code rather than by signals, which AddressSanitizer wants for itself.
  const flags = ["-w", "-DWASM_RT_MEMCHECK_SIGNAL_HANDLER=0", "-I", source, "-I", RUNTIME];
  const files = [join(source, "session.c"), join(RUNTIME, "wasm-rt-impl.c"), join(DRIVER, "driver.c")];
  run("clang", [...FLAGS[kind], ...flags, ...files, "-lm", "-o", program], root);
  return program;
}
