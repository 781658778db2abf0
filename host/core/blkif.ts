/**
 * The core as a TypeScript host sees it: one instance, one ring, one linear memory. Nothing here knows Node, so a
 * browser can use it as it is.
 */
import * as abi from "../../assembly/abi.js";
import type { LinearMemory } from "./memory.js";
import { RingView } from "./ring-view.js";
import type { WasmModule } from "./webassembly.js";

/** What a ring is attached with; see the CONFIG_* fields of assembly/abi.ts. */
export interface RingConfig {
  /** ABI_X86_64 or ABI_X86_32. */
  readonly abi: number;
  /** Pages of the shared ring: 1, 2, 4, 8 or 16. */
  readonly ringPages: number;
  /** FEATURE_* bits. */
  readonly features: number;
  readonly domid: number;
  /** 512-byte sectors of the disk. */
  readonly sectors: number;
  /** Logical sector size in bytes: 512, 1024, 2048 or 4096. */
  readonly sectorSize: number;
  /** Segments that an INDIRECT may have, at most 256; 0 refuses INDIRECT. */
  readonly maxIndirect: number;
  /** Bytes that a coalesced I/O may reach. */
  readonly maxIo?: number;
  /** Requests that one pass takes at most. */
  readonly batch?: number;
  /** Segments and bytes that one pass takes up, see CONFIG_PASS_SEGMENTS; as many as there are, unless it is told otherwise. */
  readonly passSegments?: number;
  readonly passBytes?: number;
  /** Pages that persistent grants may keep mapped. */
  readonly maxPersistent?: number;
  /** Requests of more than 44 KiB that may have their data in linear memory at once; default: MAX_LARGE. */
  readonly maxLarge?: number;
  /** u32, at random and unknown to the guest; see CONFIG_HASH_KEY. */
  readonly hashKey?: number;
}

/** Pages that persistent grants may keep mapped, unless it is told otherwise: Linux's number. */
export const DEFAULT_MAX_PERSISTENT = 1056;

/** Requests that a pass takes at most, unless it is told otherwise. */
export const DEFAULT_BATCH = 64;

interface Exports {
  version(): number;
  attach(): number;
  recover(): number;
  step(completions: number): number;
  trim(now: number): number;
  idle(): number;
}

/** An I/O that the core asks for. `table` and `iovecs` describe the memory of a read or write. */
export interface CoreIo {
  readonly slot: number;
  /** IO_READ, IO_WRITE, IO_FLUSH or IO_DISCARD. */
  readonly operation: number;
  /** IO_PREFLUSH, IO_FUA, IO_SECURE. */
  readonly flags: number;
  /** Bytes. */
  readonly position: number;
  readonly length: number;
  /** Byte offset of the `struct iovec` table, and its entries. */
  readonly table: number;
  readonly iovecs: number;
}

/** A part of an I/O's memory. */
export interface Iovec {
  /** Byte offset in linear memory. */
  readonly offset: number;
  readonly length: number;
}

/** A copy between a page that a guest has granted and linear memory. */
export interface CoreCopy {
  readonly toGuest: boolean;
  /** Whose page it is. */
  readonly domid: number;
  readonly gref: number;
  /** The granted page's first byte of the copy. */
  readonly pageOffset: number;
  /** Byte offset in linear memory. */
  readonly offset: number;
  readonly length: number;
}

/** What an I/O does, by its IO_READ, IO_WRITE, IO_FLUSH or IO_DISCARD. */
export const IO_OPERATIONS = ["read", "write", "flush", "discard"] as const;
export type IoOperation = (typeof IO_OPERATIONS)[number];

const TWO_TO_32 = 4294967296;

/** The core that works in a memory: {@link RingView} reads, and what is here calls it and writes what it is told. */
export class BlkifCore extends RingView {
  readonly #exports: Exports;
  readonly #u16: Uint16Array;

