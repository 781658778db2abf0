/**
 * `npm run bench`: the data plane beside fio on the raw file and beside NBD servers, in one run. docs/bench.md tells
 * what the rows, the options and the JSON are.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { parseSize } from "../../host/storage/size.js";
import { aimsOf } from "./aims.js";
import { type AnswerResult, answerRows, measureAnswers } from "./answers.js";
import { atExit, exitOnSignals } from "./cleanup.js";
import { type Environment, examine, isInMemory } from "./environment.js";
import { hungRows } from "./hung.js";
import { type IdleResult, idleRows, measureIdle } from "./idle-images.js";
import { writeImage } from "./image.js";
import { type Failure, measureRows, type Plan } from "./measure.js";
import { measureSection } from "./neighbour-section.js";
import { neighbourRows } from "./neighbours.js";
import { plot } from "./plot.js";
import type { Report } from "./report.js";
import { type RowResult, rowResult, type ScaleResult, scaleResult } from "./results.js";
import { cephRows, rows, scaleRows } from "./rows.js";
import { measureScale } from "./scale.js";
import { findTool } from "./syscalls.js";
import { aimLines, answerLines, EXPLANATION, head, idleLines, rowLines, scaleLines } from "./table.js";

const USAGE = `npm run bench -- [options] [parts]     measures the rows whose name has all parts
  --quick            fewer rows, repeats and a smaller file: under two minutes
  --json             print the report as JSON, and nothing else on stdout
  --list             print the names of the rows
  --directory PATH   where the file that is measured on is made, not on tmpfs (TMPDIR)
  --output PATH      where bench.json and bench.svg are written (build/bench/results)
  --plot FILE        measure nothing: draw the bench.json of an earlier run as FILE (SVG)
  --size SIZE        of the file (1G; --quick: 64M)
  --seconds N        of one run (1; --quick: 0.3)
  --repeats N        (5; --quick: 3)
  --serve "OPTIONS"  of xbdback serve, as --reactors 1`;

const OPTIONS = {
  quick: { type: "boolean", default: false },
  json: { type: "boolean", default: false },
  list: { type: "boolean", default: false },
  help: { type: "boolean", default: false },
  directory: { type: "string", default: tmpdir() },
  output: { type: "string", default: fileURLToPath(new URL("../results", import.meta.url)) },
  plot: { type: "string" },
  size: { type: "string" },
  seconds: { type: "string" },
  repeats: { type: "string" },
  serve: { type: "string", default: "" },
} as const;

class UsageError extends Error {}

function positive(name: string, text: string | undefined, otherwise: number): number {
  const value = text === undefined ? otherwise : Number(text);
  if (!(value > 0)) throw new UsageError(`--${name} is a number above 0`);
  return value;
}

function bytes(text: string): number {
  const size = parseSize(text);
  if (!size || size % (1 << 20) !== 0) throw new UsageError("--size is a size in whole MiB, like 64M or 1G");
  return size;
}

interface Named {
  readonly name: string;
  readonly quick: boolean;
}

/** Those whose names have all of these parts; or the one that is named in full. */
function select<T extends Named>(all: T[], parts: readonly string[]): T[] {
  const named = all.filter(({ name }) => name === parts[0]);
  if (parts.length === 1 && named.length > 0) return named;
  return all.filter(({ name }) => parts.every((part) => `/${name}/`.includes(`/${part}/`)));
}

