/**
 * One core with everything around it played by plain JavaScript: guest pages by grant ref, a disk in an array, and a
 * host that carries out what step() asks for. Nothing is asynchronous: the test decides what completes, and when.
 */
import assert from "node:assert/strict";
import * as abi from "../../assembly/abi.js";
import { BlkifCore, type CoreIo, type RingConfig } from "../../host/core/blkif.js";
import { coreModule } from "../../host/core/load.js";
import { allocateMemory, type LinearMemory } from "../../host/core/memory.js";
import type { VectorWriter } from "../vectors/writer.js";
import {
  decodeResponse,
  encodeRequest,
  type Layout,
  strideOf,
  type WireRequest,
  type WireResponse,
} from "./wire.js";

/** A made-up native address of linear memory, so that a forgotten base shows. */
const BASE = 0x7f0000000000;

export interface HarnessOptions {
  layout?: Layout;
  ringPages?: number;
  features?: number;
  sectorSize?: number;
  maxIndirect?: number;
  maxIo?: number;
  batch?: number;
  passSegments?: number;
  passBytes?: number;
  maxPersistent?: number;
  maxLarge?: number;
  hashKey?: number;
  /** 512-byte sectors. */
  sectors?: number;
  /** False for a disk without content: tests that complete I/Os without carrying them out. */
  disk?: boolean;
  /** Both shared indices start here. */
  startIndex?: number;
  /** Fill the core's tables and the ring with this byte before the core attaches. */
  poison?: number;
  /** blkif.wasm; default: the one that was built. */
  module?: WebAssembly.Module;
  /** Writes down what guest and host do. */
  writer?: VectorWriter;
}

/** A grant copy that was asked for. */
export interface Copy {
  gref: number;
  /** Bytes. */
  offset: number;
  length: number;
  toGuest: boolean;
}

export type GrantUse = "map" | "fetch" | "in" | "out";
export type Completion = { slot: number; result: number };

export const ALL_FEATURES = abi.FEATURE_FLUSH | abi.FEATURE_BARRIER | abi.FEATURE_DISCARD;

// Memories are large in address space: tests share a few rather than make thousands.
const spare: LinearMemory[] = [];

export class Harness {
  readonly layout: Layout;
  readonly entries: number;
  readonly core: BlkifCore;
  readonly config: RingConfig;
  readonly memory: LinearMemory;
  readonly disk: Uint8Array;
  readonly pages = new Map<number, Uint8Array>();
  /** Grants that cannot be written (granted read-only). */
  readonly readOnlyGrants = new Set<number>();
  /** I/Os that were asked for and have not been completed, oldest first. */
  readonly underway: CoreIo[] = [];
  /** Everything that was asked for, in order. */
  readonly ios: CoreIo[] = [];
  readonly mapped = new Map<number, number>();
  /** Grant copies that were asked for, in order. */
  readonly copies: Copy[] = [];
  /** Pages of the persistent window that were asked for, in order. */
  readonly maps: number[] = [];
  notifications = 0;
  flags = 0;
  /** Decides the status of a grant operation that would succeed. */
  grantFault: ((gref: number, use: GrantUse) => number) | null = null;
  /** The host forgets to write statuses. */
  silent = false;
  /** Sectors that can be neither read nor written. */
  readonly badSectors = new Set<number>();
  /** Overwrite ring entries and indirect pages as soon as the core has its copy of them. */
  scribble = false;
  /** What is called in the place of the core's step(), where a test has another instance of it. */
  stepper: ((completions: number) => number) | null = null;
  /** Called before the grant operations of every round. */
  onRound: (() => void) | null = null;

  readonly #view: DataView;
  readonly #writer: VectorWriter | undefined;
  #reqProd: number;
  #rspCons: number;

