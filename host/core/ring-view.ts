/**
 * What lies in a ring's linear memory, as numbers: what the host reads of it, with `blkif.ts`. Any thread may look, also while
 * the core works in another one: nothing is locked, and each number is one that stood there. Nothing here allocates, unless
 * its comment says so.
 */
import * as abi from "../../assembly/abi.js";
import { type Counters, countersOf } from "./counters.js";
import type { LinearMemory } from "./memory.js";
import { largeRegion, type Range, smallRegion } from "./windows.js";

const TWO_TO_32 = 4294967296;

const ioAt = (slot: number): number => abi.IOS + slot * abi.IO_BYTES;
const copyAt = (i: number): number => abi.COPIES + i * abi.COPY_BYTES;
const entryAt = (slot: number): number => abi.JOURNAL_ENTRIES + slot * abi.JOURNAL_ENTRY_BYTES;
const requestAt = (slot: number): number => abi.REQUESTS + slot * abi.REQUEST_BYTES;

export class RingView {
  readonly memory: LinearMemory;
  readonly #u8: Uint8Array;
  readonly #u16: Uint16Array;
  readonly #i16: Int16Array;
  readonly #u32: Uint32Array;

  constructor(memory: LinearMemory) {
    const { buffer } = memory.memory;
    this.memory = memory;
    this.#u8 = memory.u8;
    this.#u16 = new Uint16Array(buffer);
    this.#i16 = new Int16Array(buffer);
    this.#u32 = memory.u32;
  }

  // ---- What the ring was attached with: see RingConfig ----

  /** ABI_X86_64 or ABI_X86_32. */
  get layout(): number {
    return this.#u32[abi.CONFIG_ABI >> 2];
  }

  /** Slots of the ring. */
  get entries(): number {
    return this.#u32[abi.CONFIG_ENTRIES >> 2];
  }

  get features(): number {
    return this.#u32[abi.CONFIG_FEATURES >> 2];
  }

  get domid(): number {
    return this.#u32[abi.CONFIG_DOMID >> 2];
  }

  /** Bytes. */
  get sectorSize(): number {
    return this.#u32[abi.CONFIG_SECTOR_UNITS >> 2] * 512;
  }

  /** 512-byte sectors of the disk. */
  get sectors(): number {
    return this.u64(abi.CONFIG_SECTORS);
  }

  get maxIndirect(): number {
    return this.#u32[abi.CONFIG_MAX_INDIRECT >> 2];
  }

  get maxPersistent(): number {
    return this.#u32[abi.CONFIG_MAX_PERSISTENT >> 2];
  }

  get maxIo(): number {
    return this.#u32[abi.CONFIG_MAX_IO >> 2];
  }

  get passSegments(): number {
    return this.#u32[abi.CONFIG_PASS_SEGMENTS >> 2];
  }

  get passBytes(): number {
    return this.#u32[abi.CONFIG_PASS_BYTES >> 2];
  }

  // ---- The ring's free-running indices; the first four are in the guest's memory ----

  get reqProd(): number {
    return this.#u32[abi.SRING_REQ_PROD >> 2];
  }

  get reqEvent(): number {
    return this.#u32[abi.SRING_REQ_EVENT >> 2];
  }

  get rspProd(): number {
    return this.#u32[abi.SRING_RSP_PROD >> 2];
  }

  get rspEvent(): number {
    return this.#u32[abi.SRING_RSP_EVENT >> 2];
  }

  /** The core's index of the next request, as of the last step. */
  get reqCons(): number {
    return this.#u32[abi.OUT_REQ_CONS >> 2];
  }

  /** rsp_prod as the core knows it. */
  get rspProdPvt(): number {
    return this.#u32[abi.OUT_RSP_PROD >> 2];
  }

  // ---- What the last step has left ----

  /** Requests taken and not yet answered. */
  get inflight(): number {
    return this.#u32[abi.OUT_INFLIGHT >> 2];
  }

  /** Persistent grants that are mapped. */
  get persistentPages(): number {
    return this.#u32[abi.OUT_PERSISTENT >> 2];
  }

  get copies(): number {
    return this.#u32[abi.OUT_COPIES >> 2];
  }

  get maps(): number {
    return this.#u32[abi.OUT_MAPS >> 2];
  }

  get ios(): number {
    return this.#u32[abi.OUT_IOS >> 2];
  }

  /** Segments and bytes that the last pass has taken up. */
  get segmentsUsed(): number {
    return this.#u32[abi.OUT_PASS_SEGMENTS >> 2];
  }

  get bytesUsed(): number {
    return this.#u32[abi.OUT_PASS_BYTES >> 2];
  }

  /** Bytes of the reads and writes that were taken since the ring was attached. */
  get bytesTaken(): number {
    const sectors = this.#count(abi.COUNT_SECTORS_READ) + this.#count(abi.COUNT_SECTORS_WRITTEN);
    return sectors * 512;
  }

  /** All counters by name; allocates. */
  counters(): Counters {
    return countersOf((i) => this.#count(i));
  }

  #count(i: number): number {
    return this.u64(abi.COUNTERS + i * 8);
  }

  // ---- I/Os, each named by the slot of its first request ----

  /** The slot that names entry `i` of the I/Os to start. */
  ioSlot(i: number): number {
    return this.#u16[(abi.IO_LIST >> 1) + i];
  }

  /** IO_READ, IO_WRITE, IO_FLUSH or IO_DISCARD. */
  ioOperation(slot: number): number {
    return this.#u8[ioAt(slot) + abi.IO_OPERATION];
  }

