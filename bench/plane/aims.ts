/** The aims: what xbdback is to reach, and whether it did in this run. */
import type { Measured } from "../statistics.js";
import type { AnswerResult } from "./answers.js";
import { type HungResult, slowestCommand } from "./hung.js";
import type { IdleResult } from "./idle-images.js";
import type { NeighbourResult } from "./neighbours.js";
import { bestLoad, type RowResult, type ScaleResult } from "./results.js";
import { isImage } from "./rows.js";

export interface Aim {
  /** The row that tells. */
  readonly row: string;
  readonly what: string;
  readonly unit: "" | "µs" | "MiB" | "ms";
  /** Exactly one of the two is there. */
  readonly atLeast?: number;
  readonly atMost?: number;
  readonly value: number;
  /** Range of the repeats, where there is one. */
  readonly min?: number;
  readonly max?: number;
  readonly reached: boolean;
}

type Limit = { readonly atLeast: number } | { readonly atMost: number };

const BATCH = 32;
const MIB = 1 << 20;
const MANY_VBDS = 256;
/** For each command while storage hangs. */
const COMMAND_MS = 1000;
/** For the daemon, of what a guest's creation takes. */
const ANSWER_MS = 60;

function aim(
  row: string,
  what: string,
  limit: Limit,
  value: Measured | number | null | undefined,
  unit: Aim["unit"] = "",
  scale = 1,
): Aim[] {
  if (value === null || value === undefined) return [];
  const spread = typeof value === "number" ? {} : { min: value.min * scale, max: value.max * scale };
  const median = (typeof value === "number" ? value : value.median) * scale;
  const reached = "atLeast" in limit ? median >= limit.atLeast : median <= limit.atMost;
  return [{ row, what, unit, ...limit, value: median, ...spread, reached }];
}

/** Disks behind a qemu-storage-daemon, beside a plain client of it, and beside qemu-nbd. */
function imageAims({ name, blockSize, depth, compared }: RowResult): Aim[] {
  const { vhost, "qemu-nbd": nbd } = compared;
  if (depth === 1)
    return aim(name, "latency above vhost's, pinned", { atMost: 25 }, vhost?.added, "µs", 1e-3);
  const [toVhost, toNbd] = blockSize === 4096 ? [0.8, 2.5] : [0.9, 3];
  return [
    ...aim(name, "IOPS to vhost's", { atLeast: toVhost }, vhost?.ratio),
    ...aim(name, "IOPS to qemu-nbd's", { atLeast: toNbd }, nbd?.ratio),
  ];
}

/** Where reactors, the server and the guest have a CPU each. */
const CPUS_FOR_QUEUES = 6;

/** Four rings, each with a virtqueue, to one. */
function queueAims(rows: readonly RowResult[], cores: number): Aim[] {
  if (cores < CPUS_FOR_QUEUES) return [];
  return rows.flatMap((row) => {
    const one = rows.find(
      (other) =>
        other.queues === 1 && other.disk === row.disk && other.depth === row.depth && isImage(row.disk),
    );
    if (row.queues === 1 || !one) return [];
    const ratio = row.contestants["xbdback"].iops.median / one.contestants["xbdback"].iops.median;
    return aim(row.name, "IOPS to those of one queue", { atLeast: 1.3 }, ratio);
  });
}

function idleAims({ name, memoryPerVbd }: IdleResult): Aim[] {
  const memory = memoryPerVbd.daemon + memoryPerVbd.helper;
  return aim(name, "memory of an idle vbd and its helper (PSS)", { atMost: 10 }, memory / MIB, "MiB");
}

function rowAims(row: RowResult): Aim[] {
  const { name, cache, disk, blockSize, depth, sequential, queues, persistent, contestants, syscalls } = row;
  const { xbdback } = contestants;
  if (isImage(disk)) return depth <= 32 ? imageAims(row) : [];
  if (queues > 1 || !persistent || disk !== "file" || row.apart || row.pollUs > 0) return [];
  if (sequential) return aim(name, "bytes to fio's", { atLeast: 0.97 }, xbdback.ratioToFio);
  if (blockSize !== 4096 || (row.readPercent > 0 && row.readPercent < 100)) return [];
  if (depth === 1)
    return aim(name, "latency above fio's, pinned", { atMost: 20 }, row.addedLatency, "µs", 1e-3);
  if (cache === "none")
    return [
      ...iopsAims(row, 0.95),
      ...aim(name, "backend's CPU to fio's", { atMost: 1.3 }, xbdback.serverCpuToFio),
      ...(depth === BATCH && row.readPercent === 100
        ? aim(name, "io_uring_enter calls for 32 I/Os", { atMost: 1.5 }, enters(syscalls?.backendEnters))
        : []),
    ];
  if (depth !== 32) return [];
  return [
    ...iopsAims(row, 1),
    ...["qemu-nbd", "nbdkit"].flatMap((peer) =>
      aim(name, `IOPS to ${peer}'s`, { atLeast: 2 }, ratioOfMedians(row, peer)),
    ),
  ];
}

