/** The grant table that a session pretends: every operation works, except those that a record has doomed. */
import * as abi from "../../assembly/abi.js";
import * as format from "../../assembly/session/format.js";
import type { BlkifCore } from "../core/blkif.js";
import { isDataOf } from "../core/windows.js";
import { check } from "./violation.js";

/** A grant copy that was carried out, or failed with `status`. */
export interface GrantCopy {
  /** The request that it is for. */
  readonly slot: number;
  readonly gref: number;
  readonly offset: number;
  readonly length: number;
  /** Offset in linear memory. */
  readonly local: number;
  readonly toGuest: boolean;
  readonly status: number;
  /** It fetches an indirect page's segments, rather than data. */
  readonly segments: boolean;
}

export interface GrantMap {
  readonly gref: number;
  readonly page: number;
  readonly status: number;
}

const SEGMENTS_BYTES = abi.MAX_SEGMENTS * abi.SEGMENT_BYTES;

export class SessionGrants {
  /** Grant references by page of the window. */
  readonly mapped = new Map<number, number>();
  readonly #mappedGrefs = new Set<number>();
  readonly #core: BlkifCore;
  readonly #domid: number;
  readonly #limit: number;
  readonly #faults: { number: number; status: number }[] = [];
  /** Grants with a status of their own. */
  readonly #statuses = new Map<number, number>();
  /** In the order in which they were first written. */
  readonly #contents = new Map<number, Uint8Array>();
  #operations = 0;
  /** Maps, and copies of data, that the present pass has asked for. */
  #passMaps = 0;
  #passCopies = 0;

  constructor(core: BlkifCore, domid: number, maxPersistent: number) {
    this.#core = core;
    this.#domid = domid;
    this.#limit = maxPersistent;
  }

  addFault(distance: number, status: number): void {
    if (this.#faults.length === format.MAX_FAULTS) return;
    this.#faults.push({ number: (this.#operations + distance) >>> 0, status });
  }

  setStatus(gref: number, status: number): void {
    if (this.#statuses.has(gref) || this.#statuses.size < format.MAX_GRANTS) this.#statuses.set(gref, status);
  }

  /** The content that a page was given; undefined for one that is all zero. */
  contentOf(gref: number): Uint8Array | undefined {
    return this.#contents.get(gref);
  }

  setContent(gref: number, offset: number, bytes: Uint8Array): void {
    let page = this.#contents.get(gref);
    if (!page) {
      const [oldest] = this.#contents.keys();
      if (this.#contents.size === format.MAX_CONTENTS) this.#contents.delete(oldest);
      page = new Uint8Array(abi.PAGE);
      this.#contents.set(gref, page);
    }
    page.set(bytes, offset);
  }

  #nextStatus(gref: number): number {
    const number = this.#operations;
    this.#operations = (number + 1) >>> 0;
    const position = this.#faults.findIndex((fault) => fault.number === number);
    if (position < 0) return this.#statuses.get(gref) ?? 0;
    const { status } = this.#faults[position];
    // As the other player does it, which matters where two are meant for the same operation.
    const last = this.#faults.pop() as { number: number; status: number };
    if (position < this.#faults.length) this.#faults[position] = last;
    return status;
  }

  /** At the end of a pass: it has kept to its budget, and done no more than it has taken up. */
  checkBudget(): void {
    const { segmentsUsed: segments, bytesUsed: bytes, passSegments, passBytes } = this.#core;
    check(segments < passSegments + abi.MAX_SEGMENTS && bytes < passBytes + abi.MAX_IO, format.BAD_BUDGET);
    const most = Math.max(bytes / abi.PAGE, this.#passMaps, this.#passCopies);
    check(most <= segments, format.BAD_BUDGET);
    this.#passMaps = this.#passCopies = 0;
  }

  performMaps(told: (map: GrantMap) => void): void {
    check(this.#core.maps <= abi.MAX_PERSISTENT, format.BAD_MAP);
    this.#passMaps += this.#core.maps;
    for (let i = 0; i < this.#core.maps; i++) {
      const { gref, page } = this.#core.map(i);
      const map = { gref, page, status: this.#nextStatus(gref) };
      told(map);
      check(map.page < abi.MAX_PERSISTENT && !this.mapped.has(map.page), format.BAD_MAP);
      if (map.status !== format.FORGOTTEN) this.#core.setMapStatus(i, map.status);
      if (map.status !== 0) continue;
      check(!this.#mappedGrefs.has(map.gref), format.BAD_MAP);
      this.mapped.set(map.page, map.gref);
      this.#mappedGrefs.add(map.gref);
      check(this.mapped.size <= this.#limit, format.BAD_MAP);
    }
  }

  performCopies(told: (copy: GrantCopy) => void): void {
    for (let i = 0; i < this.#core.copies; i++) this.#copy(i, told);
  }

  #copy(i: number, told: (copy: GrantCopy) => void): void {
    const core = this.#core;
    const flags = core.copyFlags(i);
    check(flags === abi.COPY_SOURCE_GREF || flags === abi.COPY_DEST_GREF, format.BAD_COPY);
    const { toGuest, domid, gref, pageOffset, offset: local, length } = core.copy(i);
    const slot = core.copySlot(i);
    const copy: GrantCopy = {
      ...{ slot, gref, offset: pageOffset, length, local, toGuest },
      status: this.#nextStatus(gref),
      segments: !toGuest && local === core.segmentsOf(slot),
    };
    if (copy.segments && copy.status === 0) this.#fetch(copy);
    told(copy);
    check(domid === this.#domid, format.BAD_COPY);
    check(length !== 0 && pageOffset + length <= abi.PAGE, format.BAD_COPY);
    check(slot < abi.MAX_SLOTS, format.BAD_COPY);
    if (copy.segments) check(pageOffset === 0 && length <= SEGMENTS_BYTES, format.BAD_COPY_MEMORY);
    else {
      this.#passCopies++;
      check(isDataOf(slot, local, length), format.BAD_COPY_MEMORY);
    }
    if (copy.status !== format.FORGOTTEN) core.setCopyStatus(i, copy.status);
  }

  #fetch({ gref, local, length }: GrantCopy): void {
    const page = this.#contents.get(gref);
    const memory = this.#core.memory.u8;
    if (page) memory.set(page.subarray(0, length), local);
    else memory.fill(0, local, local + length);
  }

  unmap(pages: Iterable<number>): void {
    for (const page of pages) {
      const gref = this.mapped.get(page);
      check(gref !== undefined, format.BAD_UNMAP);
      this.mapped.delete(page);
      this.#mappedGrefs.delete(gref as number);
    }
  }
}