  constructor(options: HarnessOptions = {}) {
    this.layout = options.layout ?? "x86_64";
    this.#writer = options.writer;
    const ringPages = options.ringPages ?? 1;
    this.entries = ringPages * 32;
    const sectors = options.sectors ?? 4096;
    this.disk = new Uint8Array(options.disk === false ? 0 : sectors * 512);
    this.memory = spare.pop() ?? { ...allocateMemory(abi.MEMORY_BYTES), base: BASE };
    this.#view = new DataView(this.memory.memory.buffer);
    this.memory.u8.fill(options.poison ?? 0, abi.SRING, abi.PERSISTENT);
    if (options.poison !== undefined) this.memory.u8.fill(options.poison, 0, abi.DATA);
    const start = (options.startIndex ?? 0) >>> 0;
    this.#reqProd = this.#rspCons = start;
    for (const [at, value] of [
      [abi.SRING_REQ_PROD, start],
      [abi.SRING_REQ_EVENT, start + 1],
      [abi.SRING_RSP_PROD, start],
      [abi.SRING_RSP_EVENT, start + 1],
    ]) {
      this.memory.u32[at >> 2] = value;
    }
    this.core = new BlkifCore(options.module ?? coreModule(), this.memory);
    this.config = {
      abi: this.layout === "x86_64" ? abi.ABI_X86_64 : abi.ABI_X86_32,
      ringPages,
      features: options.features ?? ALL_FEATURES,
      domid: 7,
      sectors,
      sectorSize: options.sectorSize ?? 512,
      maxIndirect: options.maxIndirect ?? 256,
      ...(options.maxIo === undefined ? {} : { maxIo: options.maxIo }),
      ...(options.batch === undefined ? {} : { batch: options.batch }),
      ...(options.passSegments === undefined ? {} : { passSegments: options.passSegments }),
      ...(options.passBytes === undefined ? {} : { passBytes: options.passBytes }),
      ...(options.maxPersistent === undefined ? {} : { maxPersistent: options.maxPersistent }),
      ...(options.maxLarge === undefined ? {} : { maxLarge: options.maxLarge }),
      ...(options.hashKey === undefined ? {} : { hashKey: options.hashKey }),
    };
    assert.equal(this.core.attach(this.config), abi.ATTACH_OK);
  }

  /** No request is counted as active any more. */
  assertNoHazards(): void {
    const table = this.memory.u32.subarray(abi.HAZARDS >> 2, (abi.ACTIVE_SLOTS + abi.MAX_SLOTS / 8) >> 2);
    assert.ok(
      table.every((counts) => counts === 0),
      "requests in the hazard tables",
    );
  }

  /** Gives the linear memory back for the next harness. */
  release(): void {
    spare.push(this.memory);
  }

  // ---- The guest ----

  page(gref: number): Uint8Array {
    let page = this.pages.get(gref);
    if (!page) {
      page = new Uint8Array(4096);
      this.pages.set(gref, page);
    }
    return page;
  }

  /** Takes back every request that has no response: both sides begin again at `index`. */
  restart(index: number): void {
    this.#reqProd = this.#rspCons = index;
    this.push();
  }

