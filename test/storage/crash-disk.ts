/**
 * A disk in memory with a volatile cache: what is written is in the cache at once, and on stable storage after a flush, or
 * perhaps before. It can be looked at as a killed process leaves it, and as a machine that lost its power does.
 */
import { setImmediate as turn } from "node:timers/promises";
import { type BlockDevice, type Done, type IoVector, Result, views } from "../../host/storage/device.js";

const SECTOR = 512;

/** Sectors by their numbers; those that are left out are zeros. */
export type Content = ReadonlyMap<number, Buffer>;
const ZEROS = Buffer.alloc(SECTOR);

export function contentOf(bytes: Buffer): Content {
  const count = Math.ceil(bytes.length / SECTOR);
  return new Map(
    Array.from({ length: count }, (_, i) => [i, bytes.subarray(i * SECTOR, (i + 1) * SECTOR)] as const),
  );
}

export interface CrashDiskOptions {
  readonly sectorSize?: number;
  readonly readOnly?: boolean;
  /** Numbers from 0 to 2^32 - 1; when left out, operations are carried out at once and in order. */
  readonly dice?: () => number;
}

export class CrashDisk implements BlockDevice {
  readonly name = "crash-disk";
  readonly size: number;
  readonly sectorSize: number;
  readonly physicalSectorSize = 4096;
  readonly readOnly: boolean;
  readonly canDiscard = true;
  readonly canSecureDiscard = false;
  readonly discardGranularity = 4096;
  readonly discardAlignment = 0;
  flushErrno = 0;
  /** As every process sees it. */
  readonly cache: Map<number, Buffer>;
  /** Whether a write of so many bytes at a position fails. */
  fails: (position: number, bytes: number) => boolean = () => false;
  /** What was begun, e.g. "write 512+1024". */
  readonly log: string[] = [];
  closed = false;
  readonly #stable: Map<number, Buffer>;
  /** What each sector has been since the last flush, by its number. */
  readonly #since = new Map<number, Buffer[]>();
  readonly #dice: (() => number) | null;

  constructor(
    size: number,
    content: Content,
    { sectorSize = SECTOR, readOnly = false, dice }: CrashDiskOptions = {},
  ) {
    this.size = size;
    this.sectorSize = sectorSize;
    this.readOnly = readOnly;
    this.cache = new Map(content);
    this.#stable = new Map(content);
    this.#dice = dice ?? null;
  }

  /** Every sector that was not flushed is one of those that it has been since. */
  powerLoss(dice: () => number): Content {
    const left = new Map(this.#stable);
    for (const [sector, versions] of this.#since) {
      const choice = dice() % (versions.length + 1);
      if (choice > 0) left.set(sector, versions[choice - 1]);
    }
    return left;
  }

  read(position: number, to: IoVector, done: Done): void {
    void this.#run(`read ${position}+${to.bytes}`, done, async () => {
      let at = position;
      for (const view of views(to)) {
        for (let done = 0; done < view.length; done += SECTOR, at += SECTOR)
          view.set(this.cache.get(at / SECTOR) ?? ZEROS, done);
        if (this.#dice) await this.#pause();
      }
      return true;
    });
  }

  write(position: number, from: IoVector, done: Done): void {
    void this.#run(`write ${position}+${from.bytes}`, done, async () => {
      if (this.readOnly || this.flushErrno !== 0) return false;
      const failing = this.fails(position, from.bytes);
      const data = Buffer.concat(views(from));
      for (let at = 0; at < data.length; at += SECTOR) {
        if (failing && this.#roll() % 2) continue;
        this.#put(position + at, data.subarray(at, at + SECTOR));
        if (this.#dice && this.#roll() % 8 === 0) await this.#pause();
      }
      return !failing;
    });
  }

  flush(done: Done): void {
    const before = [...this.#since].map(([sector, versions]) => ({ sector, count: versions.length }));
    void this.#run("flush", done, async () => {
      if (this.flushErrno !== 0) return false;
      for (const { sector, count } of before) {
        const versions = this.#since.get(sector) ?? [];
        // Another flush may have gone further.
        const seen = versions.splice(0, Math.min(count, versions.length));
        const last = seen.at(-1);
        if (last) this.#stable.set(sector, last);
        if (versions.length === 0) this.#since.delete(sector);
      }
      return true;
    });
  }

  discard(position: number, length: number, _secure: boolean, done: Done): void {
    void this.#run(`discard ${position}+${length}`, done, async () => {
      for (let at = position; at < position + length; at += SECTOR) this.#put(at, Buffer.alloc(SECTOR));
      return true;
    });
  }

  async refreshSize(): Promise<boolean> {
    return false;
  }

  async close(): Promise<void> {
    this.closed = true;
  }

  #put(position: number, data: Buffer): void {
    this.cache.set(position / SECTOR, data);
    const versions = this.#since.get(position / SECTOR) ?? [];
    versions.push(data);
    this.#since.set(position / SECTOR, versions);
  }

  async #run(what: string, done: Done, act: () => Promise<boolean>): Promise<void> {
    this.log.push(what);
    await this.#pause();
    const good = !this.closed && (await act());
    done(good ? Result.Success : Result.Failure, good ? undefined : new Error(`${what} failed`));
  }

  async #pause(): Promise<void> {
    await turn();
    while (this.#dice && this.#roll() % 4 === 0) await turn();
  }

  #roll(): number {
    return this.#dice ? this.#dice() : 0;
  }
}
