/** Branch coverage of the core by a corpus, as llvm-cov counts it in the core's C, by source file of the core. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT, run } from "../build.js";

export interface Uncovered {
  /** AssemblyScript's name, "decode/validate". */
  readonly name: string;
  /** Line of the C file, whether the condition never was true (or false), and the line itself. */
  readonly line: number;
  readonly never: boolean;
  readonly text: string;
}

export interface FileCoverage {
  readonly file: string;
  readonly branches: number;
  readonly covered: number;
  readonly uncovered: readonly Uncovered[];
}

interface Export {
  data: { functions: { name: string; branches: number[][]; filenames: string[] }[] }[];
}

/** Functions of the core, not of the player, named after their file: decode_validate. */
const FILES = readdirSync(join(ROOT, "assembly"), { withFileTypes: true })
  .filter((entry) => entry.isFile() && entry.name.endsWith(".ts"))
  .map(({ name }) => name.replace(".ts", ""));
const CORE = new RegExp(`^(?:.*:)?(${FILES.filter((name) => name !== "shared").join("|")})_(\\w+)$`);

/** Plays all of `corpus` on the coverage build; the core's files in the order of their names. */
export function coverage(program: string, corpus: string): FileCoverage[] {
  const scratch = mkdtempSync(join(tmpdir(), "xbdback-coverage-"));
  try {
    const raw = join(scratch, "raw");
    const profile = join(scratch, "profile");
    execFileSync(program, ["-runs=0", corpus], {
      env: { ...process.env, LLVM_PROFILE_FILE: raw },
      stdio: "ignore",
    });
    run("llvm-profdata", ["merge", "-sparse", raw, "-o", profile], scratch);
    const json = execFileSync("llvm-cov", ["export", program, `-instr-profile=${profile}`], {
      maxBuffer: 1 << 30,
      encoding: "utf8",
    });
    return summarize(JSON.parse(json) as Export);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function summarize(exported: Export): FileCoverage[] {
  const files = new Map<string, { branches: number; uncovered: Uncovered[] }>();
  const sources = new Map<string, string[]>();
  for (const { name, branches, filenames } of exported.data[0].functions) {
    const match = CORE.exec(name);
    if (!match) continue;
    const file = files.get(match[1]) ?? { branches: 0, uncovered: [] };
    files.set(match[1], file);
    for (const [line, , , , whenTrue, whenFalse, fileIndex, , kind] of branches) {
      // Branches of macros are checks of accesses.
      if (fileIndex !== 0 || kind !== 4) continue;
      file.branches += 2;
      const path = filenames[0];
      const text = sources.get(path) ?? readFileSync(path, "utf8").split("\n");
      sources.set(path, text);
      const note = (never: boolean) =>
        file.uncovered.push({ name: `${match[1]}/${match[2]}`, line, never, text: text[line - 1].trim() });
      if (whenTrue === 0) note(true);
      if (whenFalse === 0) note(false);
    }
  }
  return Array.from(files, ([file, { branches, uncovered }]) => ({
    file: `assembly/${file}.ts`,
    branches,
    covered: branches - uncovered.length,
    uncovered,
  })).sort((a, b) => (a.file < b.file ? -1 : 1));
}
