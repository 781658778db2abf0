/** vhost.c, the plain client of vhost-user-blk servers: what xbdback's client is measured against. */
import { execFile, spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { cpuSeconds } from "./processes.js";
import type { Row } from "./rows.js";
import { type Contestant, PINNED_CPU, per100k, type Sample } from "./sample.js";

const SOURCE = fileURLToPath(new URL("../../../bench/plane/vhost.c", import.meta.url));
const OUTPUT = new URL("native/", import.meta.url);
const FLAGS = ["-O2", "-std=gnu11", "-Wall", "-Wextra"];
/** As guests do where they are not pinned: see PortDispatcher. */
const LOOK_US = 50;
const GRACE_MS = 60_000;

/** Compiles vhost.c. Returns the program's path. Throws an Error of one line where it does not compile. */
function compileVhost(): string {
  mkdirSync(OUTPUT, { recursive: true });
  const program = fileURLToPath(new URL("vhost", OUTPUT));
  const { error, status, stderr } = spawnSync("gcc", [...FLAGS, SOURCE, "-o", program], { encoding: "utf8" });
  if (status !== 0) throw new Error(`gcc failed on bench/plane/vhost.c: ${error?.message ?? stderr.trim()}`);
  return program;
}

export class Vhost implements Contestant {
  readonly name = "vhost";
  readonly pids: readonly number[];
  readonly #program: string;
  readonly #socket: string;

  /** `pid` is the server's. */
  constructor(pid: number, socket: string) {
    this.#program = compileVhost();
    this.pids = [pid];
    this.#socket = socket;
  }

  async run(row: Row, seconds: number): Promise<Sample> {
    const { blockSize, depth, readPercent, sequential, pinned } = row;
    const numbers = [blockSize, depth, readPercent, Number(sequential), seconds, pinned ? 0 : LOOK_US];
    const words = [this.#program, this.#socket, ...numbers.map(String)];
    const [command, ...args] = pinned ? ["taskset", "--cpu-list", PINNED_CPU, ...words] : words;
    const before = cpuSeconds(this.pids[0]);
    const { stdout } = await promisify(execFile)(command, args, { timeout: seconds * 1000 + GRACE_MS });
    const [operations, time, cpu, mean, p50, p90, p99, p999, max] = stdout.trim().split(" ").map(Number);
    return {
      iops: operations / time,
      latency: { mean, p50, p90, p99, p999, max },
      clientCpu: per100k(cpu, operations),
      serverCpu: per100k(cpuSeconds(this.pids[0]) - before, operations),
    };
  }
}
