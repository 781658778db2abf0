/**
 * Pages of a ring's persistent grants as registered buffers of an io_uring: the kernel pins each once, and not for each
 * I/O. Direct I/O alone gains by it; through the page cache bytes are copied, and nothing is pinned.
 */
import { MAX_PERSISTENT } from "../../assembly/abi.js";
import { type LinearMemory, PAGE_SIZE } from "../core/memory.js";
import { PERSISTENT_WINDOW } from "../core/windows.js";
import { BUFFERS_A_BLOCK, type UringEngine } from "../storage/uring/engine.js";

/** Pages of a ring that are registered: the first ones, which are those that are used most. */
const FIXED_PAGES = BUFFERS_A_BLOCK;

const TWO_TO_32 = 4294967296;

export class FixedPages {
  readonly #engine: UringEngine;
  readonly #start: number;
  readonly #startLow: number;
  /** The slot of page 0. */
  readonly #slot: number;
  /** By page: 1 where it is registered. */
  readonly #registered = new Uint8Array(MAX_PERSISTENT);
  /** The kernel pins no such pages (gntdev's in Linux 6.1), or no more of them: it is not asked again. */
  #refused = false;

  private constructor(engine: UringEngine, start: number, slot: number) {
    this.#engine = engine;
    this.#start = start;
    this.#startLow = start % TWO_TO_32;
    this.#slot = slot;
  }

  /** Null where there are no slots left for a ring. */
  static take(engine: UringEngine, memory: LinearMemory): FixedPages | null {
    const slot = engine.takeBlock();
    return slot === null ? null : new FixedPages(engine, memory.base + PERSISTENT_WINDOW.start, slot);
  }

  /** The slot of the page that holds all of these bytes; -1 where there is none. The lower word of an address does. */
  slotOf(addressLow: number, length: number): number {
    const offset = (addressLow - this.#startLow) >>> 0;
    const page = (offset / PAGE_SIZE) >>> 0;
    // A page that does not exist is registered as little as one that is not.
    if (this.#registered[page] !== 1 || (offset % PAGE_SIZE) + length > PAGE_SIZE) return -1;
    return this.#slot + page;
  }

  /** Pages of the persistent window were mapped, all of them with success. */
  mapped(page: number, count: number): void {
    const fixed = Math.min(count, FIXED_PAGES - page);
    if (fixed <= 0 || this.#refused) return;
    const address = this.#start + page * PAGE_SIZE;
    this.#refused = !this.#engine.ring.setBuffers(this.#slot + page, address, PAGE_SIZE, fixed);
    if (this.#refused) this.#empty(page, fixed);
    else this.#registered.fill(1, page, page + fixed);
  }

  /** To be called before pages of the window are unmapped, or mapped anew: nothing is under way in them. */
  unmapping(page: number, count: number): void {
    const end = Math.min(page + count, FIXED_PAGES);
    // A slot that is empty may be emptied again.
    if (this.#registered.subarray(page, Math.max(page, end)).includes(1)) this.#empty(page, end - page);
  }

  close(): void {
    this.unmapping(0, FIXED_PAGES);
    this.#engine.giveBlock(this.#slot);
  }

  #empty(page: number, count: number): void {
    this.#engine.ring.setBuffers(this.#slot + page, 0, PAGE_SIZE, count);
    this.#registered.fill(0, page, page + count);
  }
}
