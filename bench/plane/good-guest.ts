/** A daemon with a good guest's disk, and other guests' disks beside it. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { converted } from "./backing.js";
import { FioUring } from "./fio.js";
import { writeImage } from "./image.js";
import type { LoadResult } from "./load.js";
import { type Plan, preload } from "./measure.js";
import type { NeighbourSetup, Run } from "./neighbours.js";
import { Machine } from "./xbdback.js";

/** The good guest's domain; neighbours have the next ones. */
export const GOOD = 1;
const DEVID = 51712;
const MEMORY = 64 << 20;
const IMAGE_BYTES = 128 << 20;
const WARM_UP_SECONDS = 2;
const JOB = { blockSize: 4096, readPercent: 70, sequential: false };

/** neighbour.js, with one disk. */
export class NeighbourProcess {
  readonly domid: number;
  readonly devid = DEVID;
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(directory: string, domid: number, kind: string, depth: number) {
    this.domid = domid;
    const program = fileURLToPath(new URL("./neighbour.js", import.meta.url));
    const args = [program, directory, String(domid), String(DEVID), kind, String(depth)];
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

export class GoodGuest {
  readonly machine: Machine;
  readonly #plan: Plan;
  readonly #processes: NeighbourProcess[] = [];
  readonly #images: string[] = [];
  /** On the good guest's file; null where there is none, or the row's disk is not the file itself. */
  #fio: FioUring | null = null;
  readonly #cache: NeighbourSetup["cache"];

  private constructor(machine: Machine, plan: Plan, cache: NeighbourSetup["cache"]) {
    this.machine = machine;
    this.#cache = cache;
    this.#plan = plan;
  }

  static async start({ cache, engine, disk }: NeighbourSetup, plan: Plan): Promise<GoodGuest> {
    const machine = await Machine.start(cache, ["--engine", engine, ...plan.serveOptions]);
    const guest = new GoodGuest(machine, plan, cache);
    try {
      await machine.createGuest(GOOD, MEMORY);
      const { path, target } = await guest.image("good", disk);
      await machine.attach(GOOD, target, { queues: 1 });
      if (cache === "writeback") await preload(path);
      if (disk === "file" && !plan.missing.has("fio")) guest.#fio = new FioUring("fio", path, plan.scratch);
      return guest;
    } catch (error) {
      await guest.stop();
      guest.removeImages();
      throw error;
    }
  }

  /** A new disk's image, which is removed in the end. */
  async image(name: string, disk: NeighbourSetup["disk"]): Promise<{ path: string; target: string }> {
    const raw = join(this.#plan.scratch, `${name}.img`);
    this.#images.push(raw);
    await writeImage(raw, IMAGE_BYTES);
    if (disk === "file") return { path: raw, target: raw };
    const path = join(this.#plan.scratch, `${name}.qcow2`);
    this.#images.push(path);
    return { path: converted(raw, path), target: `qcow2:${path}` };
  }

  /** Another guest, on a disk of its own. `depth` is for one that does the same as the good guest. */
  async neighbour(kind: string, target: string, depth = 1): Promise<NeighbourProcess> {
    const { machine } = this;
    const domid = GOOD + 1 + this.#processes.length;
    await machine.createGuest(domid, MEMORY);
    await machine.plug(domid, target);
    const process = new NeighbourProcess(machine.directory, domid, kind, depth);
    this.#processes.push(process);
    return process;
  }

  async warmUp(): Promise<void> {
    await this.machine.load({ ...JOB, depth: 1, seconds: WARM_UP_SECONDS }, false);
  }

  async run(depth: number): Promise<Run> {
    const { seconds } = this.#plan;
    const { operations, latency }: LoadResult = await this.machine.load({ ...JOB, depth, seconds }, false);
    return { iops: operations / seconds, p99: latency.p99 / 1e6 };
  }

  /** What fio has, in the good guest's place, on its file; null where it cannot be had. */
  async runFio(depth: number): Promise<Run | null> {
    if (this.#fio === null) return null;
    const load = { ...JOB, cache: this.#cache, depth, pinned: false };
    const { iops, latency } = await this.#fio.run(load, this.#plan.seconds);
    return { iops, p99: latency.p99 / 1e6 };
  }

  async stop(): Promise<void> {
    for (const process of this.#processes) await process.stop();
    await this.machine.stop();
  }

  removeImages(): void {
    for (const path of this.#images) rmSync(path, { force: true });
  }
}
