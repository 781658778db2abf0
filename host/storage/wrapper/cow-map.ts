/**
 * Which sectors of a disk are in its overlay, in memory and on the overlay's device. Bits are set and never cleared. Of each
 * page there are two on the device:
 *
 * - _written_: stored before the write is done, and not flushed. It survives the process, as all that the kernel has.
 * - _stable_: stored by a flush, after the data are on stable storage. It survives the machine: the kernel may have put a
 *   written page on the disk before its data.
 *
 * Which of them counts is told by the machine's boot.
 */
import { constants } from "node:os";
import { type BlockDevice, type Done, Result } from "../device.js";
import { type CowHeader, damaged, PAGE, pageAt, pagesOf, SECTORS_A_PAGE } from "./cow-header.js";
import { flushed, PageMover } from "./cow-pages.js";

/** Pages that are read at once when an overlay is opened. */
const PAIRS_A_READ = 32;

interface Page {
  readonly index: number;
  readonly bits: Uint8Array;
  /** Changed since the last time that it began to be stored as a written page. */
  dirty: boolean;
  storing: boolean;
  /** Never stored: no write that needs it is done. */
  fresh: boolean;
  /** Why it could not be stored the last time. */
  failure: Error | null;
}

interface Waiter {
  readonly pages: readonly Page[];
  readonly done: Done;
}

export class CowMap {
  readonly #device: BlockDevice;
  readonly #sectorSize: number;
  /** Those without a bit are left out. */
  readonly #pages = new Map<number, Page>();
  readonly #dirty = new Set<Page>();
  /** Whose stable page lacks bits. */
  readonly #unstable = new Set<Page>();
  readonly #written: PageMover;
  readonly #stable: PageMover;
  #waiters: Waiter[] = [];
  #storing = false;
  #flushers: Done[] = [];
  #flushing = false;

  /** The device stays the caller's. */
  private constructor(device: BlockDevice, sectorSize: number) {
    this.#device = device;
    this.#sectorSize = sectorSize;
    this.#written = new PageMover(device);
    this.#stable = new PageMover(device);
  }

