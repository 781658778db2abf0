/** The rows of a good guest beside a neighbour: reads and writes of 4 KiB, and what it keeps of its fair share. */
import { type Measured, median, summary } from "../statistics.js";
import type { Cache } from "./rows.js";

/** The neighbour that does what the good guest does. */
export const SAME = "same";
/** 128 KiB reads in 256 segments that stay mapped; the same with chosen references; 1 MiB reads and writes by grant copy. */
export const KINDS = ["honestp", "hash", "copyread", "copy"] as const;

/** How both guests' disks are served; rows of one set-up are measured on the same processes. */
export interface NeighbourSetup {
  readonly cache: Cache;
  /** For disks in files: qcow2 images have a helper. */
  readonly engine: "io_uring" | "libuv";
  readonly disk: "file" | "qcow2";
}

export interface NeighbourRow extends NeighbourSetup {
  readonly name: string;
  /** Requests of the good guest in flight. */
  readonly depth: number;
  readonly kind: (typeof KINDS)[number];
  readonly quick: boolean;
}

const SETUP = ["cache", "engine", "disk"] as const satisfies (keyof NeighbourSetup)[];

export const sameNeighbourSetup = (a: NeighbourSetup, b: NeighbourSetup): boolean =>
  SETUP.every((key) => a[key] === b[key]);

const DEEP = 32;
/** The neighbour of the deep rows, and of qcow2 images past the page cache: the section is to take four minutes. */
const ONE_KIND = "copyread";
const CACHES = ["writeback", "none"] as const;

function row(setup: NeighbourSetup, kind: NeighbourRow["kind"], depth: number, quick = false): NeighbourRow {
  const { cache, engine, disk } = setup;
  const words = ["neighbours", cache === "none" ? "direct" : "warm", disk === "file" ? engine : disk, kind];
  if (depth > 1) words.push(`qd${depth}`);
  return { name: words.join("/"), ...setup, kind, depth, quick };
}

/** Those of one set-up follow each other. */
export function neighbourRows(): NeighbourRow[] {
  const raw = CACHES.flatMap((cache) =>
    (["io_uring", "libuv"] as const).flatMap((engine) => {
      const setup = { cache, engine, disk: "file" } as const;
      const quick = engine === "io_uring";
      return [
        ...KINDS.map((kind) => row(setup, kind, 1, quick && kind === "copyread")),
        row(setup, ONE_KIND, DEEP, quick && cache === "writeback"),
      ];
    }),
  );
  const qcow2 = CACHES.flatMap((cache) =>
    (cache === "none" ? ([ONE_KIND] as const) : KINDS).map((kind) =>
      row({ cache, engine: "io_uring", disk: "qcow2" }, kind, 1),
    ),
  );
  return [...raw, ...qcow2];
}

/** One run of the good guest. */
export interface Run {
  readonly iops: number;
  /** Milliseconds. */
  readonly p99: number;
}

/** The good guest's runs, one of each a repeat: alone, beside one that does the same, and beside the row's neighbour. */
export interface GoodRuns {
  readonly alone: readonly Run[];
  readonly fair: readonly Run[];
  readonly beside: readonly Run[];
}

export interface NeighbourSamples extends GoodRuns {
  readonly row: NeighbourRow;
  /** Requests a second of the neighbour, one value a repeat. */
  readonly neighbour: readonly number[];
  /** What fio had in the good guest's place, on its file: one run of each a repeat, or none. */
  readonly fioFair: readonly Run[];
  readonly fioBeside: readonly Run[];
}

export interface GoodResult {
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
}

export interface NeighbourResult extends GoodResult, NeighbourSetup {
  readonly name: string;
  readonly depth: number;
  readonly kind: string;
  /** Requests of the neighbour a second. */
  readonly neighbourRate: Measured;
  /**
   * What fio keeps in the good guest's place, on its file, of what it has beside a guest like the good one. It is no guest, so
   * that the daemon bounds nobody for it. Null where it was not measured.
   */
  readonly fioShare: Measured | null;
}

export function goodResult({ alone, fair, beside }: GoodRuns): GoodResult {
  const iops = (runs: readonly Run[]): Measured => summary(runs.map((run) => run.iops))!;
  const p99 = (runs: readonly Run[]): number => median(runs.map((run) => run.p99));
  return {
    ...{ aloneIops: iops(alone), fairIops: iops(fair), besideIops: iops(beside) },
    share: summary(beside.map((run, i) => run.iops / fair[i].iops))!,
    ...{ aloneP99: p99(alone), fairP99: p99(fair), besideP99: summary(beside.map((run) => run.p99))! },
  };
}

export function neighbourResult(samples: NeighbourSamples): NeighbourResult {
  const { row, neighbour, fioFair, fioBeside, ...runs } = samples;
  const { quick: _quick, ...described } = row;
  return {
    ...described,
    ...goodResult(runs),
    neighbourRate: summary(neighbour)!,
    fioShare: summary(fioBeside.map((run, i) => run.iops / fioFair[i].iops)),
  };
}
