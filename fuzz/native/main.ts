/** `npm run fuzz:native -- [--seconds N] [--seed S] [--coverage]`: wasm2c, clang, libFuzzer and AddressSanitizer. */
import { join, relative } from "node:path";
import { parseArgs } from "node:util";
import { ROOT } from "../build.js";
import { buildNative, missingTools } from "./build.js";
import { coverage } from "./coverage.js";
import { fuzzNative, seedCorpus } from "./fuzz.js";

function printCoverage(corpus: string): void {
  const files = coverage(buildNative("coverage"), corpus);
  let branches = 0;
  let covered = 0;
  for (const file of files) {
    branches += file.branches;
    covered += file.covered;
    process.stdout.write(`${file.file.padEnd(26)} ${file.covered} of ${file.branches} branches\n`);
    for (const { name, line, never, text } of file.uncovered)
      process.stdout.write(`    ${name}: never ${never} at session.c:${line}: ${text}\n`);
  }
  const percent = ((100 * covered) / branches).toFixed(1);
  process.stdout.write(`branch coverage of the core: ${percent} % (${covered} of ${branches})\n`);
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seconds: { type: "string", default: "60" },
      seed: { type: "string", default: "1" },
      coverage: { type: "boolean", default: false },
    },
  });
  const seconds = Number(values.seconds);
  const seed = Number(values.seed);
  if (!(seconds >= 0) || !Number.isInteger(seed)) throw new Error("--seconds and --seed take numbers");
  const missing = missingTools(values.coverage);
  if (missing) {
    process.stderr.write(`${missing}\n`);
    return 2;
  }
  const corpus = join(ROOT, "build/fuzz-native/corpus");
  const findings = join(ROOT, "build/fuzz-native/findings");
  process.stdout.write("building with wasm2c and clang\n");
  const program = buildNative("fuzzer");
  seedCorpus(corpus, seed);
  process.stdout.write(`fuzzing for ${seconds} s\n`);
  const report = await fuzzNative(program, corpus, findings, seconds, seed);
  const rate = Math.round(report.executions / report.seconds);
  process.stdout.write(
    `${report.executions} executions (${rate} a second), ${report.finding ? 1 : 0} findings\n`,
  );
  if (report.finding) {
    const path = relative(process.cwd(), report.finding.file);
    process.stdout.write(
      `${report.finding.what}\nto play it again: npm run fuzz -- --replay ${path} --raw\n`,
    );
    return 1;
  }
  if (values.coverage) printCoverage(corpus);
  return 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exitCode = 1;
}
