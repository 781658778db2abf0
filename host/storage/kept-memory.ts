/**
 * The memory in which copies of writes are kept (kept-writes.ts): a file on tmpfs that outlives the daemon, or a memfd where
 * nothing is to outlive it. A header page, then a ring of records: 32 bytes that describe a write, and its data.
 *
 * What another process has left is judged before it is used: a header with a checksum, records with one each that follow one
 * another without a gap. Memory is allocated before it is written: a page that the file system cannot give would kill us.
 */
import { createHash } from "node:crypto";
import { closeSync, fstatSync, ftruncateSync, openSync, rmSync, statfsSync } from "node:fs";
import { fallocate, mapBuffer, tryLock, unmapBuffer } from "../platform/libc.js";
import { removePages, sealedMemory } from "../platform/sharing.js";
import { SECTOR } from "./geometry.js";

/** Bytes of the ring of records; a divisor of 2^32, at which the counters begin again. */
export const RING_BYTES = 32 << 20;
/** As many records at the most; those of 2 KiB and more reach the bytes first. */
export const MOST_RECORDS = RING_BYTES >> 11;
export const RECORD_BYTES = 32;
const HEADER_BYTES = 4096;
const FILE_BYTES = HEADER_BYTES + RING_BYTES;

/** "xbdbackK" */
const MAGIC = [0x62646278, 0x4b6b6361] as const;
const FORMAT = 1;
/** In the header, in words of 32 bits. Head and tail count the bytes that were forgotten and added. */
const Word = { magic: 0, format: 2, checksum: 3, checked: 4, bytes: 4, identity: 8, checkedEnd: 24 } as const;
const HEAD = 32;
const TAIL = 33;
const LOST = 34;
/** In a record, in words. A position has two. */
const Field = { position: 0, length: 2, number: 3, checksum: 4 } as const;

/** Allocated at a time. */
const STEP_BYTES = 1 << 20;
/** The part of a tmpfs that is left to others: guests fill this, and a full /run stops more than us. */
const LEFT_TO_OTHERS = 1 / 4;

export interface KeptRecord {
  readonly number: number;
  readonly position: number;
  readonly length: number;
}

/** What another process has left cannot be used: the message says why, of the file. */
export class KeptDamage extends Error {}

/** Another release has left it. */
export class KeptFormat extends KeptDamage {}

export class KeptMemory {
  readonly fd: number;
  /** The ring. */
  readonly data: Uint8Array;
  readonly #address: number;
  readonly #words: Int32Array;
  readonly #both: BigInt64Array;
  readonly #u32: Uint32Array;
  readonly #f64: Float64Array;

  /** Maps what {@link makeMemory}, {@link createFile} or {@link openFile} have returned; the descriptor stays the caller's. */
  constructor(fd: number) {
    this.fd = fd;
    const { address, bytes } = mapBuffer(fd, 0, FILE_BYTES, false);
    this.#address = address;
    this.#words = new Int32Array(bytes, 0, HEADER_BYTES / 4);
    this.#both = new BigInt64Array(bytes, 0, HEADER_BYTES / 8);
    this.#u32 = new Uint32Array(bytes, HEADER_BYTES);
    this.#f64 = new Float64Array(bytes, HEADER_BYTES);
    this.data = new Uint8Array(bytes, HEADER_BYTES);
  }