  get free(): number {
    return this.entries - ((this.#reqProd - this.#rspCons) >>> 0);
  }

  /** Writes a request; the backend does not see it before `push`. */
  put(request: WireRequest): void {
    this.putBytes(encodeRequest(this.layout, request, 0xa5));
  }

  /** As `put`; `bytes` are those of an entry. Returns the entry's place in linear memory. */
  putBytes(bytes: Uint8Array): number {
    assert.ok(this.free > 0, "the test put more than a ring");
    const at = this.#entry(this.#reqProd);
    this.memory.u8.set(bytes, at);
    this.#writer?.entry(this.#reqProd, bytes);
    this.#reqProd = (this.#reqProd + 1) >>> 0;
    return at;
  }

  push(): void {
    this.memory.u32[abi.SRING_REQ_PROD >> 2] = this.#reqProd;
    this.#writer?.index("req_prod", this.#reqProd);
  }

  /** Pushes these requests, lets every I/O succeed, and returns the statuses in the requests' order. */
  serve(...requests: WireRequest[]): number[] {
    for (const request of requests) this.put(request);
    this.push();
    this.step();
    this.finish();
    return this.statuses(requests);
  }

  /** Takes the responses, of which there must be one for each of these requests, and returns their statuses. */
  statuses(requests: readonly WireRequest[]): number[] {
    const responses = new Map(this.responses().map((r) => [r.id, r.status]));
    assert.equal(responses.size, requests.length, "responses");
    return requests.map(({ id }) => {
      const status = responses.get(id);
      assert.ok(status !== undefined, `a response to ${id}`);
      return status;
    });
  }

  /** Takes the responses that have been published, and asks to hear of the next. */
  responses(): WireResponse[] {
    const published = this.memory.u32[abi.SRING_RSP_PROD >> 2];
    const list: WireResponse[] = [];
    assert.ok(
      (published - this.#rspCons) >>> 0 <= (this.#reqProd - this.#rspCons) >>> 0,
      "more responses than requests",
    );
    for (; this.#rspCons !== published; this.#rspCons = (this.#rspCons + 1) >>> 0) {
      list.push(decodeResponse(this.#view, this.#entry(this.#rspCons)));
    }
    this.memory.u32[abi.SRING_RSP_EVENT >> 2] = this.#rspCons + 1;
    if (list.length > 0) this.#writer?.index("rsp_event", this.#rspCons + 1);
    return list;
  }

  #entry(index: number): number {
    return abi.SRING_ENTRIES + (index & (this.entries - 1)) * strideOf(this.layout);
  }

  // ---- The host ----

  /**
   * Calls step() with these completions, and as often as it asks for grant operations, until the pass ends. Those
   * that come `late` are given to it when it is called for the second time, if it is.
   */
  step(completions: Completion[] = [], late: Completion[] = []): number {
    try {
      this.#pass(completions, late);
    } finally {
      this.#writer?.endStep();
    }
    return late.length > 0 ? this.step(late.splice(0)) : this.flags;
  }

  #pass(completions: Completion[], late: Completion[]): void {
    let flags = this.#call(completions);
    for (let rounds = 0; flags & (abi.STEP_COPY | abi.STEP_MAP); rounds++) {
      assert.ok(rounds < 100, "the pass does not end");
      if (this.scribble) this.#scribbleSlots();
      this.onRound?.();
      if (flags & abi.STEP_MAP) this.#carryOutMaps();
      if (flags & abi.STEP_COPY) this.#carryOutCopies();
      flags = this.#call(late.splice(0));
    }
    if (this.scribble) this.#scribbleSlots();
    if (flags & abi.STEP_IO) {
      for (let i = 0; i < this.core.ios; i++) {
        const io = this.core.io(i);
        this.underway.push(io);
        this.ios.push(io);
      }
    }
    this.flags = flags;
    assert.equal(this.memory.u32[abi.OUT_PERSISTENT >> 2], this.mapped.size, "OUT_PERSISTENT");
  }

  /** The slots of requests that were taken and have no response yet. */
  #scribbleSlots(): void {
    const published = this.memory.u32[abi.SRING_RSP_PROD >> 2];
    const taken = (this.memory.u32[abi.OUT_REQ_CONS >> 2] - published) >>> 0;
    for (let i = 0; i < taken; i++) {
      const at = this.#entry(published + i);
      this.memory.u8.fill(i * 37 + 1, at, at + strideOf(this.layout));
    }
  }

  #call(completions: Completion[]): number {
    this.#writer?.call(completions);
    completions.forEach((c, i) => {
      this.core.setCompletion(i, c.slot, c.result);
    });
    const flags = this.stepper?.(completions.length) ?? this.core.step(completions.length);
    if (flags & abi.STEP_NOTIFY) this.notifications++;
    return flags;
  }

  /** Lengths of an I/O's iovecs. Only as long as it is under way. */
  iovecs(io: CoreIo): number[] {
    return this.#iovecs(io).map(({ length }) => length);
  }

  /** Where in linear memory they begin. */
  addresses(io: CoreIo): number[] {
    return this.#iovecs(io).map(({ address }) => address);
  }

  #iovecs(io: CoreIo): { address: number; length: number }[] {
    return Array.from({ length: io.iovecs }, (_, i) => {
      const at = io.table + i * abi.IOVEC_BYTES;
      return {
        address: Number(this.#view.getBigUint64(at, true)) - BASE,
        length: Number(this.#view.getBigUint64(at + 8, true)),
      };
    });
  }

  /** Carries an I/O out on the array, up to the first bad sector; returns the IO_RESULT_*. */
  perform(io: CoreIo): number {
    const end = io.position + io.length;
    let good = end;
    for (const sector of this.badSectors)
      if (sector * 512 >= io.position && sector * 512 < good) good = sector * 512;
    const result = good === end ? abi.IO_RESULT_SUCCESS : abi.IO_RESULT_FAILURE;
    if (io.operation === abi.IO_DISCARD && good === end) this.disk.fill(0, io.position, end);
    if (io.operation !== abi.IO_READ && io.operation !== abi.IO_WRITE) return result;
    let position = io.position;
    for (const { address, length } of this.#iovecs(io)) {
      const memory = this.#dataMemory(address, length);
      assert.ok(position + length <= this.disk.length, "I/O past the end of the disk");
      const disk = this.disk.subarray(position, Math.max(position, Math.min(position + length, good)));
      if (io.operation === abi.IO_READ) memory.set(disk);
      else disk.set(memory.subarray(0, disk.length));
      position += length;
    }
    assert.equal(position, end, "the iovecs do not add up to the length");
    return result;
  }

  /** How many requests an I/O carries. */
  requestsOf(io: CoreIo): number {
    return this.#view.getUint16(abi.IOS + io.slot * abi.IO_BYTES + abi.IO_REQUESTS, true);
  }

  /** Linear memory that an I/O may touch: the data window, or a persistently mapped page (several, if adjacent). */
  #dataMemory(address: number, length: number): Uint8Array {
    if (address >= abi.DATA && address + length <= abi.SRING)
      return this.memory.u8.subarray(address, address + length);
    assert.ok(
      address >= abi.PERSISTENT && address + length <= abi.MEMORY_BYTES,
      `I/O on memory at ${address}`,
    );
    const first = Math.floor((address - abi.PERSISTENT) / 4096);
    const last = Math.floor((address + length - 1 - abi.PERSISTENT) / 4096);
    for (let page = first; page <= last; page++)
      assert.ok(this.mapped.has(page), `I/O on unmapped page ${page}`);
    return this.memory.u8.subarray(address, address + length);
  }

  /** Carries out and completes I/Os that are under way, all of them or those that `pick` chooses (by position). */
  finish(pick: (count: number) => number = () => 0, result: (io: CoreIo) => number = () => 0): number {
    let flags = this.flags;
    let guard = 0;
    while (this.underway.length > 0 || flags & abi.STEP_MORE) {
      assert.ok(guard++ < 100000, "the core never comes to rest");
      const [io] = this.underway.splice(pick(this.underway.length), 1);
      if (!io) {
        flags = this.step();
        continue;
      }
      flags = this.step([{ slot: io.slot, result: result(io) || this.perform(io) }]);
    }
    return flags;
  }

  /** Persistent pages live in linear memory; this is where a test sees their content. */
  guestPage(gref: number): Uint8Array {
    for (const [page, mapped] of this.mapped) {
      if (mapped === gref)
        return this.memory.u8.subarray(abi.PERSISTENT + page * 4096, abi.PERSISTENT + page * 4096 + 4096);
    }
    return this.page(gref);
  }

  /** Carries out what trim() asks for; `now` in tenths of a second. Returns the pages. */
  trim(now: number): number[] {
    this.#writer?.host(`trim ${now}`);
    const pages = this.core.trim(now);
    this.#unmap(pages);
    assert.equal(this.memory.u32[abi.OUT_PERSISTENT >> 2], this.mapped.size, "OUT_PERSISTENT");
    return pages;
  }

  #unmap(pages: number[]): void {
    const busy = new Set<number>();
    for (const io of this.underway)
      for (const { address, length } of this.#iovecs(io))
        for (let at = address; at < address + length; at += 512) busy.add((at - abi.PERSISTENT) >> 12);
    for (const page of pages) {
      const gref = this.mapped.get(page);
      assert.notEqual(gref, undefined, `unmap of page ${page}, which is not mapped`);
      assert.ok(!busy.has(page), `unmap of page ${page}, which an I/O uses`);
      this.pages.set(gref as number, this.guestPage(gref as number).slice());
      this.mapped.delete(page);
    }
  }

  #carryOutMaps(): void {
    for (let i = 0; i < this.core.maps; i++) {
      const { gref, page } = this.core.map(i);
      this.maps.push(page);
      if (this.silent) continue;
      const status = this.#grantStatus(gref, "map");
      this.core.setMapStatus(i, status);
      if (status !== 0) continue;
      assert.ok(!this.mapped.has(page), `page ${page} mapped twice`);
      this.memory.u8.set(this.page(gref), abi.PERSISTENT + page * 4096);
      this.mapped.set(page, gref);
    }
  }

