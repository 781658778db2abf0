/**
 * The guest and host around a contestant in this process: the core, or the plain JavaScript peer. drive.c is the same
 * for the C peer. I/Os complete at once; grant operations succeed by having their statuses marked.
 */
import * as abi from "../../assembly/abi.js";
import { BASE, ENTRIES, ENTRY_BYTES, type Scenario, TABLE_BYTES } from "./scenario.js";

const COPY_ENTRY_U16 = abi.COPY_BYTES / 2;
/** Bytes of a table entry that are compared: what is behind is the contestant's own. */
const COPY_COMPARED = abi.COPY_STATUS + 2;
const IO_COMPARED = abi.IO_LAST;

export interface Contestant {
  readonly buffer: ArrayBufferLike;
  /** As the core's export: see assembly/abi.ts. */
  step(completions: number): number;
}

export class Host {
  /** Calls of step() since the host was made. */
  steps = 0;
  /** When set, all that the contestant asks for and answers is put here, as drive.c writes it. */
  transcript: Uint8Array[] | null = null;
  readonly #contestant: Contestant;
  readonly #scenario: Scenario;
  readonly #u8: Uint8Array;
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  #produced = 0;

  constructor(contestant: Contestant, scenario: Scenario) {
    this.#contestant = contestant;
    this.#scenario = scenario;
    this.#u8 = new Uint8Array(contestant.buffer);
    this.#u16 = new Uint16Array(contestant.buffer);
    this.#u32 = new Uint32Array(contestant.buffer);
  }

  /** An indirect page in the place of every slot, where measuring does without copying it. */
  presetTables(): void {
    for (let slot = 0; slot < ENTRIES; slot++)
      this.#u8.set(this.#scenario.tables[0], abi.SEGMENTS + slot * TABLE_BYTES);
  }

  /** Puts a span on the ring, then shows it to the contestant a batch at a time; the ns that the latter took. */
  span(bytes: Uint8Array): number {
    const count = bytes.length / ENTRY_BYTES;
    for (let i = 0; i < count; i++) {
      const at = abi.SRING_ENTRIES + ((this.#produced + i) % ENTRIES) * ENTRY_BYTES;
      this.#u8.set(bytes.subarray(i * ENTRY_BYTES, (i + 1) * ENTRY_BYTES), at);
    }
    const start = performance.now();
    for (let pushed = 0; pushed < count; ) {
      const from = this.#produced;
      const batch = Math.min(count - pushed, this.#scenario.batch);
      pushed += batch;
      this.#produced += batch;
      this.#u32[abi.SRING_REQ_PROD >> 2] = this.#produced;
      this.#settle();
      if (this.transcript) this.#recordResponses(from);
      this.#u32[abi.SRING_RSP_EVENT >> 2] = this.#u32[abi.SRING_RSP_PROD >> 2] + 1;
    }
    return (performance.now() - start) * 1e6;
  }

  /** Steps until the ring is at rest. */
  #settle(): void {
    let completions = 0;
    let flags: number;
    do {
      flags = this.#step(completions);
      while (flags & (abi.STEP_COPY | abi.STEP_MAP)) {
        if (flags & abi.STEP_MAP) this.#performMaps();
        if (flags & abi.STEP_COPY) {
          if (this.transcript) this.#performCopies();
          else this.#markCopies();
        }
        flags = this.#step(0);
      }
      completions = flags & abi.STEP_IO ? this.#u32[abi.OUT_IOS >> 2] : 0;
      this.#complete(completions);
    } while (completions > 0 || flags & abi.STEP_MORE);
  }

  #complete(ios: number): void {
    const u16 = this.#u16;
    const u32 = this.#u32;
    for (let i = 0; i < ios; i++) {
      const slot = u16[(abi.IO_LIST >> 1) + i];
      u32[(abi.COMPLETIONS >> 2) + i] = slot | (this.#resultOf(slot) << 16);
    }
  }

  #step(completions: number): number {
    const flags = this.#contestant.step(completions);
    this.steps++;
    if (this.transcript) this.#record(flags);
    return flags;
  }

  #markCopies(): void {
    const u16 = this.#u16;
    const first = (abi.COPIES + abi.COPY_STATUS) >> 1;
    const end = first + this.#u32[abi.OUT_COPIES >> 2] * COPY_ENTRY_U16;
    for (let at = first; at < end; at += COPY_ENTRY_U16) u16[at] = 0;
  }