  /**
   * `module` is blkif.wasm, `memory` exactly MEMORY_BYTES of shared memory for this ring alone.
   * Throws when the module speaks another ABI version than this host, and a `WebAssembly.LinkError` when the memory is of
   * another size.
   */
  constructor(module: WasmModule, memory: LinearMemory) {
    const instance = new WebAssembly.Instance(module as WebAssembly.Module, {
      env: { memory: memory.memory },
    });
    super(memory);
    this.#exports = instance.exports as unknown as Exports;
    this.#u16 = new Uint16Array(memory.memory.buffer);
    const version = this.#exports.version();
    if (version !== abi.ABI_VERSION) {
      throw new Error(
        `blkif.wasm has ABI version ${version}, this host ${abi.ABI_VERSION}: rebuild one of them`,
      );
    }
  }

  /** Starts on the ring that is mapped at SRING; returns an ATTACH_* code. */
  attach(config: RingConfig): number {
    this.#configure(config);
    return this.#exports.attach();
  }

  /**
   * Goes on with the ring that is mapped at SRING where the journal at JOURNAL says that another core ended; returns an
   * ATTACH_* code. What was agreed with the frontend then counts, whatever `features` and `maxIndirect` say.
   */
  recover(config: RingConfig): number {
    this.#configure(config);
    return this.#exports.recover();
  }

