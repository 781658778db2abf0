/**
 * A verifying workload: random reads, writes, flushes and discards at a given depth against a disk whose every sector
 * is known. A sector's content says which sector it is and which write put it there, so that a byte that is lost,
 * stale or misplaced is found and named.
 */
import type { GuestDisk } from "./disk.js";

export interface WorkloadOptions {
  /** Operations in all. */
  readonly operations: number;
  /** Operations under way at once. */
  readonly depth: number;
  readonly seed: number;
  /** Called now and then with the operations done so far. */
  readonly progress?: (done: number) => void;
}

export interface WorkloadResult {
  readonly operations: number;
  readonly reads: number;
  readonly writes: number;
  readonly flushes: number;
  readonly discards: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** Of the mixed part, without the final read of the whole disk. */
  readonly seconds: number;
}

/** A sector does not hold what was written to it. */
class MismatchError extends Error {}

const WORDS = 128;
/** Sectors of 512 bytes that one operation touches at most: 1 MiB. */
const MAX_SECTORS = 2048;
/** For sectors that are free, while others are not. */
const MOST_TRIES = 100;

/** mulberry32: small, seedable, good enough to choose sectors with. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  };
}

/** What each sector holds: 0 for zeros, else the number of the write that filled it. */
class Model {
  readonly generations: Uint32Array;
  /** Sectors that an operation is using; others keep off. */
  readonly busy: Uint8Array;
  /** The content before a discard, which the disk may still show. */
  readonly discarded = new Map<number, number>();
  #next = 1;

  constructor(sectors: number) {
    this.generations = new Uint32Array(sectors);
    this.busy = new Uint8Array(sectors);
  }

  fill(words: Uint32Array, first: number, count: number): void {
    const generation = this.#next++;
    for (let s = 0; s < count; s++) {
      const stamp = stampOf(first + s, generation);
      const at = s * WORDS;
      words[at] = first + s;
      words[at + 1] = generation;
      for (let w = 2; w < WORDS; w++) words[at + w] = stamp + w;
      this.generations[first + s] = generation;
      this.discarded.delete(first + s);
    }
  }

  discard(first: number, count: number): void {
    for (let s = first; s < first + count; s++) {
      if (this.generations[s] !== 0) this.discarded.set(s, this.generations[s]);
      this.generations[s] = 0;
    }
  }

  check(words: Uint32Array, first: number, count: number): void {
    for (let s = 0; s < count; s++) this.#checkSector(words, s * WORDS, first + s);
  }

  #checkSector(words: Uint32Array, at: number, sector: number): void {
    const expected = this.generations[sector];
    if (holds(words, at, sector, expected)) return;
    const before = this.discarded.get(sector);
    if (before !== undefined && holds(words, at, sector, before)) return;
    const wanted = expected === 0 ? "zeros" : `write ${expected}`;
    throw new MismatchError(
      `sector ${sector}: expected ${wanted}, found words ${[...words.subarray(at, at + 4)].join(" ")}`,
    );
  }
}

function stampOf(sector: number, generation: number): number {
  return Math.imul(sector ^ Math.imul(generation, 0x9e3779b1), 0x85ebca6b) >>> 0;
}

function holds(words: Uint32Array, at: number, sector: number, generation: number): boolean {
  const zero = generation === 0;
  const stamp = zero ? 0 : stampOf(sector, generation);
  if (words[at] !== (zero ? 0 : sector) || words[at + 1] !== generation) return false;
  for (let w = 2; w < WORDS; w++) if (words[at + w] !== (zero ? 0 : (stamp + w) >>> 0)) return false;
  return true;
}

/**
 * A disk that holds nothing but zeros at first, and what has been written to it since: {@link run} may be called again,
 * after the disk was disconnected and connected, too.
 */
export class Workload {
  readonly #disk: GuestDisk;
  readonly #options: WorkloadOptions;
  readonly #model: Model;
  readonly #random: () => number;
  readonly #unit: number;
  #started = 0;
  #done = 0;
  #stopped = false;
  readonly result = { reads: 0, writes: 0, flushes: 0, discards: 0, bytesRead: 0, bytesWritten: 0 };

  constructor(disk: GuestDisk, options: WorkloadOptions) {
    this.#disk = disk;
    this.#options = options;
    this.#model = new Model(disk.size / 512);
    this.#random = random(options.seed);
    this.#unit = disk.sectorSize / 512;
  }

