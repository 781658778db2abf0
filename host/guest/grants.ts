/** Pages of the guest that a backend may use: the ring's own, and a pool for data and indirect pages. */
import { PAGE_SIZE } from "../core/memory.js";
import type { GuestPages } from "../platform/ports.js";
import { ProtocolViolation } from "./ring.js";

const NOT_GRANTED = 0xffffffff;

/** The pages of one ring, granted read-write for as long as the ring lives. */
export class RingPages {
  readonly frame: number;
  readonly count: number;
  readonly refs: readonly number[];
  readonly #pages: GuestPages;

  /** Throws when the guest is out of memory or its grant table is full. */
  constructor(pages: GuestPages, domid: number, count: number) {
    this.#pages = pages;
    this.count = count;
    this.frame = pages.allocate(count);
    const refs: number[] = [];
    this.refs = refs;
    try {
      for (let i = 0; i < count; i++) refs.push(pages.grant(domid, this.frame + i, false));
    } catch (error) {
      this.release();
      throw error;
    }
  }

  /** Takes the pages back. Returns how many the backend still has mapped; then none of them is used again. */
  release(): number {
    let inUse = 0;
    for (const ref of this.refs) if (!this.#pages.endAccess(ref)) inUse++;
    if (inUse === 0) this.#pages.free(this.frame, this.count);
    return inUse;
  }
}

/**
 * Pages for data and for indirect segments. Persistent: a page is granted read-write when it is first taken, and
 * for good. Otherwise it is granted for one request, and the backend must be done with it when it answers.
 * The page that came back last is taken first, so that a lightly used disk shares few pages.
 */
export class PagePool {
  readonly count: number;
  readonly persistent: boolean;
  readonly #pages: GuestPages;
  readonly #domid: number;
  readonly #frame: number;
  readonly #refs: Uint32Array;
  readonly #free: Uint32Array;
  readonly #views: Uint8Array[];
  #available: number;

  /** Takes `most` pages, or as many as the guest has, but `least`. Throws when it has fewer. */
  constructor(pages: GuestPages, domid: number, most: number, least: number, persistent: boolean) {
    this.#pages = pages;
    this.#domid = domid;
    this.persistent = persistent;
    const [frame, count] = allocateUpTo(pages, most, least);
    this.#frame = frame;
    this.count = count;
    this.#refs = new Uint32Array(count).fill(NOT_GRANTED);
    this.#free = Uint32Array.from({ length: count }, (_, i) => count - 1 - i);
    this.#views = Array.from({ length: count }, (_, i) => {
      const at = (frame + i) * PAGE_SIZE;
      return pages.bytes.subarray(at, at + PAGE_SIZE);
    });
    this.#available = count;
  }

  get available(): number {
    return this.#available;
  }

  /** Byte offset of a page in the guest's memory. Pages with consecutive numbers are neighbours. */
  at(page: number): number {
    return (this.#frame + page) * PAGE_SIZE;
  }

  ref(page: number): number {
    return this.#refs[page];
  }

  view(page: number): Uint8Array {
    return this.#views[page];
  }

  /** Takes a page and grants it, only for reading where the backend need not write. Throws when the table is full. */
  take(readOnly: boolean): number {
    const page = this.#free[this.#available - 1];
    if (this.#refs[page] === NOT_GRANTED) {
      this.#refs[page] = this.#pages.grant(this.#domid, this.#frame + page, readOnly && !this.persistent);
    }
    this.#available--;
    return page;
  }

  /** Ends the backend's access to a page, unless it is persistent. Throws a {@link ProtocolViolation} if it is in use. */
  revoke(page: number): void {
    if (this.persistent) return;
    const ref = this.#refs[page];
    if (!this.#pages.endAccess(ref)) {
      throw new ProtocolViolation(`the backend answered a request but still has its grant ${ref} in use`);
    }
    this.#refs[page] = NOT_GRANTED;
  }

  /** Puts back a page that was revoked. */
  put(page: number): void {
    this.#free[this.#available++] = page;
  }

  /** Takes all pages back. Returns how many the backend still has mapped; then none of them is used again. */
  release(): number {
    let inUse = 0;
    for (let page = 0; page < this.count; page++) {
      if (this.#refs[page] === NOT_GRANTED) continue;
      if (this.#pages.endAccess(this.#refs[page])) this.#refs[page] = NOT_GRANTED;
      else inUse++;
    }
    if (inUse === 0) this.#pages.free(this.#frame, this.count);
    return inUse;
  }
}

function allocateUpTo(pages: GuestPages, most: number, least: number): [frame: number, count: number] {
  for (let count = Math.max(most, least); ; count = Math.max(Math.floor(count / 2), least)) {
    try {
      return [pages.allocate(count), count];
    } catch (error) {
      if (count === least) throw error;
    }
  }
}
