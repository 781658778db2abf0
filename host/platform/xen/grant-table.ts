/** Grants of other domains through /dev/xen/gntdev. */
import { closeSync, openSync } from "node:fs";
import { type LinearMemory, PAGE_SIZE } from "../../core/memory.js";
import { addressOf, ioctl, mapAnonymous, mapFixed, SystemError } from "../libc.js";
import { Gntst, type GrantTable } from "../ports.js";
import * as abi from "./abi.js";

/** What one MAP_GRANT_REF brought in: it goes as a whole, when the last of its pages has gone. */
interface Run {
  /** The kernel's name for it. */
  readonly index: number;
  readonly count: number;
  left: number;
}

/** What is mapped at the pages of one linear memory. */
interface Windows {
  readonly runs: (Run | null)[];
  mapped: number;
}

/**
 * A mapping of gntdev must not hold the whole of a 2 MiB piece of address space. Where a part of such a mapping goes, a PV
 * Linux invalidates all of the piece that the part's border lies in, as if it were a huge page to be split, and gntdev
 * unmaps every grant there: what is left of the mapping then has holes, and an I/O into one fails with EFAULT.
 */
const MAX_RUN = 256;

/** mmap says EAGAIN, and a copy GNTST_eagain, while the guest's page is paged out. */
const TRIES = 4;

export class XenGrantTable implements GrantTable {
  readonly #fd: number;
  readonly #windows = new Map<WebAssembly.Memory, Windows>();
  readonly #unmapArgument = new DataView(new ArrayBuffer(abi.UNMAP_BYTES));
  readonly #copyArgument = new DataView(new ArrayBuffer(abi.GRANT_COPY_BYTES));
  readonly #copyBytes = new Uint8Array(this.#copyArgument.buffer);
  #mapped = 0;
  #closed = false;

  /** Throws the error of open(2). */
  constructor() {
    this.#fd = openSync(abi.DEVICES.gntdev, "r+");
  }

  get mappedPages(): number {
    return this.#mapped;
  }

  map(
    memory: LinearMemory,
    at: number,
    domid: number,
    refs: Uint32Array,
    writable: boolean,
    status: Int16Array,
  ): void {
    this.unmap(memory, at, refs.length);
    for (let i = 0; i < refs.length; i += MAX_RUN) {
      const part = refs.subarray(i, i + MAX_RUN);
      this.#mapPart(memory, at + i * PAGE_SIZE, domid, part, writable, status.subarray(i, i + MAX_RUN));
    }
  }

  unmap(memory: LinearMemory, at: number, pages: number): void {
    const windows = this.#windows.get(memory.memory);
    if (windows === undefined) return;
    const end = at / PAGE_SIZE + pages;
    for (let page = at / PAGE_SIZE; page < end; page++) {
      const first = page;
      while (page < end && windows.runs[page] !== null) page++;
      if (page > first) this.#unmapPages(memory, windows, first, page);
    }
    if (windows.mapped === 0) this.#windows.delete(memory.memory);
  }