  /** `operations` of them, `depth` at once. Rejects as {@link runWorkload}. */
  async run(): Promise<void> {
    this.#started = this.#done = 0;
    await Promise.all(Array.from({ length: this.#options.depth }, () => this.#worker()));
  }

  /** {@link run} starts no more operations. */
  stop(): void {
    this.#stopped = true;
  }

  /** One of `depth` workers: an operation after the other until enough were started. */
  async #worker(): Promise<void> {
    const bytes = new Uint8Array(MAX_SECTORS * 512);
    while (this.#started < this.#options.operations && !this.#stopped) {
      this.#started++;
      await this.#operation(bytes);
      this.#done++;
      if (this.#done % 64 === 0) this.#options.progress?.(this.#done);
    }
  }

  async #operation(bytes: Uint8Array): Promise<void> {
    const dice = this.#random() % 100;
    if (dice < 2) {
      this.result.flushes++;
      return this.#disk.flush();
    }
    let range = this.#range();
    for (; range === null; range = this.#range()) await new Promise<void>((wake) => this.#waiting.push(wake));
    const [first, count] = range;
    this.#model.busy.fill(1, first, first + count);
    const data = bytes.subarray(0, count * 512);
    if (dice < 5 && this.#disk.canDiscard) await this.#discard(first, count);
    else if (dice < 50 && !this.#disk.readOnly) await this.#write(data, first, count);
    else await this.#read(data, first, count);
    this.#model.busy.fill(0, first, first + count);
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /**
   * Sectors that nobody is using: mostly few, at times many, at times next to the last ones. Null where it finds none, as
   * on a small disk that one operation covers: before another one has ended, it never would.
   */
  #range(): [first: number, count: number] | null {
    const sectors = this.#model.busy.length;
    let tries = 0;
    for (;;) {
      const shape = this.#random() % 16;
      const most = shape < 9 ? 8 : shape < 15 ? 128 : MAX_SECTORS;
      const count = Math.min(this.#whole(1 + (this.#random() % most)), sectors);
      const first = this.#random() % 4 === 0 ? this.#cursor : this.#whole(this.#random() % sectors);
      if (first + count > sectors) {
        this.#cursor = 0;
        continue;
      }
      this.#cursor = first + count;
      if (!this.#isBusy(first, count)) return [first, count];
      if (++tries === MOST_TRIES) return null;
    }
  }

  #cursor = 0;
  /** Workers for which no sectors were free. */
  readonly #waiting: (() => void)[] = [];

  #isBusy(first: number, count: number): boolean {
    for (let s = first; s < first + count; s++) if (this.#model.busy[s]) return true;
    return false;
  }

  #whole(sectors: number): number {
    return Math.ceil(sectors / this.#unit) * this.#unit;
  }

  async #write(data: Uint8Array, first: number, count: number): Promise<void> {
    this.#model.fill(new Uint32Array(data.buffer, 0, count * WORDS), first, count);
    this.result.writes++;
    this.result.bytesWritten += data.length;
    await this.#disk.write(first * 512, data);
  }

  async #read(data: Uint8Array, first: number, count: number): Promise<void> {
    this.result.reads++;
    this.result.bytesRead += data.length;
    await this.#disk.read(first * 512, data);
    this.#model.check(new Uint32Array(data.buffer, 0, count * WORDS), first, count);
  }

  async #discard(first: number, count: number): Promise<void> {
    this.result.discards++;
    await this.#disk.discard(first * 512, count * 512);
    this.#model.discard(first, count);
  }

  /** Reads the whole disk and checks every sector. */
  async verifyAll(each: (data: Uint8Array) => void): Promise<void> {
    const bytes = new Uint8Array(MAX_SECTORS * 512);
    for (let first = 0; first < this.#model.busy.length; first += MAX_SECTORS) {
      const count = Math.min(MAX_SECTORS, this.#model.busy.length - first);
      const data = bytes.subarray(0, count * 512);
      await this.#disk.read(first * 512, data);
      this.#model.check(new Uint32Array(bytes.buffer, 0, count * WORDS), first, count);
      each(data);
    }
  }
}

/**
 * Runs on a disk that holds nothing but zeros, and ends with a flush and a read of every sector; `each` gets the
 * whole disk in order. Rejects with a {@link MismatchError} at the first sector that is wrong, and with the disk's
 * own error if an operation fails.
 */
export async function runWorkload(
  disk: GuestDisk,
  options: WorkloadOptions,
  each: (data: Uint8Array) => void = () => {},
): Promise<WorkloadResult> {
  const workload = new Workload(disk, options);
  const start = performance.now();
  await workload.run();
  const seconds = (performance.now() - start) / 1000;
  await disk.flush();
  await workload.verifyAll(each);
  return { operations: options.operations, ...workload.result, seconds };
}
