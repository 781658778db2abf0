/** The C compiler of this machine, for tests that ask it what it makes of a declaration. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { absent } from "../support/programs.js";

/** Why gcc can't compile for a machine type (`-m64`, `-m32`), or false when it can: node:test's `skip`. */
export function cannotCompile(machine: string): string | false {
  const missing = absent("gcc");
  if (missing) return missing;
  const flags = [machine, "-ffreestanding", "-xc", "-c", "-o", "/dev/null", "-"];
  const { status } = spawnSync("gcc", flags, { input: "#include <stdint.h>\n", timeout: 60_000 });
  return status === 0 ? false : `this gcc does not know ${machine}`;
}

function run(program: string, args: string[]): void {
  const { status, stderr, error } = spawnSync(program, args, { encoding: "utf8", timeout: 120_000 });
  if (error) throw error;
  if (status !== 0) throw new Error(`${program} ${args.join(" ")}\n${stderr}`);
}

/** Has arm64's headers judge a file's declarations: clang knows every architecture, and Debian packages the headers for all. */
export function compileForArm64(source: string, flags: readonly string[]): void {
  const target = ["--target=aarch64-linux-gnu", "-isystem", "/usr/aarch64-linux-gnu/include"];
  run("clang", [...target, ...flags, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", source]);
}

/**
 * Compiles a file, with all warnings as errors and without linking. Returns the bytes of the named sections of the
 * object file, in that order. Throws an Error with the compiler's words.
 */
export function compile(
  source: string,
  flags: readonly string[],
  sections: readonly string[] = [],
): Buffer[] {
  const directory = mkdtempSync(join(tmpdir(), "xbdback-c-"));
  const object = join(directory, "object.o");
  try {
    run("gcc", [...flags, "-ffreestanding", "-Wall", "-Wextra", "-Werror", "-c", source, "-o", object]);
    return sections.map((section) => {
      const file = join(directory, section);
      run("objcopy", ["-O", "binary", "-j", section, object, file]);
      return readFileSync(file);
    });
  } finally {
    rmSync(directory, { recursive: true });
  }
}
