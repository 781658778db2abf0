/** Runs the libFuzzer program on a corpus that begins with the vectors and with generated sessions. */
import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sessionOf } from "../run.js";
import { vectorSessions } from "../vectors.js";

export interface NativeReport {
  readonly executions: number;
  readonly seconds: number;
  /** Of the core's points of instrumentation, how many the corpus reaches. */
  readonly coverage: number;
  /** What the program printed about a crash, and the file with its input; null if there was none. */
  readonly finding: { readonly what: string; readonly file: string } | null;
}

const SEEDS = 600;
/** Longest input in bytes: enough for a hundred requests. */
export const MAX_LENGTH = 12000;

/** Puts the vectors and generated sessions into `directory`, beside what earlier runs have found there. */
export function seedCorpus(directory: string, seed: number): void {
  mkdirSync(directory, { recursive: true });
  for (const { name, bytes } of vectorSessions()) writeFileSync(join(directory, `vector-${name}`), bytes);
  for (let i = 0; i < SEEDS; i++) writeFileSync(join(directory, `generated-${i}`), sessionOf(seed, i));
}

/** Fuzzes until something is found or the time is over. New inputs are added to `corpus`, findings to `findings`. */
export async function fuzzNative(
  program: string,
  corpus: string,
  findings: string,
  seconds: number,
  seed: number,
  maxLength = MAX_LENGTH,
): Promise<NativeReport> {
  mkdirSync(findings, { recursive: true });
  const args = [
    ...[`-max_total_time=${seconds}`, `-seed=${seed}`, `-max_len=${maxLength}`, "-timeout=20"],
    // The entropic schedule took a third of the time, the search for leaks, where nothing is allocated, a tenth.
    ...["-entropic=0", "-detect_leaks=0"],
    ...["-print_final_stats=1", `-artifact_prefix=${findings}/`, corpus],
  ];
  const start = performance.now();
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
  let text = "";
  child.stderr.setEncoding("utf8").on("data", (part: string) => {
    // The end is what counts; a line a second is written meanwhile.
    text = (text + part).slice(-100000);
  });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject).once("close", resolve);
  });
  const elapsed = (performance.now() - start) / 1000;
  const executions = Number(/stat::number_of_executed_units:\s*(\d+)/.exec(text)?.[1] ?? 0);
  const coverage = Number([...text.matchAll(/\bcov: (\d+)/g)].at(-1)?.[1] ?? 0);
  if (status === 0) return { executions, seconds: elapsed, coverage, finding: null };
  const file = /Test unit written to (\S+)/.exec(text)?.[1] ?? "";
  const what =
    /^(violation .*|the core trapped.*|.*ERROR: (?:Address|libFuzzer).*)$/m.exec(text)?.[1] ??
    text.slice(-500);
  return { executions, seconds: elapsed, coverage, finding: { what, file } };
}