  #grantStatus(gref: number, use: GrantUse): number {
    if (!this.pages.has(gref)) return -3;
    if ((use === "map" || use === "out") && this.readOnlyGrants.has(gref)) return -1;
    return this.grantFault?.(gref, use) ?? 0;
  }

  #carryOutCopies(): void {
    assert.ok(this.core.copies <= abi.MAX_COPIES, "more copies than the table holds");
    for (let i = 0; i < this.core.copies; i++) {
      const at = abi.COPIES + i * abi.COPY_BYTES;
      const flags = this.#view.getUint16(at + abi.COPY_FLAGS, true);
      const length = this.#view.getUint16(at + abi.COPY_LENGTH, true);
      assert.ok(flags === abi.COPY_SOURCE_GREF || flags === abi.COPY_DEST_GREF, `copy flags ${flags}`);
      const toGuest = flags === abi.COPY_DEST_GREF;
      const grantSide = at + (toGuest ? abi.COPY_DEST : abi.COPY_SOURCE);
      const localSide = at + (toGuest ? abi.COPY_SOURCE : abi.COPY_DEST);
      const gref = this.#view.getUint32(grantSide, true);
      const offset = this.#view.getUint16(grantSide + 4, true);
      assert.equal(this.#view.getUint16(grantSide + 6, true), 7, "domid of a copy");
      assert.ok(offset + length <= 4096, "copy past the end of a page");
      const local = Number(this.#view.getBigUint64(localSide, true)) - BASE;
      const segments = local >= abi.SEGMENTS && local + length <= abi.IOVECS;
      assert.ok(segments || (local >= abi.DATA && local + length <= abi.SRING), `copy to ${local}`);
      this.copies.push({ gref, offset, length, toGuest });
      if (this.silent) continue;
      const status = this.#grantStatus(gref, segments ? "fetch" : toGuest ? "out" : "in");
      this.#view.setInt16(at + abi.COPY_STATUS, status, true);
      if (status !== 0) continue;
      const page = this.guestPage(gref).subarray(offset, offset + length);
      const memory = this.memory.u8.subarray(local, local + length);
      if (toGuest) page.set(memory);
      else memory.set(page);
      if (segments && this.scribble) this.page(gref).fill(0xff);
    }
  }
}
