/**
 * What a good guest keeps beside one neighbour: reads and writes of 4 KiB at depth 1, alone, beside a guest that does the
 * same (its fair share), and beside one that takes all it can get.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { type Measured, median, summary } from "../statistics.js";
import { writeImage } from "./image.js";
import type { LoadResult } from "./load.js";
import type { Plan } from "./measure.js";
import type { Cache } from "./rows.js";
import { Machine } from "./xbdback.js";

/** The neighbour that does what the good guest does. */
export const SAME = "same";
/** 128 KiB reads in 256 segments that stay mapped; the same with chosen references; 1 MiB reads and writes by grant copy. */
export const KINDS = ["honestp", "hash", "copyread", "copy"] as const;
export type NeighbourKind = (typeof KINDS)[number] | typeof SAME;

export interface NeighbourRow {
  readonly name: string;
  readonly cache: Cache;
  readonly engine: "io_uring" | "libuv";
  readonly kind: (typeof KINDS)[number];
  readonly quick: boolean;
}

export function neighbourRows(): NeighbourRow[] {
  return (["writeback", "none"] as const).flatMap((cache) =>
    (["io_uring", "libuv"] as const).flatMap((engine) =>
      KINDS.map((kind) => ({
        name: `neighbours/${cache === "none" ? "direct" : "warm"}/${engine}/${kind}`,
        ...{ cache, engine, kind, quick: kind === "copyread" && engine === "io_uring" },
      })),
    ),
  );
}

interface Run {
  readonly iops: number;
  /** Milliseconds. */
  readonly p99: number;
}

/** One value a repeat. */
export interface NeighbourSamples {
  readonly row: NeighbourRow;
  readonly alone: readonly Run[];
  readonly fair: readonly Run[];
  readonly beside: readonly Run[];
  /** Requests a second of the neighbour. */
  readonly neighbour: readonly number[];
}

export interface NeighbourResult {
  readonly name: string;
  readonly cache: Cache;
  readonly engine: string;
  readonly kind: string;
  /** IOPS of the good guest alone, beside one that does the same, and beside the neighbour. */
  readonly aloneIops: Measured;
  readonly fairIops: Measured;
  readonly besideIops: Measured;
  /** Of its fair share, by repeat. */
  readonly share: Measured;
  /** p99 in milliseconds, medians of the repeats. */
  readonly aloneP99: number;
  readonly fairP99: number;
  readonly besideP99: Measured;
  /** Requests of the neighbour a second. */
  readonly neighbourRate: Measured;
}

const GOOD = 1;
const DEVID = 51712;
const MEMORY = 64 << 20;
const IMAGE_BYTES = 128 << 20;
const WARM_UP_SECONDS = 2;
const JOB = { blockSize: 4096, depth: 1, readPercent: 70, sequential: false };

class NeighbourProcess {
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(directory: string, domid: number, kind: NeighbourKind) {
    const program = fileURLToPath(new URL("./neighbour.js", import.meta.url));
    const args = [program, directory, String(domid), String(DEVID), kind];
    this.#process = spawn(process.execPath, args, { stdio: ["pipe", "pipe", "inherit"] });
    this.#lines = createInterface({ input: this.#process.stdout! })[Symbol.asyncIterator]();
    this.#process.stdin!.on("error", () => {});
  }

  async #ask(word: string): Promise<string> {
    this.#process.stdin!.write(`${word}\n`);
    const { done, value } = await this.#lines.next();
    if (done) throw new Error("a neighbour's process has ended");
    if (value.startsWith("failed")) throw new Error(`neighbour: ${value}`);
    return value;
  }

  /** Runs `work` beside it; with the neighbour's requests a second. */
  async beside<T>(work: () => Promise<T>): Promise<{ result: T; rate: number }> {
    await this.#ask("go");
    const result = await work();
    const { requests, seconds } = JSON.parse(await this.#ask("rest"));
    return { result, rate: requests / seconds };
  }

  async stop(): Promise<void> {
    if (this.#process.exitCode !== null) return;
    const closed = once(this.#process, "close");
    this.#process.stdin!.end();
    await closed;
  }
}

export async function measureNeighbour(row: NeighbourRow, plan: Plan): Promise<NeighbourSamples> {
  const { scratch, seconds, repeats, serveOptions } = plan;
  const machine = await Machine.start(row.cache, ["--engine", row.engine, ...serveOptions]);
  const processes: NeighbourProcess[] = [];
  const images: string[] = [];
  try {
    const image = async (name: string): Promise<string> => {
      const path = join(scratch, `${name}.img`);
      images.push(path);
      await writeImage(path, IMAGE_BYTES);
      return path;
    };
    await machine.createGuest(GOOD, MEMORY);
    await machine.attach(GOOD, await image("good"), { queues: 1 });
    const [same, other] = await Promise.all(
      [SAME, row.kind].map(async (kind, i) => {
        const domid = GOOD + 1 + i;
        await machine.createGuest(domid, MEMORY);
        await machine.plug(domid, await image(kind));
        const process = new NeighbourProcess(machine.directory, domid, kind as NeighbourKind);
        processes.push(process);
        return process;
      }),
    );
    const good = async (): Promise<Run> => {
      const { operations, latency }: LoadResult = await machine.load({ ...JOB, seconds }, false);
      return { iops: operations / seconds, p99: latency.p99 / 1e6 };
    };
    await machine.load({ ...JOB, seconds: WARM_UP_SECONDS }, false);
    const samples = { alone: [] as Run[], fair: [] as Run[], beside: [] as Run[], neighbour: [] as number[] };
    for (let repeat = 0; repeat < repeats; repeat++) {
      samples.alone.push(await good());
      samples.fair.push((await same.beside(good)).result);
      const { result, rate } = await other.beside(good);
      samples.beside.push(result);
      samples.neighbour.push(rate);
    }
    return { row, ...samples };
  } finally {
    for (const process of processes) await process.stop();
    await machine.stop();
    for (const path of images) rmSync(path, { force: true });
  }
}

export function neighbourResult({ row, alone, fair, beside, neighbour }: NeighbourSamples): NeighbourResult {
  const { name, cache, engine, kind } = row;
  const iops = (runs: readonly Run[]): Measured => summary(runs.map((run) => run.iops))!;
  const p99 = (runs: readonly Run[]): number => median(runs.map((run) => run.p99));
  return {
    ...{ name, cache, engine, kind },
    ...{ aloneIops: iops(alone), fairIops: iops(fair), besideIops: iops(beside) },
    share: summary(beside.map((run, i) => run.iops / fair[i].iops))!,
    ...{ aloneP99: p99(alone), fairP99: p99(fair), besideP99: summary(beside.map((run) => run.p99))! },
    neighbourRate: summary(neighbour)!,
  };
}
