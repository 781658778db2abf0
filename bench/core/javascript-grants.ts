/** Grant copies, persistent grants and iovecs of the plain JavaScript peer: assembly/data.ts and persistent.ts. */
import * as abi from "../../assembly/abi.js";
import type { PlainConfig } from "./javascript.js";
import { Flag, type Request, State } from "./javascript-request.js";

const TWO_TO_32 = 4294967296;

interface Page {
  readonly gref: number;
  readonly number: number;
  users: number;
  state: "pending" | "mapped" | "failed";
}

export class Grants {
  copies = 0;
  maps = 0;
  readonly #view: DataView;
  readonly #config: PlainConfig;
  readonly #requests: Request[];
  readonly #counters: number[];
  readonly #owners = new Uint16Array(abi.MAX_COPIES);
  readonly #byGref = new Map<number, Page>();
  readonly #byNumber: Page[] = [];
  readonly #free: number[] = [];

  constructor(view: DataView, config: PlainConfig, requests: Request[], counters: number[]) {
    this.#view = view;
    this.#config = config;
    this.#requests = requests;
    this.#counters = counters;
    for (let i = abi.MAX_PERSISTENT - 1; i >= 0; i--) this.#free.push(i);
  }

  // ---- Copies ----

  roomFor(wanted: number): boolean {
    return this.copies + wanted <= abi.MAX_COPIES;
  }

  #add(slot: number, gref: number, offset: number, local: number, bytes: number, toGuest: boolean): void {
    const at = abi.COPIES + this.copies * abi.COPY_BYTES;
    const view = this.#view;
    const address = this.#config.base + local;
    const grantAt = at + (toGuest ? abi.COPY_DEST : abi.COPY_SOURCE);
    const localAt = at + (toGuest ? abi.COPY_SOURCE : abi.COPY_DEST);
    view.setUint32(grantAt, gref, true);
    view.setUint16(grantAt + 4, offset, true);
    view.setUint16(grantAt + 6, this.#config.domid, true);
    view.setUint32(localAt, address, true);
    view.setUint32(localAt + 4, address / TWO_TO_32, true);
    view.setUint16(at + abi.COPY_LENGTH, bytes, true);
    view.setUint16(at + abi.COPY_FLAGS, toGuest ? abi.COPY_DEST_GREF : abi.COPY_SOURCE_GREF, true);
    view.setInt16(at + abi.COPY_STATUS, -1, true);
    this.#owners[this.copies++] = slot;
  }

  fetch(request: Request, gref: number): void {
    this.#add(request.slot, gref, 0, request.table, request.segments * abi.SEGMENT_BYTES, false);
    request.state = State.Fetching;
  }

  copySegments(request: Request, toGuest: boolean): void {
    let local = request.data;
    for (let i = 0, at = request.table; i < request.segments; i++, at += 8) {
      const first = this.#view.getUint8(at + 4);
      const bytes = (this.#view.getUint8(at + 5) - first + 1) * 512;
      this.#add(request.slot, this.#view.getUint32(at, true), first * 512, local, bytes, toGuest);
      local += bytes;
    }
  }

  copyIn(request: Request): void {
    if (request.operation === abi.BLKIF_OP_READ) {
      request.state = State.Loaded;
    } else if (this.roomFor(request.segments)) {
      this.copySegments(request, false);
      request.state = State.Copying;
    }
  }

  settleCopies(): void {
    for (let i = 0; i < this.copies; i++) {
      if (this.#view.getInt16(abi.COPIES + i * abi.COPY_BYTES + abi.COPY_STATUS, true) !== 0)
        this.#requests[this.#owners[i]].flags |= Flag.Fault;
    }
    this.#counters[abi.COUNT_COPIES] += this.copies;
    this.copies = 0;
  }

  // ---- Persistent grants ----

  #use(gref: number): Page | undefined {
    const known = this.#byGref.get(gref);
    if (known) {
      if (known.state === "failed") return undefined;
      known.users++;
      return known;
    }
    if (this.#byGref.size >= this.#config.maxPersistent) return undefined;
    const number = this.#free.pop() as number;
    const page: Page = { gref, number, users: 1, state: "pending" };
    this.#byGref.set(gref, page);
    this.#byNumber[number] = page;
    const at = abi.MAPS + this.maps++ * abi.MAP_BYTES;
    this.#view.setUint32(at + abi.MAP_GREF, gref, true);
    this.#view.setUint16(at + abi.MAP_PAGE, number, true);
    this.#view.setInt16(at + abi.MAP_STATUS, -1, true);
    return page;
  }

  #leave(number: number): void {
    const page = this.#byNumber[number];
    if (--page.users === 0 && page.state === "failed") this.#drop(page);
  }

  #drop(page: Page): void {
    this.#byGref.delete(page.gref);
    this.#free.push(page.number);
  }