  copy(memory: LinearMemory, table: number, count: number): void {
    if (count === 0) return;
    if (!this.#copySegments(memory.base + table, count)) {
      // One that the kernel would not even try spoils the call for all: each for itself, so that it fails alone.
      for (let i = 0; i < count; i++) this.#copyAlone(memory, table + i * abi.SEGMENT_BYTES);
    }
    this.#copyPagedOut(memory, table, count);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    // The mappings of memories that are still in use stay until those are unmapped or the process ends.
    closeSync(this.#fd);
  }

  /** Maps as many of up to MAX_RUN pages as can be mapped. */
  #mapPart(
    memory: LinearMemory,
    at: number,
    domid: number,
    refs: Uint32Array,
    writable: boolean,
    status: Int16Array,
  ): void {
    status.fill(Gntst.okay, 0, refs.length);
    if (this.#mapRun(memory, at, domid, refs, writable)) return;
    // The kernel tells only that some of them are bad: a copy of one byte of each tells which, and why.
    this.#probe(domid, refs, status);
    for (let i = 0; i < refs.length; ) {
      let end = i;
      while (end < refs.length && status[end] === Gntst.okay) end++;
      if (end > i) this.#mapGood(memory, at, domid, refs, i, end, writable, status);
      i = end + 1;
    }
  }

  /** Maps all of the pages, or none and leaves anonymous pages. */
  #mapRun(memory: LinearMemory, at: number, domid: number, refs: Uint32Array, writable: boolean): boolean {
    const { length } = refs;
    const index = this.#announce(domid, refs);
    if (index < 0) return false;
    const run = { index, count: length, left: length };
    if (!this.#mapIndex(memory.base + at, length * PAGE_SIZE, index, writable)) {
      this.#release(run);
      return false;
    }
    let windows = this.#windows.get(memory.memory);
    if (windows === undefined) {
      const pages = memory.u8.length / PAGE_SIZE;
      this.#windows.set(
        memory.memory,
        (windows = { runs: new Array<Run | null>(pages).fill(null), mapped: 0 }),
      );
    }
    windows.runs.fill(run, at / PAGE_SIZE, at / PAGE_SIZE + length);
    windows.mapped += length;
    this.#mapped += length;
    return true;
  }

  /** Tells the kernel what is about to be mapped; returns the offset to map it by, or -1. */
  #announce(domid: number, refs: Uint32Array): number {
    const argument = new DataView(new ArrayBuffer(abi.MAP_REFS + refs.length * abi.MAP_REF_BYTES));
    argument.setUint32(abi.MAP_COUNT, refs.length, true);
    for (let i = 0; i < refs.length; i++) {
      argument.setUint32(abi.MAP_REFS + i * abi.MAP_REF_BYTES, domid, true);
      argument.setUint32(abi.MAP_REFS + i * abi.MAP_REF_BYTES + 4, refs[i], true);
    }
    try {
      ioctl(this.#fd, abi.IOCTL_GNTDEV_MAP_GRANT_REF, new Uint8Array(argument.buffer), "MAP_GRANT_REF");
    } catch (error) {
      if (error instanceof SystemError) return -1;
      throw error;
    }
    return Number(argument.getBigUint64(abi.MAP_INDEX, true));
  }

  /** The map hypercall happens here. A mapping that fails leaves a hole, which is filled at once. */
  #mapIndex(address: number, bytes: number, index: number, writable: boolean): boolean {
    for (let tries = 1; ; tries++) {
      try {
        mapFixed(address, bytes, this.#fd, index, writable);
        return true;
      } catch (error) {
        mapAnonymous(address, bytes);
        if (!(error instanceof SystemError)) throw error;
        if (error.code !== "EAGAIN" || tries === TRIES) return false;
      }
    }
  }

  /** Maps those that can be read. One that may not be written can still spoil the run for all. */
  #mapGood(
    memory: LinearMemory,
    at: number,
    domid: number,
    refs: Uint32Array,
    start: number,
    end: number,
    writable: boolean,
    status: Int16Array,
  ): void {
    const part = refs.subarray(start, end);
    if (part.length < refs.length && this.#mapRun(memory, at + start * PAGE_SIZE, domid, part, writable))
      return;
    for (let i = start; i < end; i++) {
      if (!this.#mapRun(memory, at + i * PAGE_SIZE, domid, refs.subarray(i, i + 1), writable)) {
        status[i] = Gntst.generalError;
      }
    }
  }

  /** `status[i]` becomes what Xen says to reading a byte of `refs[i]`. */
  #probe(domid: number, refs: Uint32Array, status: Int16Array): void {
    const bytes = new Uint8Array(refs.length * abi.SEGMENT_BYTES + 1);
    const table = new DataView(bytes.buffer);
    const address = addressOf(bytes);
    for (let i = 0; i < refs.length; i++) {
      const segment = i * abi.SEGMENT_BYTES;
      table.setUint32(segment + abi.SEGMENT_SOURCE + abi.FOREIGN_REF, refs[i], true);
      table.setUint16(segment + abi.SEGMENT_SOURCE + abi.FOREIGN_DOMID, domid, true);
      table.setBigUint64(segment + abi.SEGMENT_DEST, BigInt(address + bytes.length - 1), true);
      table.setUint16(segment + abi.SEGMENT_LENGTH, 1, true);
      table.setUint16(segment + abi.SEGMENT_FLAGS, abi.GNTCOPY_SOURCE_GREF, true);
    }
    const done = this.#copySegments(address, refs.length);
    for (let i = 0; i < refs.length; i++) {
      status[i] = done
        ? table.getInt16(i * abi.SEGMENT_BYTES + abi.SEGMENT_STATUS, true)
        : Gntst.generalError;
    }
  }

  /** The pages go before the grants: nobody may reach a page that its guest believes to have back. */
  #unmapPages(memory: LinearMemory, windows: Windows, first: number, end: number): void {
    mapAnonymous(memory.base + first * PAGE_SIZE, (end - first) * PAGE_SIZE);
    windows.mapped -= end - first;
    this.#mapped -= end - first;
    for (let page = first; page < end; page++) {
      const run = windows.runs[page] as Run;
      windows.runs[page] = null;
      if (--run.left === 0) this.#release(run);
    }
  }

  #release(run: Run): void {
    if (this.#closed) return;
    this.#unmapArgument.setBigUint64(abi.UNMAP_INDEX, BigInt(run.index), true);
    this.#unmapArgument.setUint32(abi.UNMAP_COUNT, run.count, true);
    const argument = new Uint8Array(this.#unmapArgument.buffer);
    ioctl(this.#fd, abi.IOCTL_GNTDEV_UNMAP_GRANT_REF, argument, "UNMAP_GRANT_REF");
  }

  /** False when the kernel refused the table as a whole: some segments may be done, and their statuses are void. */
  #copySegments(address: number, count: number): boolean {
    this.#copyArgument.setUint32(abi.GRANT_COPY_COUNT, count, true);
    this.#copyArgument.setBigUint64(abi.GRANT_COPY_SEGMENTS, BigInt(address), true);
    try {
      ioctl(this.#fd, abi.IOCTL_GNTDEV_GRANT_COPY, this.#copyBytes, "GRANT_COPY");
      return true;
    } catch (error) {
      if (error instanceof SystemError) return false;
      throw error;
    }
  }

  #copyAlone(memory: LinearMemory, segment: number): void {
    if (this.#copySegments(memory.base + segment, 1)) return;
    memory.u32[(segment + abi.SEGMENT_STATUS) >>> 2] = Gntst.badCopyArg & 0xffff;
  }

  #copyPagedOut(memory: LinearMemory, table: number, count: number): void {
    for (let i = 0; i < count; i++) {
      const segment = table + i * abi.SEGMENT_BYTES;
      const word = (segment + abi.SEGMENT_STATUS) >>> 2;
      for (let tries = 1; (memory.u32[word] << 16) >> 16 === Gntst.eagain && tries < TRIES; tries++) {
        this.#copyAlone(memory, segment);
      }
    }
  }
}
