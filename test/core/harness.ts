/**
 * One core with everything around it played by plain JavaScript: guest pages by grant ref, a disk in an array, and a
 * host that carries out what step() asks for. Nothing is asynchronous: the test decides what completes, and when.
 */
import assert from "node:assert/strict";
import * as abi from "../../assembly/abi.js";
import { BlkifCore, type CoreIo, type RingConfig } from "../../host/core/blkif.js";
import { coreModule } from "../../host/core/load.js";
import { allocateMemory, type LinearMemory } from "../../host/core/memory.js";
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
  maxPersistent?: number;
  /** 512-byte sectors. */
  sectors?: number;
  /** Both shared indices start here. */
  startIndex?: number;
}

export const ALL_FEATURES = abi.FEATURE_FLUSH | abi.FEATURE_BARRIER | abi.FEATURE_DISCARD;

// Memories are large in address space: tests share a few rather than make thousands.
const spare: LinearMemory[] = [];

export class Harness {
  readonly layout: Layout;
  readonly entries: number;
  readonly core: BlkifCore;
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
  copies = 0;
  notifications = 0;
  flags = 0;
  /** Decides the status of a grant operation that would succeed. */
  grantFault: ((gref: number) => number) | null = null;

  readonly #view: DataView;
  #reqProd: number;
  #rspCons: number;

  constructor(options: HarnessOptions = {}) {
    this.layout = options.layout ?? "x86_64";
    const ringPages = options.ringPages ?? 1;
    this.entries = ringPages * 32;
    const sectors = options.sectors ?? 4096;
    this.disk = new Uint8Array(sectors * 512);
    this.memory = spare.pop() ?? { ...allocateMemory(abi.MEMORY_BYTES), base: BASE };
    this.#view = new DataView(this.memory.memory.buffer);
    this.memory.u8.fill(0, abi.SRING, abi.PERSISTENT);
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
    this.core = new BlkifCore(coreModule(), this.memory);
    const config: RingConfig = {
      abi: this.layout === "x86_64" ? abi.ABI_X86_64 : abi.ABI_X86_32,
      ringPages,
      features: options.features ?? ALL_FEATURES,
      domid: 7,
      sectors,
      sectorSize: options.sectorSize ?? 512,
      maxIndirect: options.maxIndirect ?? 256,
      ...(options.maxIo === undefined ? {} : { maxIo: options.maxIo }),
      ...(options.batch === undefined ? {} : { batch: options.batch }),
      ...(options.maxPersistent === undefined ? {} : { maxPersistent: options.maxPersistent }),
    };
    assert.equal(this.core.attach(config), abi.ATTACH_OK);
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

  get free(): number {
    return this.entries - ((this.#reqProd - this.#rspCons) >>> 0);
  }

  /** Writes a request; the backend does not see it before `push`. */
  put(request: WireRequest): void {
    assert.ok(this.free > 0, "the test put more than a ring");
    const at = this.#entry(this.#reqProd);
    this.memory.u8.set(encodeRequest(this.layout, request, 0xa5), at);
    this.#reqProd = (this.#reqProd + 1) >>> 0;
  }

  push(): void {
    this.memory.u32[abi.SRING_REQ_PROD >> 2] = this.#reqProd;
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
    return list;
  }

  #entry(index: number): number {
    return abi.SRING_ENTRIES + (index & (this.entries - 1)) * strideOf(this.layout);
  }

  // ---- The host ----

  /** Calls step() with these completions, and as often as it asks for grant operations, until the pass ends. */
  step(completions: { slot: number; result: number }[] = []): number {
    completions.forEach((c, i) => {
      this.core.setCompletion(i, c.slot, c.result);
    });
    let flags = this.core.step(completions.length);
    this.#noteNotify(flags);
    for (let rounds = 0; flags & (abi.STEP_COPY | abi.STEP_MAP); rounds++) {
      assert.ok(rounds < 100, "the pass does not end");
      if (flags & abi.STEP_MAP) this.#maps();
      if (flags & abi.STEP_COPY) this.#copies();
      flags = this.core.step(0);
      this.#noteNotify(flags);
    }
    if (flags & abi.STEP_IO) {
      for (let i = 0; i < this.core.ios; i++) {
        const io = this.core.io(i);
        this.underway.push(io);
        this.ios.push(io);
      }
    }
    this.flags = flags;
    return flags;
  }

  #noteNotify(flags: number): void {
    if (flags & abi.STEP_NOTIFY) this.notifications++;
  }

  /** Carries an I/O out on the array. */
  perform(io: CoreIo): void {
    if (io.operation === abi.IO_DISCARD) this.disk.fill(0, io.position, io.position + io.length);
    if (io.operation !== abi.IO_READ && io.operation !== abi.IO_WRITE) return;
    let position = io.position;
    for (let i = 0; i < io.iovecs; i++) {
      const at = io.table + i * abi.IOVEC_BYTES;
      const address = Number(this.#view.getBigUint64(at, true)) - BASE;
      const length = Number(this.#view.getBigUint64(at + 8, true));
      const memory = this.#dataMemory(address, length);
      const disk = this.disk.subarray(position, position + length);
      assert.equal(disk.length, length, "I/O past the end of the disk");
      if (io.operation === abi.IO_READ) memory.set(disk);
      else disk.set(memory);
      position += length;
    }
    assert.equal(position - io.position, io.length, "the iovecs do not add up to the length");
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
      const outcome = result(io);
      if (outcome === 0) this.perform(io);
      flags = this.step([{ slot: io.slot, result: outcome }]);
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

  unmap(pages: number[]): void {
    for (const page of pages) {
      const gref = this.mapped.get(page);
      assert.notEqual(gref, undefined, `unmap of page ${page}, which is not mapped`);
      this.pages.set(gref as number, this.guestPage(gref as number).slice());
      this.mapped.delete(page);
    }
  }

  #maps(): void {
    for (let i = 0; i < this.core.maps; i++) {
      const { gref, page } = this.core.map(i);
      const status = this.#grantStatus(gref, true);
      this.core.setMapStatus(i, status);
      if (status !== 0) continue;
      assert.ok(!this.mapped.has(page), `page ${page} mapped twice`);
      this.memory.u8.set(this.page(gref), abi.PERSISTENT + page * 4096);
      this.mapped.set(page, gref);
    }
  }

  #grantStatus(gref: number, write: boolean): number {
    if (!this.pages.has(gref)) return -3;
    if (write && this.readOnlyGrants.has(gref)) return -1;
    return this.grantFault?.(gref) ?? 0;
  }

  #copies(): void {
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
      const status = this.#grantStatus(gref, toGuest);
      this.#view.setInt16(at + abi.COPY_STATUS, status, true);
      this.copies++;
      if (status !== 0) continue;
      const page = this.guestPage(gref).subarray(offset, offset + length);
      const memory = this.memory.u8.subarray(local, local + length);
      if (toGuest) page.set(memory);
      else memory.set(page);
    }
  }
}
