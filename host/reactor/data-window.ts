/**
 * Gives the pages of a ring's data window back to the kernel while no request needs them. A ring that copies touches more
 * and more of its window, up to 86 MiB, and would keep all of it for as long as its guest is connected.
 *
 * Only private copies are given back, and the tables that requests in flight alone use; never the journal, the core's
 * state, or pages of the guest's. The window is private memory of this process, unless it is shared with a vhost-user
 * server: then it takes a hole (MADV_REMOVE), as MADV_DONTNEED drops this process's view of it alone.
 */
import * as abi from "../../assembly/abi.js";
import type { LinearMemory } from "../core/memory.js";
import { discardPages } from "../platform/libc.js";

/** Bytes that are given back in one call, which takes up to 0.3 ms: other rings of the thread wait for it. */
const PORTION = 4 << 20;

/** Bytes in linear memory: from, and up to. */
type Range = readonly [number, number];

export class DataWindow {
  readonly #memory: LinearMemory;
  readonly #u16: Uint16Array;
  readonly #discard: (address: number, length: number) => void;
  readonly #discardData: (address: number, length: number) => void;
  /** Where the next portion begins; the tables come before the window. */
  #next: number = abi.SEGMENTS;
  /** Nothing was in flight at any portion of this round, nor put into the window since it began. */
  #complete = true;

  /** `memory` is that of a core that has attached; `discardData` is for the window alone. */
  constructor(memory: LinearMemory, discard = discardPages, discardData = discard) {
    this.#memory = memory;
    this.#u16 = new Uint16Array(memory.memory.buffer);
    this.#discard = discard;
    this.#discardData = discardData;
  }

  /** To be called when something was copied by way of the window. */
  used(): void {
    this.#complete = false;
  }

  /**
   * Gives a portion back, all but what requests in flight use; to be called between calls of step(), also in the midst of
   * a pass. "more": there are other portions; "empty": that was the last one, and the window holds nothing; "kept": it was
   * the last, and it may hold some.
   */
  giveBack(): "more" | "empty" | "kept" {
    if (this.#next === abi.SEGMENTS) {
      this.#complete = true;
      this.#discardTables();
    }
    const from = Math.max(this.#next, abi.DATA);
    const to = Math.min(from + PORTION, abi.SRING);
    this.#discardBetween([from, to]);
    this.#next = to === abi.SRING ? abi.SEGMENTS : to;
    if (to !== abi.SRING) return "more";
    return this.#complete ? "empty" : "kept";
  }

  /** Segments, iovecs and copies: each pass writes what it reads there, for requests that stay in flight or end with it. */
  #discardTables(): void {
    if (this.#inflight > 0) return;
    this.#discard(this.#memory.base + abi.SEGMENTS, abi.MAPS - abi.SEGMENTS);
  }

  #discardBetween([from, to]: Range): void {
    let at = from;
    for (const [start, end] of this.#rangesInFlight()) {
      if (end <= at) continue;
      if (start >= to) break;
      this.#complete = false;
      if (start > at) this.#discardData(this.#memory.base + at, start - at);
      at = end;
    }
    if (at < to) this.#discardData(this.#memory.base + at, to - at);
  }

  get #inflight(): number {
    return this.#memory.u32[abi.OUT_INFLIGHT >> 2];
  }

  /** Where requests in flight may have their data, in ascending order. */
  #rangesInFlight(): Range[] {
    const { u8, u32 } = this.#memory;
    if (this.#inflight === 0) return [];
    const entries = u32[abi.CONFIG_ENTRIES >> 2];
    const list = abi.FREE_SLOTS >> 1;
    const free = new Set(this.#u16.subarray(list, list + entries - this.#inflight));
    const small: Range[] = [];
    const large: Range[] = [];
    for (let slot = 0; slot < entries; slot++) {
      if (free.has(slot)) continue;
      small.push(rangeAt(abi.DATA, slot, abi.DATA_SMALL_BYTES));
      const request = abi.REQUESTS + slot * abi.REQUEST_BYTES;
      if (!(u8[request + abi.REQUEST_FLAGS] & abi.REQUEST_IS_LARGE)) continue;
      large.push(rangeAt(abi.DATA_LARGE, u8[request + abi.REQUEST_LARGE], abi.DATA_LARGE_BYTES));
    }
    return [...small, ...large.sort(([a], [b]) => a - b)];
  }
}

function rangeAt(window: number, index: number, bytes: number): Range {
  return [window + index * bytes, window + (index + 1) * bytes];
}
