/** The I/Os that the core asks for: whether each one may be, and may be now. */
import * as abi from "../../assembly/abi.js";
import * as format from "../../assembly/session/format.js";
import type { BlkifCore, CoreIo } from "../core/blkif.js";
import { DATA_WINDOW, isWithin, PERSISTENT_WINDOW } from "../core/windows.js";
import type { SessionHeader } from "./file.js";
import { check } from "./violation.js";

/** A run of linear memory, in bytes. */
export interface MemoryRun {
  readonly at: number;
  readonly length: number;
}

/** An I/O with its memory, and how many requests it carries. */
export interface SessionIo extends CoreIo {
  readonly requests: number;
  /** Free-running ring index of its first request. */
  readonly index: number;
  readonly memory: readonly MemoryRun[];
}

const changesDisk = (io: CoreIo): boolean => io.operation === abi.IO_WRITE || io.operation === abi.IO_DISCARD;
const moves = (io: CoreIo): boolean => io.operation === abi.IO_READ || io.operation === abi.IO_WRITE;

export class SessionIos {
  /** Oldest first. */
  readonly underway: SessionIo[] = [];
  readonly #core: BlkifCore;
  readonly #header: SessionHeader;
  readonly #mapped: ReadonlyMap<number, number>;
  /** Bytes: the largest that the disk has been. */
  #largest: number;

  constructor(core: BlkifCore, header: SessionHeader, mapped: ReadonlyMap<number, number>) {
    this.#core = core;
    this.#header = header;
    this.#mapped = mapped;
    this.#largest = header.sectors * 512;
  }

  noteSize(sectors: number): void {
    this.#largest = Math.max(this.#largest, sectors * 512);
  }

  /** Takes over the I/Os of the last call; `told` hears of each before it is checked. */
  start(told: (io: SessionIo) => void): void {
    for (let i = 0; i < this.#core.ios; i++) {
      const io = this.#read(this.#core.io(i));
      told(io);
      this.#checkKind(io);
      this.#checkMemory(io);
      for (const other of this.underway) checkOrder(io, other);
      this.underway.push(io);
    }
  }

  #read(io: CoreIo): SessionIo {
    const count = Math.min(io.iovecs, abi.IOVECS_PER_SLOT);
    const memory = Array.from({ length: count }, (_, i): MemoryRun => {
      const { offset, length } = this.#core.iovec(io, i);
      return { at: offset, length };
    });
    const requests = this.#core.ioRequests(io.slot);
    const index = this.#core.requestIndex(io.slot);
    return { ...io, requests, index, memory };
  }

  #checkKind(io: SessionIo): void {
    const { features, sectorSize } = this.#header;
    check(io.slot < this.#header.ringPages * 32 && io.operation <= abi.IO_DISCARD, format.BAD_IO);
    check(!this.underway.some((other) => other.slot === io.slot), format.BAD_IO);
    check(io.flags === 0 || changesDisk(io), format.BAD_IO);
    if (features & abi.FEATURE_READ_ONLY) check(!changesDisk(io), format.BAD_IO);
    if (io.operation === abi.IO_DISCARD) check((features & abi.FEATURE_DISCARD) !== 0, format.BAD_IO);
    if (io.operation === abi.IO_FLUSH) return;
    check(io.length !== 0 && io.position + io.length <= this.#largest, format.BAD_RANGE);
    check(io.position % sectorSize === 0 && io.length % sectorSize === 0, format.BAD_RANGE);
  }

  #checkMemory(io: SessionIo): void {
    if (!moves(io)) {
      check(io.iovecs === 0 && io.requests === 1, format.BAD_IOVEC);
      return;
    }
    check(io.iovecs !== 0 && io.iovecs === io.memory.length, format.BAD_IOVEC);
    check(io.requests === 1 || io.length <= this.#header.maxIo, format.BAD_IOVEC);
    check(io.memory.reduce((sum, run) => sum + run.length, 0) === io.length, format.BAD_IOVEC);
    for (const run of io.memory) check(this.#isOurs(run), format.BAD_IOVEC);
  }

  /** The data window, or pages of persistent grants that are mapped. */
  #isOurs({ at, length }: MemoryRun): boolean {
    if (length === 0) return false;
    if (isWithin(DATA_WINDOW, at, length)) return true;
    if (!isWithin(PERSISTENT_WINDOW, at, length)) return false;
    const offset = at - PERSISTENT_WINDOW.start;
    const last = Math.floor((offset + length - 1) / abi.PAGE);
    for (let page = Math.floor(offset / abi.PAGE); page <= last; page++)
      if (!this.#mapped.has(page)) return false;
    return true;
  }
}

function checkOrder(io: SessionIo, other: SessionIo): void {
  const apart = io.position + io.length <= other.position || other.position + other.length <= io.position;
  const flush = io.operation === abi.IO_FLUSH || other.operation === abi.IO_FLUSH;
  check(apart || flush || !(changesDisk(io) || changesDisk(other)), format.BAD_ORDER);
  const flushes = io.operation === abi.IO_FLUSH || (io.flags & abi.IO_PREFLUSH) !== 0;
  // Ages as differences of free-running indices.
  if (flushes && changesDisk(other)) check(((io.index - other.index) | 0) < 0, format.BAD_ORDER);
  // Of a barrier: nothing goes along with it.
  check(((io.flags | other.flags) & abi.IO_FUA) === 0, format.BAD_ORDER);
}