  #statusOf(gref: number): number {
    return this.#scenario.faults && gref % 37 === 5 ? -3 : 0;
  }

  #resultOf(slot: number): number {
    if (!this.#scenario.faults) return abi.IO_RESULT_SUCCESS;
    const sector = this.#u32[(abi.IOS + slot * abi.IO_BYTES + abi.IO_SECTOR) >> 2];
    return sector % 16 === 3 ? abi.IO_RESULT_FAILURE : abi.IO_RESULT_SUCCESS;
  }

  #performMaps(): void {
    const maps = this.#u32[abi.OUT_MAPS >> 2];
    for (let at = abi.MAPS; at < abi.MAPS + maps * abi.MAP_BYTES; at += abi.MAP_BYTES)
      this.#u16[(at + abi.MAP_STATUS) >> 1] = this.#statusOf(this.#u32[at >> 2]);
  }

  /** Carries grant copies out as far as the core can tell: statuses, and the segments of an INDIRECT. */
  #performCopies(): void {
    const copies = this.#u32[abi.OUT_COPIES >> 2];
    const { tables } = this.#scenario;
    const view = new DataView(this.#u8.buffer);
    for (let at = abi.COPIES; at < abi.COPIES + copies * abi.COPY_BYTES; at += abi.COPY_BYTES) {
      const toGuest = this.#u16[(at + abi.COPY_FLAGS) >> 1] === abi.COPY_DEST_GREF;
      const gref = this.#u32[(at + (toGuest ? abi.COPY_DEST : abi.COPY_SOURCE)) >> 2];
      this.#u16[(at + abi.COPY_STATUS) >> 1] = this.#statusOf(gref);
      const local = Number(view.getBigUint64(at + abi.COPY_DEST, true)) - BASE;
      if (local < abi.SEGMENTS || local >= abi.IOVECS) continue;
      const bytes = this.#u16[(at + abi.COPY_LENGTH) >> 1];
      this.#u8.set(tables[gref % tables.length].subarray(0, bytes), local);
    }
  }

  // ---- Transcript ----

  #put(at: number, bytes: number): void {
    this.transcript?.push(this.#u8.slice(at, at + bytes));
  }

  #put32(value: number): void {
    this.transcript?.push(new Uint8Array(Uint32Array.of(value).buffer));
  }

  #record(flags: number): void {
    this.#put32(flags);
    this.#put(abi.OUT_INFLIGHT, 4);
    if (flags & abi.STEP_MAP) this.#put(abi.MAPS, this.#u32[abi.OUT_MAPS >> 2] * abi.MAP_BYTES);
    if (flags & abi.STEP_COPY) {
      const end = abi.COPIES + this.#u32[abi.OUT_COPIES >> 2] * abi.COPY_BYTES;
      for (let at = abi.COPIES; at < end; at += abi.COPY_BYTES) this.#put(at, COPY_COMPARED);
    }
    if (!(flags & abi.STEP_IO)) return;
    for (let i = 0; i < this.#u32[abi.OUT_IOS >> 2]; i++) {
      const slot = this.#u16[(abi.IO_LIST >> 1) + i];
      const io = abi.IOS + slot * abi.IO_BYTES;
      this.#put32(slot);
      this.#put(io, IO_COMPARED);
      const iovecs = this.#u16[(io + abi.IO_IOVECS) >> 1];
      this.#put(abi.IOVECS + slot * abi.IOVECS_PER_SLOT * abi.IOVEC_BYTES, iovecs * abi.IOVEC_BYTES);
    }
  }

  #recordResponses(from: number): void {
    for (let index = from; index !== this.#produced; index++) {
      const at = abi.SRING_ENTRIES + (index % ENTRIES) * ENTRY_BYTES;
      this.#put(at, 9);
      this.#put(at + 10, 2);
    }
    this.#put(abi.SRING_REQ_EVENT, 4);
  }
}
