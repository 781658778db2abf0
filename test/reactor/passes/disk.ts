/** A ring's part of a disk: its I/Os end when the test says so, and each sector holds the number of who wrote it. */
import * as abi from "../../../assembly/abi.js";
import type { BlkifCore, CoreIo } from "../../../host/core/blkif.js";
import { PAGE_SIZE } from "../../../host/core/memory.js";
import type { IoOwner, IoQueue } from "../../../host/reactor/io-queue.js";
import { Result } from "../../../host/storage/device.js";
import { insist } from "./faults.js";

const SECTOR = 512;
const WORDS = SECTOR / 4;

/** Fills sectors with who wrote them. */
export function stamp(bytes: Uint8Array, who: number): void {
  new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4).fill(who);
}

/** Who wrote a sector; fails where several did. */
export function stampOf(bytes: Uint8Array): number {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, WORDS);
  for (const at of [1, 2, WORDS - 1]) insist(words[at] === words[0], "a sector is torn");
  return words[0];
}

interface Started {
  readonly io: CoreIo;
  /** Its memory, a sector an entry. */
  readonly memory: number[];
  /** Of a write: what it wrote when it was started. */
  readonly stamps: number[];
}

export class Disk {
  readonly stamps: Uint32Array;
  readonly underway: Started[] = [];
  #core!: BlkifCore;
  #owner!: IoOwner;

  constructor(sectors: number) {
    this.stamps = new Uint32Array(sectors);
  }

  readonly makeQueue = (core: BlkifCore, owner: IoOwner): IoQueue => {
    this.#core = core;
    this.#owner = owner;
    return {
      start: (slot) => this.#start(slot),
      close: () => insist(this.underway.length === 0, "closed under an I/O"),
    };
  };

  /** Whether an I/O has its data in this page. */
  uses(page: number): boolean {
    return this.underway.some(({ memory }) => memory.some((at) => at >= page && at < page + PAGE_SIZE));
  }

  #start(slot: number): void {
    const core = this.#core;
    insist(!this.underway.some(({ io }) => io.slot === slot), `the I/O of slot ${slot} is started twice`);
    const io = core.ioAt(slot);
    const memory: number[] = [];
    for (let i = 0; i < io.iovecs; i++) {
      const { offset, length } = core.iovec(io, i);
      for (let at = offset; at < offset + length; at += SECTOR) memory.push(at);
    }
    const data = io.operation === abi.IO_READ || io.operation === abi.IO_WRITE;
    insist(memory.length * SECTOR === (data ? io.length : 0), "an I/O is not as long as its memory");
    const stamps = io.operation === abi.IO_WRITE ? this.#read(memory) : [];
    this.underway.push({ io, memory, stamps });
  }

  #read(memory: readonly number[]): number[] {
    return memory.map((at) => stampOf(this.#sector(at)));
  }

  #sector(at: number): Uint8Array {
    return this.#core.memory.u8.subarray(at, at + SECTOR);
  }

  /** Ends the nth of those under way. */
  end(nth: number, result: Result): void {
    const [{ io, memory, stamps }] = this.underway.splice(nth, 1);
    const first = io.position / SECTOR;
    if (io.operation === abi.IO_WRITE) {
      const now = this.#read(memory);
      insist(
        stamps.every((who, i) => now[i] === who),
        "data changed under an I/O",
      );
    }
    if (result === Result.Success) {
      if (io.operation === abi.IO_WRITE) this.stamps.set(stamps, first);
      else if (io.operation === abi.IO_DISCARD) this.stamps.fill(0, first, first + io.length / SECTOR);
    }
    if (io.operation === abi.IO_READ) {
      memory.forEach((at, i) => {
        stamp(this.#sector(at), result === Result.Success ? this.stamps[first + i] : 0xbad);
      });
    }
    this.#owner.ended(io.slot, result, new Error("as the test wants it"));
  }
}