  settleMaps(): void {
    for (let i = 0; i < this.maps; i++) {
      const at = abi.MAPS + i * abi.MAP_BYTES;
      const page = this.#byNumber[this.#view.getUint16(at + abi.MAP_PAGE, true)];
      page.state = this.#view.getInt16(at + abi.MAP_STATUS, true) === 0 ? "mapped" : "failed";
      if (page.state === "failed" && page.users === 0) this.#drop(page);
    }
    this.#counters[abi.COUNT_MAPS] += this.maps;
    this.maps = 0;
  }

  /** Finds or asks for the page of every segment: how many are mapped, or -1 when there is no room. */
  useSegments(request: Request): number {
    let hits = 0;
    for (let i = 0, at = request.table; i < request.segments; i++, at += 8) {
      const page = this.#use(this.#view.getUint32(at, true));
      if (!page) {
        for (let back = request.table; back < at; back += 8)
          this.#leave(this.#view.getUint16(back + 6, true));
        return -1;
      }
      this.#view.setUint16(at + 6, page.number, true);
      if (page.state === "mapped") hits++;
    }
    this.#counters[abi.COUNT_PERSISTENT_HITS] += hits;
    return hits;
  }

  leaveSegments(request: Request): void {
    if (!(request.flags & Flag.Mapped)) return;
    request.flags &= ~Flag.Mapped;
    for (let i = 0, at = request.table; i < request.segments; i++, at += 8)
      this.#leave(this.#view.getUint16(at + 6, true));
  }

  allMapped(request: Request): boolean {
    for (let i = 0, at = request.table; i < request.segments; i++, at += 8)
      if (this.#byNumber[this.#view.getUint16(at + 6, true)].state !== "mapped") return false;
    return true;
  }

  // ---- Iovecs ----

  /** Appends a request's memory to the iovecs of an I/O that has `used`; returns how many it has then. */
  addIovecs(lead: number, used: number, request: Request): number {
    const table = abi.IOVECS + lead * abi.IOVECS_PER_SLOT * abi.IOVEC_BYTES;
    if (!(request.flags & Flag.Mapped)) return this.#append(table, used, request.data, request.sectors * 512);
    let count = used;
    for (let i = 0, at = request.table; i < request.segments; i++, at += 8) {
      const first = this.#view.getUint8(at + 4);
      const bytes = (this.#view.getUint8(at + 5) - first + 1) * 512;
      const page = abi.PERSISTENT + this.#view.getUint16(at + 6, true) * abi.PAGE;
      count = this.#append(table, count, page + first * 512, bytes);
    }
    return count;
  }

  #append(table: number, used: number, local: number, bytes: number): number {
    const view = this.#view;
    const at = table + used * abi.IOVEC_BYTES;
    const address = this.#config.base + local;
    if (used > 0) {
      const before = at - abi.IOVEC_BYTES;
      const length = view.getUint32(before + 8, true);
      const start = view.getUint32(before, true) + view.getUint32(before + 4, true) * TWO_TO_32;
      if (start + length === address) {
        view.setUint32(before + 8, length + bytes, true);
        return used;
      }
    }
    view.setUint32(at, address, true);
    view.setUint32(at + 4, address / TWO_TO_32, true);
    view.setUint32(at + 8, bytes, true);
    view.setUint32(at + 12, 0, true);
    return used + 1;
  }
}
