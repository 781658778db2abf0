/**
 * A campaign: rounds of fuzzing until so many executions have been made, over days if need be. What it has done so far is
 * in campaign.json, its corpus beside it; both are whole after each round, and a campaign that was ended goes on from there.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run } from "../build.js";
import { fuzzNative, MAX_LENGTH, type NativeReport, seedCorpus } from "./fuzz.js";

export interface CampaignState {
  readonly rounds: number;
  readonly executions: number;
  readonly seconds: number;
  readonly coverage: number;
  /** Inputs that are kept. */
  readonly corpus: number;
}

const NOTHING: CampaignState = { rounds: 0, executions: 0, seconds: 0, coverage: 0, corpus: 0 };

/** Seconds of a round. */
const ROUND = 600;
/** Sessions of a few requests take microseconds; every third round also plays long ones. */
const FEW = 600;

export function readState(directory: string): CampaignState {
  const file = join(directory, "campaign.json");
  return existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as CampaignState) : NOTHING;
}

function writeState(directory: string, state: CampaignState): void {
  const file = join(directory, "campaign.json");
  writeFileSync(`${file}.new`, `${JSON.stringify(state)}\n`);
  renameSync(`${file}.new`, file);
}

/** Leaves of the corpus the smallest inputs that reach all that it reaches. */
function minimise(program: string, corpus: string): void {
  const merged = `${corpus}.merged`;
  rmSync(merged, { recursive: true, force: true });
  mkdirSync(merged);
  run(program, ["-merge=1", "-detect_leaks=0", `-max_len=${MAX_LENGTH}`, merged, corpus], corpus);
  rmSync(corpus, { recursive: true });
  renameSync(merged, corpus);
}

function describe(state: CampaignState): string {
  const { rounds, executions, seconds, coverage, corpus } = state;
  const rate = Math.round(executions / seconds);
  return `round ${rounds}: ${executions} executions (${rate} a second), coverage ${coverage}, corpus ${corpus}`;
}

/** Goes on in `directory` until `executions` have been made, or something is found. Says after each round what is done. */
export async function runCampaign(
  program: string,
  directory: string,
  executions: number,
  seed: number,
  roundSeconds = ROUND,
): Promise<NativeReport> {
  const corpus = join(directory, "campaign-corpus");
  // What was ended between its two last steps.
  if (!existsSync(corpus) && existsSync(`${corpus}.merged`)) renameSync(`${corpus}.merged`, corpus);
  if (!existsSync(corpus)) seedCorpus(corpus, seed);
  let state = readState(directory);
  let finding: NativeReport["finding"] = null;
  while (state.executions < executions && !finding) {
    const length = state.rounds % 3 === 2 ? MAX_LENGTH : FEW;
    const findings = join(directory, "findings");
    const report = await fuzzNative(program, corpus, findings, roundSeconds, seed + state.rounds, length);
    finding = report.finding;
    if (!finding) minimise(program, corpus);
    state = {
      rounds: state.rounds + 1,
      executions: state.executions + report.executions,
      seconds: state.seconds + report.seconds,
      coverage: Math.max(state.coverage, report.coverage),
      corpus: readdirSync(corpus).length,
    };
    writeState(directory, state);
    process.stdout.write(`${describe(state)}\n`);
  }
  return { ...state, finding };
}
