/**
 * The file that a ring's journal lies in, on tmpfs: what is in flight outlives the process, because the pages are the
 * file's (docs/restart.md). The lock on it is held by whoever serves the ring, until the process is gone.
 */
import { closeSync, fstatSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import {
  JOURNAL_BYTES,
  JOURNAL_HEADER_BYTES,
  JournalField,
  type JournalHeader,
  readJournalHeader,
} from "../core/journal.js";
import type { LinearMemory } from "../core/memory.js";
import { JOURNAL } from "../core/windows.js";
import { mapAnonymous, mapFixed, tryLock } from "../platform/libc.js";

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
      bytes.set(identity, JournalField.identity);
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
    const bytes = new Uint8Array(JOURNAL_HEADER_BYTES);
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
    return readJournalHeader(bytes);
  }

  /** Puts the file's pages into a ring's memory, until {@link release}. */
  map(memory: LinearMemory): void {
    mapFixed(memory.base + JOURNAL.start, JOURNAL_BYTES, this.#fd, 0, true);
    this.#memory = memory;
  }

  /** The errno of an fdatasync that failed for the process before, or 0. */
  get flushErrno(): number {
    return new Uint32Array(this.#read(JournalField.flushErrno, 4))[0];
  }

  /** When the ring was handed over, in milliseconds of the monotonic clock; 0 when its process was killed. */
  get handedOver(): number {
    return new Float64Array(this.#read(JournalField.handedOver, 8))[0];
  }

  set handedOver(milliseconds: number) {
    writeSync(this.#fd, new Float64Array([milliseconds]), 0, 8, JournalField.handedOver);
  }

  /** Whether the process before has waited for all that it had sent to the ring's disk. */
  get settled(): boolean {
    return new Uint32Array(this.#read(JournalField.settled, 4))[0] !== 0;
  }

  /** To be called before a ring is begun again: whoever comes next must not take what we say for what was said to us. */
  unsettle(): void {
    this.handedOver = 0;
    writeSync(this.#fd, new Uint32Array([0]), 0, 4, JournalField.settled);
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
      if (flushErrno !== 0) writeSync(fd, new Uint32Array([flushErrno]), 0, 4, JournalField.flushErrno);
      writeSync(fd, new Uint32Array([1]), 0, 4, JournalField.settled);
    } finally {
      closeSync(fd);
    }
  }

  /** Takes the pages out of the memory, which gets zeros there, and lets the file go, which stays. */
  release(): void {
    if (this.#closed) return;
    this.#closed = true;
    // The mapping would keep the lock, too.
    if (this.#memory) mapAnonymous(this.#memory.base + JOURNAL.start, JOURNAL_BYTES);
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
    readSync(this.#fd, new Uint8Array(buffer), 0, bytes, at);
    return buffer;
  }
}

/**
 * Notes in the journal that is mapped here that an fdatasync of the ring's disk has failed, before anybody is told: the
 * kernel tells that once, and who goes on with the ring must not believe a later success.
 */
export function noteFlushErrno(memory: LinearMemory, errno: number): void {
  if (errno !== 0) memory.u32[(JOURNAL.start + JournalField.flushErrno) >> 2] = errno;
}

function noRoom(path: string): Error {
  return new Error(
    `no room for ${path} (${JOURNAL_BYTES >> 10} KiB), where the journal of a ring is kept: free some space there`,
  );
}