function parse(args: string[]) {
  try {
    const { values, positionals } = parseArgs({ args, options: OPTIONS, allowPositionals: true });
    const { quick } = values;
    const chosen = <T extends Named>(all: T[]): T[] =>
      positionals.length > 0 ? select(all, positionals) : all.filter((row) => row.quick || !quick);
    return {
      ...values,
      size: bytes(values.size ?? (quick ? "64M" : "1G")),
      seconds: positive("seconds", values.seconds, quick ? 0.3 : 1),
      repeats: Math.ceil(positive("repeats", values.repeats, quick ? 3 : 5)),
      serveOptions: values.serve.split(" ").filter((word) => word !== ""),
      rows: chosen([...rows(), ...(positionals.length > 0 ? cephRows() : [])]),
      scales: chosen(scaleRows()),
      answers: chosen(answerRows()),
      idle: chosen(idleRows()),
      neighbours: chosen(neighbourRows()),
      hung: chosen(hungRows()),
    };
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

type Options = ReturnType<typeof parse>;

function describe({ cpu, cores, memory, kernel, node, fileSystem, programs }: Environment): string {
  return [
    `${cores} × ${cpu}, ${(memory / 2 ** 30).toFixed(0)} GiB, Linux ${kernel}, ${fileSystem}, Node ${node}`,
    ...Object.values(programs),
  ].join("\n");
}

async function measure(options: Options, scratch: string, say: (line: string) => void): Promise<Report> {
  const start = performance.now();
  const { quick, repeats, seconds, size, serveOptions } = options;
  const { environment, missing } = examine(scratch);
  const found = findTool();
  const noSyscalls = found.tool === null ? found.reason : null;
  say(describe(environment));
  for (const reason of [...missing.values(), ...(noSyscalls ? [noSyscalls] : [])]) say(reason);
  say(`${EXPLANATION}\n${repeats} repeats of ${seconds} s each, in turn\n\n${head()}`);
  const plan: Plan = {
    file: join(scratch, "disk.img"),
    ...{ scratch, seconds, repeats, missing, serveOptions, say, syscallTool: found.tool },
  };
  const measured: RowResult[] = [];
  const failures: Failure[] = [];
  if (options.rows.length > 0) {
    await writeImage(plan.file, size);
    const failed = await measureRows(options.rows, plan, (samples) => {
      const result = rowResult(samples);
      measured.push(result);
      say(rowLines(result));
    });
    failures.push(...failed);
    rmSync(plan.file);
  }
  const scale: ScaleResult[] = [];
  for (const { name, vbds } of options.scales) {
    try {
      const result = scaleResult(name, await measureScale(vbds, plan));
      scale.push(result);
      say(scaleLines(result));
    } catch (error) {
      failures.push({ rows: [name], reason: (error as Error).message });
    }
  }
  const answers: AnswerResult[] = [];
  for (const row of options.answers) {
    try {
      const result = await measureAnswers(row, plan);
      answers.push(result);
      say(answerLines(result));
    } catch (error) {
      failures.push({ rows: [row.name], reason: (error as Error).message });
    }
  }
  const idle: IdleResult[] = [];
  for (const row of options.idle) {
    try {
      const result = await measureIdle(row, plan);
      idle.push(result);
      say(idleLines(result));
    } catch (error) {
      failures.push({ rows: [row.name], reason: (error as Error).message });
    }
  }
  const beside = await measureSection(options.neighbours, options.hung, plan);
  failures.push(...beside.failures);
  const cores = environment.cores;
  const aims = aimsOf({ rows: measured, scale, idle, answers, ...beside, cores });
  say(`\n${aimLines(aims)}`);
  return {
    ...{
      environment,
      date: new Date().toISOString(),
      quick,
      repeats,
      seconds,
      size,
      serveOptions,
      noSyscalls,
    },
    ...{ rows: measured, scale, idle, answers, ...beside, aims, failures },
    elapsedSeconds: Math.round((performance.now() - start) / 1000),
  };
}

/** Draws the report of an earlier run, which is in `directory`. */
function redraw(directory: string, file: string): void {
  const path = join(directory, "bench.json");
  if (!existsSync(path))
    throw new Error(`there is no ${path}: measure first, or name its place with --output`);
  writeFileSync(file, plot(JSON.parse(readFileSync(path, "utf8")) as Report));
}

async function main(): Promise<void> {
  const options = parse(process.argv.slice(2));
  if (options.help) return console.log(USAGE);
  if (options.plot !== undefined) return redraw(options.output, options.plot);
  const { rows, scales, idle, answers, neighbours, hung } = options;
  const chosen = [...rows, ...scales, ...idle, ...answers, ...neighbours, ...hung];
  if (chosen.length === 0) throw new UsageError("no row has all of these parts: --list prints the names");
  if (options.list) return console.log(chosen.map(({ name }) => name).join("\n"));
  const say = (line: string): void => {
    if (!options.json) console.log(line);
  };
  exitOnSignals();
  const scratch = mkdtempSync(join(realpathSync(options.directory), "xbdback-bench-"));
  atExit(() => rmSync(scratch, { recursive: true, force: true }));
  try {
    if (isInMemory(scratch))
      throw new UsageError(
        `${options.directory} is on tmpfs, which has no O_DIRECT: name another with --directory`,
      );
    const report = await measure(options, scratch, say);
    mkdirSync(options.output, { recursive: true });
    writeFileSync(join(options.output, "bench.json"), `${JSON.stringify(report, null, 2)}\n`);
    writeFileSync(join(options.output, "bench.svg"), plot(report));
    if (options.json) console.log(JSON.stringify(report, null, 2));
    for (const { rows: names, reason } of report.failures) {
      console.error(`bench: ${names.join(", ")} not measured: ${reason}`);
      process.exitCode = 1;
    }
    say(`${report.elapsedSeconds} s; written to ${join(options.output, "bench.json")} and bench.svg`);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

try {
  await main();
} catch (error) {
  console.error(`bench: ${(error as Error).message}`);
  if (error instanceof UsageError) console.error(USAGE);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
