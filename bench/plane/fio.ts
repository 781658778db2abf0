/** fio: the limit, with io_uring on the file itself, and the client of NBD servers. */
import { spawn } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { atExit } from "./cleanup.js";
import { cpuSeconds } from "./processes.js";
import type { FioPeer, Row } from "./rows.js";
import { type Contestant, PINNED_CPU, per100k, type Sample } from "./sample.js";

/** The part of fio's JSON that is read. */
interface FioDirection {
  readonly total_ios: number;
  readonly lat_ns: {
    readonly mean: number;
    readonly max: number;
    readonly percentile?: Record<string, number>;
  };
}

interface FioJob {
  /** Milliseconds. */
  readonly job_runtime: number;
  /** Percent of the run time. */
  readonly usr_cpu: number;
  readonly sys_cpu: number;
  readonly read: FioDirection;
  readonly write: FioDirection;
}

const GRACE_MS = 60_000;

/** What fio needs to know of a row. */
export type FioLoad = Pick<Row, "cache" | "blockSize" | "depth" | "readPercent" | "sequential" | "pinned">;

function pattern({ readPercent, sequential }: FioLoad): string[] {
  const mixed = readPercent > 0 && readPercent < 100;
  const direction = mixed ? "rw" : readPercent === 100 ? "read" : "write";
  return [`--rw=${sequential ? "" : "rand"}${direction}`, ...(mixed ? [`--rwmixread=${readPercent}`] : [])];
}

/** Resolves with the job of a run. Rejects with the last thing that fio said. */
async function runFio(row: FioLoad, seconds: number, scratch: string, engine: string[]): Promise<FioJob> {
  const output = join(scratch, "fio.json");
  const child = spawn(
    "fio",
    [
      ...["--output-format=json", `--output=${output}`, "--eta=never", "--name=bench"],
      ...engine,
      ...pattern(row),
      ...[`--bs=${row.blockSize}`, `--iodepth=${row.depth}`, "--time_based"],
      ...[`--runtime=${Math.round(seconds * 1000)}ms`, "--norandommap"],
      // From the call to its end; and one histogram for reads and writes together.
      ...["--lat_percentiles=1", "--clat_percentiles=0", "--unified_rw_reporting=mixed"],
      "--percentile_list=50:90:99:99.9",
      ...(row.pinned ? [`--cpus_allowed=${PINNED_CPU}`] : []),
    ],
    { stdio: ["ignore", "ignore", "pipe"], cwd: scratch },
  );
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), seconds * 1000 + GRACE_MS);
  const status = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  clearTimeout(timer);
  if (status !== 0) throw new Error(`fio ended with ${status}: ${errors.trim().split("\n").at(-1)}`);
  // Engines print before the JSON.
  const text = readFileSync(output, "utf8");
  return JSON.parse(text.slice(text.indexOf("{"))).jobs[0] as FioJob;
}

function sampleOf(job: FioJob, serverCpuSeconds: number | null): Sample {
  const mixed = (job as unknown as { mixed: FioDirection }).mixed;
  const { total_ios: operations, lat_ns } = mixed;
  const seconds = job.job_runtime / 1000;
  const percentile = (p: string): number => lat_ns.percentile?.[p] ?? 0;
  return {
    iops: operations / seconds,
    latency: {
      mean: lat_ns.mean,
      p50: percentile("50.000000"),
      p90: percentile("90.000000"),
      p99: percentile("99.000000"),
      p999: percentile("99.900000"),
      max: lat_ns.max,
    },
    clientCpu: per100k(((job.usr_cpu + job.sys_cpu) / 100) * seconds, operations),
    serverCpu: serverCpuSeconds === null ? null : per100k(serverCpuSeconds, operations),
  };
}

/** Buffers on tmpfs, as a loopback guest's memory is. */
const SHARED_BUFFERS = `/dev/shm/xbdback-bench-${process.pid}.buffers`;
const FIO_OPTIONS: Readonly<Record<"fio" | FioPeer, readonly string[]>> = {
  fio: [],
  "fio-single": [],
  "fio-fixed": ["--fixedbufs=1"],
  "fio-shm": [`--mem=mmap:${SHARED_BUFFERS}`],
};

/** fio's io_uring on the file; but for fio-single, up to as many I/Os in a system call as there are. */
export class FioUring implements Contestant {
  readonly name: "fio" | FioPeer;
  readonly pids = [];
  readonly #file: string;
  readonly #scratch: string;

  constructor(name: "fio" | FioPeer, file: string, scratch: string) {
    this.name = name;
    this.#file = file;
    this.#scratch = scratch;
  }

  async run(row: FioLoad, seconds: number): Promise<Sample> {
    const { cache, depth } = row;
    const batch = [`--iodepth_batch_submit=${depth}`, `--iodepth_batch_complete_max=${depth}`];
    const kept = atExit(() => rmSync(SHARED_BUFFERS, { force: true }));
    const job = await runFio(row, seconds, this.#scratch, [
      ...["--ioengine=io_uring", `--filename=${this.#file}`, `--direct=${cache === "none" ? 1 : 0}`],
      // What is in the page cache stays there.
      ...["--invalidate=0", "--allow_file_create=0"],
      ...(this.name === "fio-single" ? [] : batch),
      ...FIO_OPTIONS[this.name],
    ]);
    rmSync(SHARED_BUFFERS, { force: true });
    kept();
    return sampleOf(job, null);
  }
}

/** fio's NBD client at a server on a Unix socket. */
export class FioNbd implements Contestant {
  readonly name: string;
  readonly pids: readonly number[];
  readonly #socket: string;
  readonly #scratch: string;

  constructor(name: string, pid: number, socket: string, scratch: string) {
    this.name = name;
    this.pids = [pid];
    this.#socket = socket;
    this.#scratch = scratch;
  }

  async run(row: Row, seconds: number): Promise<Sample> {
    const before = cpuSeconds(this.pids[0]);
    const uri = `--uri=nbd+unix:///?socket=${this.#socket}`;
    const job = await runFio(row, seconds, this.#scratch, ["--ioengine=nbd", uri]);
    return sampleOf(job, cpuSeconds(this.pids[0]) - before);
  }
}

/** fio's own client of Ceph, with librbd, on an image of the cluster that CEPH_CONF leads to. */
export class FioRbd implements Contestant {
  readonly name = "fio-rbd";
  readonly pids = [];
  readonly #where: readonly string[];
  readonly #scratch: string;

  constructor({ pool, image }: { readonly pool: string; readonly image: string }, scratch: string) {
    this.#where = [`--pool=${pool}`, `--rbdname=${image}`, "--clientname=admin"];
    this.#scratch = scratch;
  }

  async run(row: Row, seconds: number): Promise<Sample> {
    return sampleOf(await runFio(row, seconds, this.#scratch, ["--ioengine=rbd", ...this.#where]), null);
  }
}
