/**
 * The file that a ring's journal lies in, on tmpfs: what is in flight outlives the process, because the pages are the
 * file's (docs/restart.md). The lock on it is held by whoever serves the ring, until the process is gone.
 */
import { closeSync, fstatSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import * as abi from "../../assembly/abi.js";
import type { LinearMemory } from "../core/memory.js";
import { mapAnonymous, mapFixed, tryLock } from "../platform/libc.js";

export const JOURNAL_BYTES = abi.JOURNAL_END - abi.JOURNAL;

/** The host's words, which every release keeps where they are. u32: see {@link noteFlushErrno}. */
const FLUSH_ERRNO = abi.JOURNAL_HOST;
/** f64: milliseconds of the machine's monotonic clock when the ring was handed over; 0 when it was not. */
const HANDED_OVER = abi.JOURNAL_HOST + 8;
/** u32: 1 when all that was sent to the ring's disk is answered, and the disk closed; 0 while it is served, and after a kill. */
const SETTLED = abi.JOURNAL_HOST + 16;

/** What is on a file before it is mapped. */
export interface JournalHeader {
  /** False in a file that no core has begun: nothing was ever in flight. */
  readonly begun: boolean;
  /** The layout's version. */
  readonly format: number;
  /** The checksum is right; what is below means nothing otherwise. */
  readonly intact: boolean;
  /** What tells its ring from others. */
  readonly identity: Buffer;
}

export class RingJournal {
  readonly path: string;
  readonly #fd: number;
  #memory: LinearMemory | null = null;
  #closed = false;

  private constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
  }

  /**
   * A new one, in the place of any other, of zeros but for JOURNAL_IDENTITY_BYTES of `identity`. Throws when there is no
   * room for all of it: a page that the file system cannot give would kill us when the core writes there.
   */
  static create(path: string, identity: Uint8Array): RingJournal {
    rmSync(path, { force: true });
    let fd = -1;
    try {
      fd = openSync(path, "wx+", 0o600);
      const bytes = new Uint8Array(JOURNAL_BYTES);
      bytes.set(identity, abi.JOURNAL_IDENTITY - abi.JOURNAL);
      for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
      tryLock(fd, true);
      return new RingJournal(path, fd);
    } catch (error) {
      if (fd >= 0) closeSync(fd);
      rmSync(path, { force: true });
      throw (error as NodeJS.ErrnoException).code === "ENOSPC" ? noRoom(path) : error;
    }
  }

  /** One that another process has left; null while that process, or another, still has it. Throws open(2)'s errors. */
  static open(path: string): RingJournal | null {
    const fd = openSync(path, "r+");
    const { size } = fstatSync(fd);
    if (size === JOURNAL_BYTES && tryLock(fd, true)) return new RingJournal(path, fd);
    closeSync(fd);
    if (size !== JOURNAL_BYTES) throw new Error(`${path} has ${size} bytes, not ${JOURNAL_BYTES}`);
    return null;
  }

  /** Null when there is no such file. */
  static header(path: string): JournalHeader | null {
    const bytes = new Uint8Array(abi.JOURNAL_CHECKED_END - abi.JOURNAL);
    let fd: number;
    try {
      fd = openSync(path, "r");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
      throw error;
    }
    try {
      readSync(fd, bytes);
    } finally {
      closeSync(fd);
    }
    const words = new Uint32Array(bytes.buffer);
    const word = (at: number): number => words[(at - abi.JOURNAL) >> 2];
    return {
      begun:
        word(abi.JOURNAL_MAGIC) === abi.JOURNAL_MAGIC_LOW &&
        word(abi.JOURNAL_MAGIC + 4) === abi.JOURNAL_MAGIC_HIGH,
      format: word(abi.JOURNAL_FORMAT),
      intact:
        word(abi.JOURNAL_CHECKSUM) === checksum(words.subarray((abi.JOURNAL_CHECKED - abi.JOURNAL) >> 2)),
      identity: Buffer.from(bytes.subarray(abi.JOURNAL_IDENTITY - abi.JOURNAL)),
    };
  }

  /** Puts the file's pages into a ring's memory, until {@link release}. */
  map(memory: LinearMemory): void {
    mapFixed(memory.base + abi.JOURNAL, JOURNAL_BYTES, this.#fd, 0, true);
    this.#memory = memory;
  }

  /** The errno of an fdatasync that failed for the process before, or 0. */
  get flushErrno(): number {
    return new Uint32Array(this.#read(FLUSH_ERRNO, 4))[0];
  }

  /** When the ring was handed over, in milliseconds of the monotonic clock; 0 when its process was killed. */
  get handedOver(): number {
    return new Float64Array(this.#read(HANDED_OVER, 8))[0];
  }

  set handedOver(milliseconds: number) {
    writeSync(this.#fd, new Float64Array([milliseconds]), 0, 8, HANDED_OVER - abi.JOURNAL);
  }

  /** Whether the process before has waited for all that it had sent to the ring's disk. */
  get settled(): boolean {
    return new Uint32Array(this.#read(SETTLED, 4))[0] !== 0;
  }

  /** To be called before a ring is begun again: whoever comes next must not take what we say for what was said to us. */
  unsettle(): void {
    this.handedOver = 0;
    writeSync(this.#fd, new Uint32Array([0]), 0, 4, SETTLED - abi.JOURNAL);
  }

  /**
   * To be called when the ring is detached, and so the journal released, and its disk is closed; `flushErrno` is the disk's.
   * A file that is gone stays so.
   */
  settle(flushErrno: number): void {
    let fd: number;
    try {
      fd = openSync(this.path, "r+");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
      throw error;
    }
    try {
      if (flushErrno !== 0) writeSync(fd, new Uint32Array([flushErrno]), 0, 4, FLUSH_ERRNO - abi.JOURNAL);
      writeSync(fd, new Uint32Array([1]), 0, 4, SETTLED - abi.JOURNAL);
    } finally {
      closeSync(fd);
    }
  }

  /** Takes the pages out of the memory, which gets zeros there, and lets the file go, which stays. */
  release(): void {
    if (this.#closed) return;
    this.#closed = true;
    // The mapping would keep the lock, too.
    if (this.#memory) mapAnonymous(this.#memory.base + abi.JOURNAL, JOURNAL_BYTES);
    this.#memory = null;
    closeSync(this.#fd);
  }

  /** {@link release}, and the file is gone: nobody is to go on with this ring. */
  remove(): void {
    rmSync(this.path, { force: true });
    this.release();
  }

  #read(at: number, bytes: number): ArrayBuffer {
    const buffer = new ArrayBuffer(bytes);
    readSync(this.#fd, new Uint8Array(buffer), 0, bytes, at - abi.JOURNAL);
    return buffer;
  }
}

/**
 * Notes in the journal that is mapped here that an fdatasync of the ring's disk has failed, before anybody is told: the
 * kernel tells that once, and who goes on with the ring must not believe a later success.
 */
export function noteFlushErrno(memory: LinearMemory, errno: number): void {
  if (errno !== 0) memory.u32[FLUSH_ERRNO >> 2] = errno;
}

/** FNV-1a, word by word, as the core makes it. */
function checksum(words: Uint32Array): number {
  let hash = 0x811c9dc5;
  for (const word of words) hash = Math.imul(hash ^ word, 0x01000193);
  return hash >>> 0;
}

function noRoom(path: string): Error {
  return new Error(
    `no room for ${path} (${JOURNAL_BYTES >> 10} KiB), where the journal of a ring is kept: free some space there`,
  );
}
