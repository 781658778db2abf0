/**
 * `npm run fuzz:native -- [--seconds N] [--seed S] [--coverage]`: clang, libFuzzer and AddressSanitizer on the core in C.
 * `npm run fuzz:native -- --campaign N [--seed S]` goes on with a campaign until it has made N executions in all.
 */
import { dirname, join, relative } from "node:path";
import { parseArgs } from "node:util";
import { ROOT } from "../build.js";
import { buildNative, missingTools } from "./build.js";
import { runCampaign } from "./campaign.js";
import { coverage } from "./coverage.js";
import { fuzzNative, seedCorpus } from "./fuzz.js";

async function printCoverage(corpus: string): Promise<void> {
  const files = coverage(await buildNative("coverage"), corpus);
  let branches = 0;
  let covered = 0;
  for (const file of files) {
    branches += file.branches;
    covered += file.covered;
    process.stdout.write(`${file.file.padEnd(26)} ${file.covered} of ${file.branches} branches\n`);
    for (const { name, line, never, text } of file.uncovered)
      process.stdout.write(`    ${name}: never ${never} at player-and-core.c:${line}: ${text}\n`);
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
      campaign: { type: "string", default: "0" },
    },
  });
  const seconds = Number(values.seconds);
  const seed = Number(values.seed);
  const campaign = Number(values.campaign);
  if (!(seconds >= 0) || !Number.isInteger(seed) || !(campaign >= 0))
    throw new Error("--seconds, --seed and --campaign take numbers");
  const missing = missingTools(values.coverage);
  if (missing) {
    process.stderr.write(`${missing}\n`);
    return 2;
  }
  const corpus = join(ROOT, "build/fuzz-native/corpus");
  const findings = join(ROOT, "build/fuzz-native/findings");
  process.stdout.write("building with clang\n");
  const program = await buildNative("fuzzer");
  seedCorpus(corpus, seed);
  process.stdout.write(campaign ? "the campaign goes on\n" : `fuzzing for ${seconds} s\n`);
  const report = campaign
    ? await runCampaign(program, dirname(corpus), campaign, seed)
    : await fuzzNative(program, corpus, findings, seconds, seed);
  const rate = Math.round(report.executions / report.seconds);
  process.stdout.write(
    `${report.executions} executions (${rate} a second), ${report.finding ? 1 : 0} findings\n`,
  );
  if (report.finding) {
    const path = relative(process.cwd(), report.finding.file);
    const again = `${relative(process.cwd(), program)} ${path}`;
    process.stdout.write(`${report.finding.what}\nto play it again: ${again}\n`);
    return 1;
  }
  if (values.coverage) await printCoverage(corpus);
  return 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exitCode = 1;
}