  /**
   * Reads the pages of an overlay. Where the machine has booted since, written pages are made what the stable ones are, unless
   * `readOnly`; the header is to be written after that. Rejects with a DeviceError, or with why the device does not do it.
   */
  static async load(
    path: string,
    device: BlockDevice,
    header: CowHeader,
    { sameBoot, readOnly }: { sameBoot: boolean; readOnly: boolean },
  ): Promise<CowMap> {
    const map = new CowMap(device, header.sectorSize);
    const pairs = pagesOf(header);
    const count = Math.min(PAIRS_A_READ, pairs);
    const mover = new PageMover(device, count * 2 * PAGE);
    for (let next = 0; next < pairs; next += count) {
      // The last ones once more, where it does not come out even.
      const first = Math.min(next, pairs - count);
      const bytes = Buffer.from(await mover.read(pageAt(first)));
      if (isZero(bytes)) continue;
      for (let i = 0; i < count; i++) {
        const written = bytes.subarray(i * 2 * PAGE, (i * 2 + 1) * PAGE);
        const stable = bytes.subarray((i * 2 + 1) * PAGE, (i * 2 + 2) * PAGE);
        await map.#take(first + i, written, stable, sameBoot, readOnly);
      }
    }
    if (!map.#endsAt(header.size / header.sectorSize))
      throw damaged(path, "it has sectors beyond the end of the disk");
    return map;
  }

  /** From a position of the disk, how many bytes are alike, of `most`, and whether they are in the overlay. */
  run(position: number, most: number): { written: boolean; length: number } {
    const first = position / this.#sectorSize;
    const end = first + most / this.#sectorSize;
    const written = this.#has(first);
    let sector = first + 1;
    while (sector < end && this.#has(sector) === written) sector++;
    return { written, length: (sector - first) * this.#sectorSize };
  }

  /**
   * These bytes of the disk are in the overlay, whose data were written before. `done` comes when that will be known after
   * the end of this process; perhaps before this returns.
   */
  mark(position: number, length: number, done: Done): void {
    const first = position / this.#sectorSize;
    const end = first + length / this.#sectorSize;
    const pages: Page[] = [];
    for (let sector = first; sector < end; ) {
      const page = this.#page(Math.floor(sector / SECTORS_A_PAGE));
      const pageEnd = Math.min(end, (page.index + 1) * SECTORS_A_PAGE);
      this.#set(page, sector % SECTORS_A_PAGE, pageEnd - page.index * SECTORS_A_PAGE);
      // Others may have set its bits, and wait for them to be stored.
      if (page.dirty || page.storing) pages.push(page);
      sector = pageEnd;
    }
    if (pages.length === 0) {
      done(Result.Success);
      return;
    }
    this.#waiters.push({ pages, done });
    if (!this.#storing) void this.#store();
  }

  /** All that was marked before is on stable storage when it succeeds. A failure is for good. */
  flush(done: Done): void {
    this.#flushers.push(done);
    if (!this.#flushing) void this.#flush();
  }

  #has(sector: number): boolean {
    const page = this.#pages.get(Math.floor(sector / SECTORS_A_PAGE));
    if (!page) return false;
    const bit = sector % SECTORS_A_PAGE;
    return (page.bits[bit >> 3] & (1 << (bit & 7))) !== 0;
  }

  #page(index: number): Page {
    let page = this.#pages.get(index);
    if (!page) {
      page = { index, bits: new Uint8Array(PAGE), dirty: false, storing: false, fresh: true, failure: null };
      this.#pages.set(index, page);
    }
    return page;
  }

  #set(page: Page, first: number, end: number): void {
    const { bits } = page;
    let changed = false;
    for (let bit = first; bit < end; bit++) {
      const mask = 1 << (bit & 7);
      if (bits[bit >> 3] & mask) continue;
      bits[bit >> 3] |= mask;
      changed = true;
    }
    if (!changed) return;
    page.dirty = true;
    this.#dirty.add(page);
    this.#unstable.add(page);
  }

  /** Stores written pages, round by round: who comes during one is answered at the end of the next. */
  async #store(): Promise<void> {
    this.#storing = true;
    while (this.#waiters.length > 0) {
      const waiters = this.#waiters;
      this.#waiters = [];
      for (const page of [...this.#dirty]) await this.#storePage(page);
      for (const { pages, done } of waiters) {
        const failed = pages.find(({ failure }) => failure !== null);
        if (failed?.failure) done(Result.Failure, failed.failure);
        else done(Result.Success);
      }
    }
    this.#storing = false;
  }

  async #storePage(page: Page): Promise<void> {
    this.#dirty.delete(page);
    page.dirty = false;
    page.storing = true;
    try {
      const at = pageAt(page.index);
      // So that a flush does not find the file system full.
      if (page.fresh) await this.#stable0(at + PAGE);
      await this.#written.write(at, page.bits);
      page.fresh = false;
      page.failure = null;
    } catch (error) {
      page.failure = error as Error;
      page.dirty = true;
      this.#dirty.add(page);
    }
    page.storing = false;
  }

  /** A stable page without a bit. */
  #stable0(at: number): Promise<void> {
    return this.#written.write(at, new Uint8Array(PAGE));
  }

  async #flush(): Promise<void> {
    this.#flushing = true;
    while (this.#flushers.length > 0) {
      const flushers = this.#flushers;
      this.#flushers = [];
      const failure = await this.#stabilize().then(
        () => null,
        (error: Error) => error,
      );
      // What is written is not known to be stable: as after any flush that fails.
      if (failure) this.#device.flushErrno ||= constants.errno.EIO;
      for (const done of flushers) {
        if (failure) done(Result.Failure, failure);
        else done(Result.Success);
      }
    }
    this.#flushing = false;
  }

  async #stabilize(): Promise<void> {
    // Bits that are set from now on may be of data that the next line does not flush.
    const pages = [...this.#unstable].filter(({ fresh }) => !fresh);
    const copies = pages.map(({ index, bits }) => ({ index, bits: bits.slice() }));
    for (const page of pages) this.#unstable.delete(page);
    await flushed(this.#device);
    for (const { index, bits } of copies) await this.#stable.write(pageAt(index) + PAGE, bits);
    if (copies.length > 0) await flushed(this.#device);
  }

  /** A pair of pages as they are on the device. */
  async #take(
    index: number,
    written: Uint8Array,
    stable: Uint8Array,
    sameBoot: boolean,
    readOnly: boolean,
  ): Promise<void> {
    if (isZero(written) && isZero(stable)) return;
    const page = this.#page(index);
    page.fresh = false;
    // A stable bit that is not written: its page could not be stored once.
    for (let i = 0; i < PAGE; i++) page.bits[i] = stable[i] | (sameBoot ? written[i] : 0);
    if (readOnly) return;
    if (Buffer.compare(page.bits, written) !== 0) await this.#written.write(pageAt(index), page.bits);
    if (Buffer.compare(page.bits, stable) !== 0) this.#unstable.add(page);
  }

  #endsAt(sectors: number): boolean {
    const page = this.#pages.get(Math.floor(sectors / SECTORS_A_PAGE));
    if (!page) return true;
    for (let sector = sectors; sector < (page.index + 1) * SECTORS_A_PAGE; sector++)
      if (this.#has(sector)) return false;
    return true;
  }
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}