  /** IO_PREFLUSH, IO_FUA, IO_SECURE. */
  ioFlags(slot: number): number {
    return this.#u8[ioAt(slot) + abi.IO_FLAGS];
  }

  /** Bytes that it reads or writes. */
  ioBytes(slot: number): number {
    return this.#u32[(ioAt(slot) + abi.IO_LENGTH) >> 2];
  }

  /** The same of any I/O, a discard included: as long as the disk, at most. */
  ioLength(slot: number): number {
    return this.u64(ioAt(slot) + abi.IO_SECTORS) * 512;
  }

  /** Its first 512-byte sector: the lower and the upper word. */
  ioSectorLow(slot: number): number {
    return this.#u32[(ioAt(slot) + abi.IO_SECTOR) >> 2];
  }

  ioSectorHigh(slot: number): number {
    return this.#u32[(ioAt(slot) + abi.IO_SECTOR + 4) >> 2];
  }

  /** The byte of the disk at which it begins. */
  ioPosition(slot: number): number {
    return (this.ioSectorLow(slot) + this.ioSectorHigh(slot) * TWO_TO_32) * 512;
  }

  /** Entries of its scatter list. */
  ioEntries(slot: number): number {
    return this.#u16[(ioAt(slot) + abi.IO_IOVECS) >> 1];
  }

  /** Requests that it carries. */
  ioRequests(slot: number): number {
    return this.#u16[(ioAt(slot) + abi.IO_REQUESTS) >> 1];
  }

  /** Byte offset of its scatter list: `struct iovec` with native addresses. */
  ioTable(slot: number): number {
    return abi.IOVECS + slot * (abi.IOVECS_PER_SLOT * abi.IOVEC_BYTES);
  }

  // ---- Completions of the next step ----

  completionSlot(i: number): number {
    return this.#u32[(abi.COMPLETIONS >> 2) + i] & 0xffff;
  }

  /** IO_RESULT_*. */
  completionResult(i: number): number {
    return this.#u32[(abi.COMPLETIONS >> 2) + i] >>> 16;
  }

  // ---- Grant operations ----

  /** The request that copy `i` is for. */
  copySlot(i: number): number {
    return this.#u16[(abi.COPY_OWNERS >> 1) + i];
  }

  /** COPY_SOURCE_GREF or COPY_DEST_GREF. */
  copyFlags(i: number): number {
    return this.#u16[(copyAt(i) + abi.COPY_FLAGS) >> 1];
  }

  /** A GNTST code. */
  copyStatus(i: number): number {
    return this.#i16[(copyAt(i) + abi.COPY_STATUS) >> 1];
  }

  mapStatus(i: number): number {
    return this.#i16[(abi.MAPS + i * abi.MAP_BYTES + abi.MAP_STATUS) >> 1];
  }

  /** Where the segments of an INDIRECT request in this slot are copied to. */
  segmentsOf(slot: number): number {
    return abi.SEGMENTS + slot * (abi.MAX_SEGMENTS * abi.SEGMENT_BYTES);
  }

  // ---- Requests, by slot ----

  /** Whether it was taken and is not answered. */
  isBusy(slot: number): boolean {
    return this.#u32[(entryAt(slot) + abi.JOURNAL_STATE) >> 2] === abi.JOURNAL_BUSY;
  }

  /** Requests taken since the ring was made; each has the number of those before it. */
  get taken(): number {
    return this.u64(abi.JOURNAL_TAKEN);
  }

  requestNumber(slot: number): number {
    return this.u64(entryAt(slot) + abi.JOURNAL_INDEX);
  }

  /** The lower word of its number, which is its free-running index in the ring. */
  requestIndex(slot: number): number {
    return this.#u32[(entryAt(slot) + abi.JOURNAL_INDEX) >> 2];
  }

  /** As it came from the ring; a view, which allocates. */
  requestBytes(slot: number): Uint8Array {
    const at = entryAt(slot) + abi.JOURNAL_REQUEST;
    return this.#u8.subarray(at, at + (abi.JOURNAL_ENTRY_BYTES - abi.JOURNAL_REQUEST));
  }

  /** 512-byte sectors that it reads, writes or discards; 0 if it was refused before they were counted. */
  requestSectors(slot: number): number {
    return this.u64(requestAt(slot) + abi.REQUEST_SECTORS);
  }

  /** BLKIF_RSP_*, once it is answered. */
  requestStatus(slot: number): number {
    return this.#i16[(requestAt(slot) + abi.REQUEST_STATUS) >> 1];
  }

  /** The slot of the i-th request that the last call of the core has answered. */
  answeredSlot(i: number): number {
    return this.#u16[(abi.ANSWERED_LIST >> 1) + i];
  }

  /** Where requests in flight may have their data, in ascending order; to be called between calls of step(). Allocates. */
  dataInFlight(): Range[] {
    const { inflight, entries } = this;
    if (inflight === 0) return [];
    const list = abi.FREE_SLOTS >> 1;
    const free = new Set(this.#u16.subarray(list, list + entries - inflight));
    const small: Range[] = [];
    const large: Range[] = [];
    for (let slot = 0; slot < entries; slot++) {
      if (free.has(slot)) continue;
      small.push(smallRegion(slot));
      const request = requestAt(slot);
      if (this.#u8[request + abi.REQUEST_FLAGS] & abi.REQUEST_IS_LARGE)
        large.push(largeRegion(this.#u8[request + abi.REQUEST_LARGE]));
    }
    return [...small, ...large.sort((a, b) => a.start - b.start)];
  }

  protected u64(at: number): number {
    return this.#u32[at >> 2] + this.#u32[(at + 4) >> 2] * TWO_TO_32;
  }
}