  /** Bytes of records. */
  get used(): number {
    return (Atomics.load(this.#words, TAIL) - Atomics.load(this.#words, HEAD)) >>> 0;
  }

  /** The errno of a write that was lost, or 0. */
  get lost(): number {
    return this.#words[LOST];
  }

  set lost(errno: number) {
    Atomics.store(this.#words, LOST, errno);
  }

  /** Where the next record goes, and the first one is. */
  get tail(): number {
    return (Atomics.load(this.#words, TAIL) >>> 0) % RING_BYTES;
  }

  get head(): number {
    return (Atomics.load(this.#words, HEAD) >>> 0) % RING_BYTES;
  }

  /** Begins at the ring's beginning again, in one store; it must be empty. */
  rewind(): void {
    Atomics.store(this.#both, HEAD / 2, 0n);
  }

  /** Describes a record at the tail, behind which its data are; it is there from the next {@link commit} on. */
  describe(number: number, position: number, length: number): void {
    const at = this.tail / 4;
    this.#f64[at / 2 + Field.position] = position;
    this.#u32[at + Field.length] = length;
    this.#u32[at + Field.number] = number;
    this.#u32[at + Field.checksum] = this.#checksumAt(this.tail);
  }

  /** The one store that makes a record be there, for whatever process looks next. */
  commit(length: number): void {
    Atomics.store(this.#words, TAIL, (this.#words[TAIL] + RECORD_BYTES + length) | 0);
  }

  /** So many bytes from the head are forgotten, in one store. */
  drop(bytes: number): void {
    Atomics.store(this.#words, HEAD, (this.#words[HEAD] + bytes) | 0);
  }

  /** The record at an offset of the ring. */
  recordAt(offset: number): KeptRecord {
    const at = offset / 4;
    return {
      position: this.#f64[at / 2 + Field.position],
      length: this.#u32[at + Field.length],
      number: this.#u32[at + Field.number],
    };
  }

  /** The length of the record at an offset. */
  lengthAt(offset: number): number {
    return this.#u32[offset / 4 + Field.length];
  }

  /** Its first record's number, and how many there are. Throws a {@link KeptDamage} unless all are as they were written. */
  check(): { first: number; count: number } {
    const { used, head } = this;
    let first = 0;
    let count = 0;
    if (used > RING_BYTES || used % RECORD_BYTES !== 0 || head % RECORD_BYTES !== 0)
      throw new KeptDamage(`it is said to hold ${used} bytes from ${head} on`);
    // To read a page that is not there needs room for it, too.
    const end = Math.min(head + used, RING_BYTES);
    if (used > 0 && fallocate(this.fd, 0, HEADER_BYTES, end) !== 0)
      throw new KeptDamage("there is no room for what it is said to hold");
    for (let at = 0; at < used; count++) {
      const offset = (head + at) % RING_BYTES;
      const { number, position, length } = this.recordAt(offset);
      if (count === 0) first = number;
      const sound =
        this.#checksumAt(offset) === this.#u32[offset / 4 + Field.checksum] &&
        number === (first + count) >>> 0 &&
        count < MOST_RECORDS &&
        isSectors(position, 0) &&
        isSectors(length, SECTOR) &&
        length <= used - at - RECORD_BYTES;
      if (!sound) throw new KeptDamage(`its record ${count + 1} is not one that was written`);
      at += RECORD_BYTES + length;
    }
    return { first, count };
  }

  /**
   * Allocates memory from the ring's beginning on, of which `from` bytes are allocated, for `needed` at the least; returns
   * how many there are then: `from` where there is no room.
   */
  allocate(from: number, needed: number): number {
    const end = Math.min(Math.ceil(needed / STEP_BYTES) * STEP_BYTES, RING_BYTES);
    if (!this.#hasRoom(end - from) || fallocate(this.fd, 0, HEADER_BYTES + from, end - from) !== 0)
      return from;
    return end;
  }

  /** Gives back what was allocated; the ring must be empty. */
  free(allocated: number): void {
    this.rewind();
    removePages(this.#address + HEADER_BYTES, allocated);
  }

  unmap(): void {
    unmapBuffer(this.#address, FILE_BYTES);
  }

  #checksumAt(offset: number): number {
    return hashOf(this.#u32, offset / 4, offset / 4 + Field.checksum);
  }

  #hasRoom(bytes: number): boolean {
    const { bavail, blocks, bsize } = statfsSync(`/proc/self/fd/${this.fd}`);
    // Of a tmpfs without a limit, as memfds have it, all is 0.
    return blocks === 0 || bavail * bsize - bytes >= blocks * bsize * LEFT_TO_OTHERS;
  }
}

/** Memory that ends with this process. A page of it costs nothing until it is written. */
export function makeMemory(): number {
  return sealedMemory("xbdback-kept", (fd) => ftruncateSync(fd, FILE_BYTES));
}

/** An empty file in the place of any other, for the disk of this identity. Throws the errors of open(2), and ENOSPC. */
export function createFile(path: string, identity: string): number {
  rmSync(path, { force: true });
  const fd = openSync(path, "wx+", 0o600);
  try {
    ftruncateSync(fd, FILE_BYTES);
    tryLock(fd, true);
    if (fallocate(fd, 0, 0, HEADER_BYTES) !== 0) {
      const why = `no room for ${path}, where writes are kept that are not flushed: free some space there`;
      throw Object.assign(new Error(why), { code: "ENOSPC" });
    }
    writeHeader(fd, identity);
    return fd;
  } catch (error) {
    closeSync(fd);
    rmSync(path, { force: true });
    throw error;
  }
}

/**
 * What another process has left for the disk of this identity; null where there is none. Throws a {@link KeptDamage} for what
 * cannot be used, and an error with the code EBUSY while another process has it.
 */
export function openFile(path: string, identity: string): number | null {
  let fd: number;
  try {
    fd = openSync(path, "r+");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
  try {
    const { size } = fstatSync(fd);
    if (size !== FILE_BYTES) throw new KeptDamage(`it has ${size} bytes, not ${FILE_BYTES}`);
    if (!tryLock(fd, true)) {
      const busy = new Error(`${path} is locked: the daemon that serves this disk is still running`);
      throw Object.assign(busy, { code: "EBUSY" });
    }
    if (fallocate(fd, 0, 0, HEADER_BYTES) !== 0) throw new KeptDamage("there is no room for its header");
    checkHeader(fd, identity);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function withHeader<T>(fd: number, action: (words: Uint32Array) => T): T {
  const { address, bytes } = mapBuffer(fd, 0, HEADER_BYTES, false);
  try {
    return action(new Uint32Array(bytes));
  } finally {
    unmapBuffer(address, HEADER_BYTES);
  }
}

function writeHeader(fd: number, identity: string): void {
  withHeader(fd, (words) => {
    words[Word.format] = FORMAT;
    words[Word.bytes] = RING_BYTES;
    words.set(digest(identity), Word.identity);
    words[Word.checksum] = hashOf(words, Word.checked, Word.checkedEnd);
    words.set(MAGIC, Word.magic);
  });
}

function checkHeader(fd: number, identity: string): void {
  withHeader(fd, (words) => {
    if (!same(words.subarray(Word.magic), MAGIC)) throw new KeptDamage("it does not begin as it must");
    const format = words[Word.format];
    if (format !== FORMAT) throw new KeptFormat(`it has format ${format}; this xbdback knows ${FORMAT}`);
    if (words[Word.checksum] !== hashOf(words, Word.checked, Word.checkedEnd))
      throw new KeptDamage("its header is damaged");
    if (words[Word.bytes] !== RING_BYTES || !same(words.subarray(Word.identity), digest(identity)))
      throw new KeptDamage("it is another disk's");
  });
}

function same(words: Uint32Array, expected: ArrayLike<number>): boolean {
  return Array.from(expected).every((word, i) => words[i] === word);
}

function digest(identity: string): Uint32Array {
  return new Uint32Array(Uint8Array.from(createHash("sha512").update(identity).digest()).buffer);
}

/** FNV-1a, word by word. */
function hashOf(words: Uint32Array, from: number, to: number): number {
  let hash = 0x811c9dc5;
  for (let i = from; i < to; i++) hash = Math.imul(hash ^ words[i], 0x01000193);
  return hash >>> 0;
}

function isSectors(bytes: number, least: number): boolean {
  return Number.isSafeInteger(bytes) && bytes >= least && bytes % SECTOR === 0;
}
