/**
 * `npm run bench:core`: ns per request of the core, of the same work in C, and of the same in plain JavaScript.
 * First all must give the same bytes for the same ring; then they are measured in turn, several times each.
 * `--json` prints JSON, `--quick` measures less, a word measures only the shapes whose name has it.
 */
import { readFileSync } from "node:fs";
import { type Measured, median, summary } from "../statistics.js";
import { coreRunner, cRunner, javascriptRunner, type Runner } from "./contestants.js";
import { mixture, nameOf, type Scenario, type Shape, scenarioOf, shapes } from "./scenario.js";

interface Row extends Shape {
  readonly name: string;
  readonly core: Measured;
  readonly c: Measured | null;
  readonly javascript: Measured;
  /** Medians of the repeats' ratios: what disturbs one repeat disturbs its neighbours too. */
  readonly coreToC: number | null;
  readonly javascriptToCore: number;
  readonly stepsPerRequest: number;
}

type Name = Runner["name"];

const options = process.argv.slice(2);
const json = options.includes("--json");
const quick = options.includes("--quick");
const words = options.filter((option) => !option.startsWith("--"));
const REPEATS = quick ? 3 : 9;
const MILLISECONDS = quick ? 3 : 8;
/** Before anything is measured, each shape runs so long in this process: V8 compiles what it sees often enough. */
const WARM_UP_MILLISECONDS = 60;

function say(line: string): void {
  if (!json) console.log(line);
}

/** Throws when a contestant gives other bytes than the first. */
function compare(runners: Runner[], scenario: Scenario): void {
  const [first, ...others] = runners.map((runner) => runner.transcript(scenario));
  others.forEach((other, i) => {
    if (Buffer.compare(first, other) === 0) return;
    const at = first.findIndex((byte, k) => byte !== other[k]);
    const names = `${runners[0].name} and ${runners[i + 1].name}`;
    throw new Error(
      `${scenario.name}: ${names} differ from byte ${at} of ${first.length} and ${other.length} on`,
    );
  });
}

/** Ns a request by contestant, one value a repeat. */
function measureShape(scenario: Scenario, runners: Runner[]): Map<Name, number[]> {
  const taken = new Map<Name, number[]>(runners.map((runner) => [runner.name, []]));
  for (const runner of runners) if (runner.name !== "c") runner.measure(scenario, WARM_UP_MILLISECONDS);
  for (let i = 0; i < REPEATS; i++)
    for (const runner of runners) taken.get(runner.name)?.push(runner.measure(scenario, MILLISECONDS));
  return taken;
}

function ratio(above: number[], below: number[]): number {
  return median(above.map((value, i) => value / below[i]));
}

function measureRow(shape: Shape, runners: Runner[], stepsPerRequest: (scenario: Scenario) => number): Row {
  const scenario = scenarioOf(shape);
  const taken = measureShape(scenario, runners);
  const core = taken.get("core")!;
  const c = taken.get("c");
  const javascript = taken.get("javascript")!;
  return {
    name: scenario.name,
    ...shape,
    core: summary(core)!,
    c: c ? summary(c) : null,
    javascript: summary(javascript)!,
    coreToC: c ? ratio(core, c) : null,
    javascriptToCore: ratio(javascript, core),
    stepsPerRequest: stepsPerRequest(scenario),
  };
}

function cell(measured: Measured | null): string {
  if (!measured) return "-".padStart(24);
  const spread = `${measured.min.toFixed(1)}-${measured.max.toFixed(1)}`;
  return measured.median.toFixed(1).padStart(8) + spread.padStart(16);
}

function printRow(row: Row): void {
  const shape = `${row.persistent ? "persistent" : "copy"}`.padEnd(11);
  const kind = (row.contiguous ? "contiguous" : "scattered").padEnd(11);
  const numbers = String(row.segments).padStart(4) + String(row.batch).padStart(6);
  const cells = cell(row.core) + cell(row.c) + cell(row.javascript);
  const ratios = (row.coreToC?.toFixed(2) ?? "-").padStart(7) + row.javascriptToCore.toFixed(2).padStart(8);
  say(`${shape}${kind}${numbers}${cells}${ratios}${row.stepsPerRequest.toFixed(3).padStart(6)}`);
}

const EXPLANATION = `
data     persistent: the guest's pages are mapped already; copy: grant copies, whose statuses the host marks at once
order    contiguous: neighbours on the disk and in memory, so requests coalesce; scattered: neither
segs     segments of 4 KiB a request; more than 11 come as INDIRECT, with its round to fetch them
batch    requests that the guest shows at once
core     blkif.wasm in Node; c: bench/core/peer.c, gcc -O2; js: bench/core/javascript.ts
         ns a request, half reads and half writes: median and range of ${REPEATS} repeats in turn
         all around it is the same for all: I/Os complete at once, nothing is copied or read from a disk
core/c   below 1, the core is faster than C; js/core: how many times faster than JavaScript it is
calls    calls from JavaScript into the core for a request
`;

function main(): void {
  const chosen = shapes().filter((shape) => words.every((word) => nameOf(shape).includes(word)));
  const { runner: core, memoryBytes } = coreRunner();
  const c = cRunner(say);
  const javascript = javascriptRunner();
  const runners: Runner[] = c ? [core, c, javascript] : [core, javascript];
  const before = memoryBytes();
  for (const shape of chosen) compare(runners, scenarioOf(shape));
  const mixtures = [1, 2, 3].flatMap((seed) => [mixture(true, seed), mixture(false, seed)]);
  for (const scenario of mixtures) compare(runners, scenario);
  say(`the same bytes from ${runners.map((runner) => runner.name).join(", ")} in ${chosen.length} shapes`);
  say(`and ${mixtures.length} mixtures of good, bad, overlapping and failing requests`);
  say(EXPLANATION);
  const head = ["core", "c", "js"].map((name) => `${name.padStart(8)}${"range".padStart(16)}`).join("");
  say(`data       order       segs batch${head} core/c js/core calls`);
  const rows = chosen.map((shape): Row => {
    const row = measureRow(shape, runners, (scenario) => core.stepsPerRequest(scenario));
    printRow(row);
    return row;
  });
  const wasmBytes = readFileSync(new URL("../../blkif.wasm", import.meta.url)).length;
  const memoryGrew = memoryBytes() !== before;
  say(
    `\nblkif.wasm: ${wasmBytes} bytes; linear memory: ${before} bytes, ${memoryGrew ? "GREW" : "has not grown"}`,
  );
  const node = process.version;
  if (json)
    console.log(JSON.stringify({ node, repeats: REPEATS, wasmBytes, memoryGrew, shapes: rows }, null, 2));
}

main();