/** Both ways to run fio: batched, the limit, and one I/O a system call, as it comes. */
function iopsAims(row: RowResult, atLeast: number): Aim[] {
  return [
    ...aim(row.name, "IOPS to fio's", { atLeast }, row.contestants["xbdback"].ratioToFio),
    ...aim(row.name, "IOPS to fio-single's", { atLeast }, ratioOfMedians(row, "fio-single")),
  ];
}

/** No calls at all means that another engine did the I/O. */
function enters(perRequest: number | undefined): number | null {
  return perRequest ? perRequest * BATCH : null;
}

function ratioOfMedians({ contestants }: RowResult, peer: string): number | null {
  const other = contestants[peer];
  return other ? contestants["xbdback"].iops.median / other.iops.median : null;
}

function scaleAims(scales: readonly ScaleResult[]): Aim[] {
  const many = scales.find(({ vbds }) => vbds === MANY_VBDS);
  const one = scales.find(({ vbds }) => vbds === 1);
  if (!many) return [];
  return [
    ...aim(many.name, "memory of an idle vbd (PSS)", { atMost: 2 }, many.memoryPerVbd.pss / MIB, "MiB"),
    ...aim(many.name, "attach, median", { atMost: 30 }, many.attach.median, "ms"),
    ...(one
      ? aim(
          many.name,
          "IOPS of all to one vbd's, best of both",
          { atLeast: 0.9 },
          bestIops(many) / bestIops(one),
        )
      : []),
  ];
}

const bestIops = (scale: ScaleResult): number => bestLoad(scale).iops.median;

/** Disks that are not raw are printed, and are not aims. */
function neighbourAims({ name, disk, depth, share, besideP99 }: NeighbourResult): Aim[] {
  if (disk !== "file") return [];
  return [...shareAim(name, share), ...(depth === 1 ? p99Aim(name, besideP99) : [])];
}

const shareAim = (name: string, share: Measured): Aim[] =>
  aim(name, "of the good guest's fair share", { atLeast: 0.8 }, share);

const p99Aim = (name: string, p99: Measured): Aim[] => aim(name, "its p99", { atMost: 2 }, p99, "ms");

function hungAims(result: HungResult): Aim[] {
  const { name, share, besideP99 } = result;
  const slowest = aim(name, "the slowest command", { atMost: COMMAND_MS }, slowestCommand(result), "ms");
  return [...shareAim(name, share), ...p99Aim(name, besideP99), ...slowest];
}

const answerAims = ({ name, answer }: AnswerResult): Aim[] =>
  aim(name, "answer to the hotplug script", { atMost: ANSWER_MS }, answer, "ms");

/** What was measured. */
interface Results {
  readonly rows?: readonly RowResult[];
  readonly scale?: readonly ScaleResult[];
  readonly idle?: readonly IdleResult[];
  readonly neighbours?: readonly NeighbourResult[];
  readonly hung?: readonly HungResult[];
  readonly answers?: readonly AnswerResult[];
  /** CPUs of the machine. */
  readonly cores?: number;
}

/** In the order of the rows. An aim whose row or contestant was not measured is not there. */
export function aimsOf({
  rows = [],
  scale = [],
  idle = [],
  neighbours = [],
  hung = [],
  answers = [],
  cores = 1,
}: Results): Aim[] {
  return [
    ...rows.flatMap(rowAims),
    ...queueAims(rows, cores),
    ...scaleAims(scale),
    ...idle.flatMap(idleAims),
    ...neighbours.flatMap(neighbourAims),
    ...hung.flatMap(hungAims),
    ...answers.flatMap(answerAims),
  ];
}