  #configure(config: RingConfig): void {
    const { u32 } = this.memory;
    const set = (field: number, value: number): void => {
      u32[field >> 2] = value;
    };
    set(abi.CONFIG_ABI, config.abi);
    set(abi.CONFIG_ENTRIES, config.ringPages * 32);
    set(abi.CONFIG_FEATURES, config.features);
    set(abi.CONFIG_DOMID, config.domid);
    this.#setU64(abi.CONFIG_BASE, this.memory.base);
    this.resize(config.sectors);
    set(abi.CONFIG_SECTOR_UNITS, config.sectorSize / 512);
    set(abi.CONFIG_MAX_INDIRECT, config.maxIndirect);
    set(abi.CONFIG_MAX_IO, config.maxIo ?? abi.MAX_IO);
    set(abi.CONFIG_BATCH, config.batch ?? DEFAULT_BATCH);
    this.setBudget(config.passSegments ?? abi.MAX_PASS_SEGMENTS, config.passBytes ?? abi.MAX_PASS_BYTES);
    set(abi.CONFIG_MAX_PERSISTENT, config.maxPersistent ?? DEFAULT_MAX_PERSISTENT);
    set(abi.CONFIG_MAX_LARGE, config.maxLarge ?? abi.MAX_LARGE);
    set(abi.CONFIG_HASH_KEY, config.hashKey ?? 0);
  }

  /** Tells the core the disk's new size in 512-byte sectors. */
  resize(sectors: number): void {
    this.#setU64(abi.CONFIG_SECTORS, sectors);
  }

  /** How many requests a pass takes at most. At 0 those in flight go on to their responses. */
  setBatch(batch: number): void {
    this.memory.u32[abi.CONFIG_BATCH >> 2] = batch;
  }

  /** How many segments and bytes the next pass takes up before it ends, at least 1 of each. */
  setBudget(segments: number, bytes: number): void {
    this.memory.u32[abi.CONFIG_PASS_SEGMENTS >> 2] = segments;
    this.memory.u32[abi.CONFIG_PASS_BYTES >> 2] = bytes;
  }

  /** See `step` in assembly/abi.ts. */
  step(completions: number): number {
    return this.#exports.step(completions);
  }

  /** See `idle` in assembly/abi.ts. */
  idle(): number {
    return this.#exports.idle();
  }

  /** Drops idle persistent grants; `now` in tenths of a second. The pages to unmap, in the core's order. */
  trim(now: number): number[] {
    const count = this.#exports.trim(now);
    const first = abi.UNMAPS >> 1;
    return Array.from(this.#u16.subarray(first, first + count));
  }

  /** Tells the frontend at which index of a request it wants the next event. */
  setReqEvent(index: number): void {
    this.memory.u32[abi.SRING_REQ_EVENT >> 2] = index;
  }

  /**
   * While nothing is in flight and no page is mapped: orders the lists of what is free as attach() does. What the core
   * does from then on depends on nothing that was before.
   */
  tidy(): void {
    const entries = this.memory.u32[abi.CONFIG_ENTRIES >> 2];
    const order = (list: number, length: number, nth: (i: number) => number): void => {
      for (let i = 0; i < length; i++) this.#u16[(list >> 1) + i] = nth(i);
    };
    order(abi.FREE_SLOTS, entries, (i) => entries - 1 - i);
    const large = this.memory.u32[abi.CONFIG_MAX_LARGE >> 2] || abi.MAX_LARGE;
    order(abi.FREE_LARGE, Math.min(large, entries), (i) => i);
    order(abi.FREE_PAGES, abi.MAX_PERSISTENT, (i) => abi.MAX_PERSISTENT - 1 - i);
  }

  /** Entry `i` of the I/Os to start. */
  io(i: number): CoreIo {
    return this.ioAt(this.ioSlot(i));
  }

  /** The I/O that a slot names. */
  ioAt(slot: number): CoreIo {
    return {
      slot,
      operation: this.ioOperation(slot),
      flags: this.ioFlags(slot),
      position: this.ioPosition(slot),
      length: this.ioLength(slot),
      table: this.ioTable(slot),
      iovecs: this.ioEntries(slot),
    };
  }

  /** Part `i` of an I/O's memory, `i` below its `iovecs`. */
  iovec({ table }: CoreIo, i: number): Iovec {
    const at = table + i * abi.IOVEC_BYTES;
    return { offset: this.u64(at) - this.memory.base, length: this.u64(at + 8) };
  }

  /** Entry `i` of the copies to carry out. */
  copy(i: number): CoreCopy {
    const at = abi.COPIES + i * abi.COPY_BYTES;
    const toGuest = this.#u16[(at + abi.COPY_FLAGS) >> 1] === abi.COPY_DEST_GREF;
    const [page, local] = toGuest ? [abi.COPY_DEST, abi.COPY_SOURCE] : [abi.COPY_SOURCE, abi.COPY_DEST];
    return {
      toGuest,
      domid: this.#u16[(at + page + 6) >> 1],
      gref: this.memory.u32[(at + page) >> 2],
      pageOffset: this.#u16[(at + page + 4) >> 1],
      offset: this.u64(at + local) - this.memory.base,
      length: this.#u16[(at + abi.COPY_LENGTH) >> 1],
    };
  }

  /** Every entry needs one before the next step: a GNTST code, 0 for success. */
  setCopyStatus(i: number, status: number): void {
    this.#u16[(abi.COPIES + i * abi.COPY_BYTES + abi.COPY_STATUS) >> 1] = status;
  }

  /** Notes completion number `i` of the next step: `result` is an IO_RESULT_*. */
  setCompletion(i: number, slot: number, result: number): void {
    this.memory.u32[(abi.COMPLETIONS >> 2) + i] = slot | (result << 16);
  }

  /** Entry `i` of the pages to map. */
  map(i: number): { gref: number; page: number } {
    const at = abi.MAPS + i * abi.MAP_BYTES;
    return {
      gref: this.memory.u32[(at + abi.MAP_GREF) >> 2],
      page: this.#u16[(at + abi.MAP_PAGE) >> 1],
    };
  }

  setMapStatus(i: number, status: number): void {
    this.#u16[(abi.MAPS + i * abi.MAP_BYTES + abi.MAP_STATUS) >> 1] = status;
  }

  #setU64(at: number, value: number): void {
    this.memory.u32[at >> 2] = value % TWO_TO_32;
    this.memory.u32[(at + 4) >> 2] = Math.floor(value / TWO_TO_32);
  }
}
