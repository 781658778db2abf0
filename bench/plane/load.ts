/** Load on disks of a guest: reads and writes of one size, at a depth, for a time. */
import type { Blkfront } from "../../host/guest/blkfront.js";
import { Histogram, type Latency } from "./histogram.js";

export interface LoadJob {
  /** Bytes of one read or write. */
  readonly blockSize: number;
  /** Reads and writes under way at once, on each disk. */
  readonly depth: number;
  /** Of a hundred operations; the rest are writes. */
  readonly readPercent: number;
  /** One after the other, or anywhere. */
  readonly sequential: boolean;
  readonly seconds: number;
}

export interface LoadResult {
  /** Those that ended in time. */
  readonly operations: number;
  readonly seconds: number;
  readonly latency: Latency;
  /** Of this process. */
  readonly cpuSeconds: number;
  /** To the backend. */
  readonly notificationsSent: number;
}

/** xorshift32, from 0 up to 2^32. */
function xorshift(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

/** One disk under load. */
class Stream {
  readonly load: Load;
  readonly disk: Blkfront;
  readonly #blocks: number;
  readonly #random: () => number;
  #next = 0;

  constructor(disk: Blkfront, load: Load, seed: number) {
    this.disk = disk;
    this.load = load;
    this.#blocks = Math.floor(disk.size / load.job.blockSize);
    this.#random = xorshift(seed);
  }

  nextBlock(): number {
    if (!this.load.job.sequential) return this.#random() % this.#blocks;
    const block = this.#next;
    this.#next = block + 1 === this.#blocks ? 0 : block + 1;
    return block;
  }

  nextIsRead(): boolean {
    const { readPercent } = this.load.job;
    return readPercent === 100 || (readPercent > 0 && this.#random() % 100 < readPercent);
  }
}

/** One of `depth`: an operation after the other until the time is over. */
class Worker {
  readonly #stream: Stream;
  readonly #data: Uint8Array;
  #started = 0;
  readonly #done = () => this.#ended();
  readonly #failed = (error: Error) => this.#stream.load.fail(error);

  constructor(stream: Stream) {
    this.#stream = stream;
    this.#data = new Uint8Array(stream.load.job.blockSize).fill(0x5a);
  }

  start(now: number): void {
    const { disk, load } = this.#stream;
    this.#started = now;
    const operation = this.#stream.nextIsRead() ? "read" : "write";
    const position = this.#stream.nextBlock() * load.job.blockSize;
    disk.start(operation, position, this.#data, this.#done, this.#failed);
  }

  #ended(): void {
    const now = performance.now();
    if (this.#stream.load.record(this.#started, now)) this.start(now);
  }
}

class Load {
  readonly job: LoadJob;
  readonly #end: number;
  readonly histogram = new Histogram();
  operations = 0;
  #running = 0;
  #finish: () => void = () => {};
  /** Rejects when an operation fails. */
  fail: (error: Error) => void = () => {};

  /** The time starts. */
  constructor(job: LoadJob) {
    this.job = job;
    this.#end = performance.now() + job.seconds * 1000;
  }

  /** Resolves when the time is over and all has ended. */
  run(disks: readonly Blkfront[]): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#finish = resolve;
      this.fail = reject;
      this.#running = disks.length * this.job.depth;
      const streams = disks.map((disk, i) => new Stream(disk, this, i + 1));
      for (let i = 0; i < this.job.depth; i++)
        for (const stream of streams) new Worker(stream).start(performance.now());
    });
  }

  /** Counts an operation that ended in time. False when the time is over: then its worker has ended, too. */
  record(started: number, now: number): boolean {
    if (now > this.#end) {
      if (--this.#running === 0) this.#finish();
      return false;
    }
    this.operations++;
    this.histogram.record((now - started) * 1e6);
    return true;
  }
}

/** Rejects with the disk's error if an operation fails. */
export async function runLoad(disks: readonly Blkfront[], job: LoadJob): Promise<LoadResult> {
  const notifications = sent(disks);
  const cpu = process.cpuUsage();
  const load = new Load(job);
  await load.run(disks);
  const { user, system } = process.cpuUsage(cpu);
  return {
    operations: load.operations,
    seconds: job.seconds,
    latency: load.histogram.latency(),
    cpuSeconds: (user + system) / 1e6,
    notificationsSent: sent(disks) - notifications,
  };
}

function sent(disks: readonly Blkfront[]): number {
  return disks.reduce((sum, { counters }) => sum + counters.notificationsSent, 0);
}
