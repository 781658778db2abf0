/** A guest's end of a ring: it keeps to the protocol of ring.h, and knows what each request has to find or leave. */
import assert from "node:assert/strict";
import * as abi from "../../../assembly/abi.js";
import { type LinearMemory, PAGE_SIZE } from "../../../host/core/memory.js";
import { decodeResponse, encodeRequest, encodeSegment, type Segment } from "../../core/wire.js";
import { Disk, stamp, stampOf } from "./disk.js";

export const SECTORS = 2048;
const PAGES = 192;
const INDIRECT_PAGES = 8;
const STRIDE = 112;
/** No page has it. */
const NO_GRANT = 0xdead;

export interface Page {
  /** Its bytes, where they are now. */
  bytes: Uint8Array;
  readonly own: Uint8Array;
  /** In linear memory; -1 where it is not mapped. */
  mappedAt: number;
  /** Requests that are not answered and name it. */
  users: number;
}

interface Asked {
  readonly number: number;
  readonly operation: number;
  readonly sector: number;
  readonly segments: readonly Segment[];
  readonly sectors: number;
  readonly grefs: readonly number[];
  /** Its status must not be 0. */
  readonly wrong: boolean;
  status: number | null;
}

export class Frontend {
  readonly number: number;
  readonly domid: number;
  readonly memory: LinearMemory;
  readonly persistent: boolean;
  readonly disk = new Disk(SECTORS);
  readonly pages = new Map<number, Page>();
  readonly mapped = new Map<number, Page>();
  readonly asked = new Map<number, Asked>();
  /** Its port was raised. */
  rung = false;
  /** Whether I/Os, or grants, may have failed. */
  mayFail = false;
  /** The kernel has refused what its ring asked for: the ring has failed. */
  failed = false;
  answered = 0;
  readonly entries: number;
  readonly #random: (below: number) => number;
  readonly #view: DataView;
  readonly #writes: Asked[][] = Array.from({ length: SECTORS }, () => []);
  #next = 1;
  #prepared: number;
  #pushed: number;
  #consumed: number;

  constructor(
    number: number,
    domid: number,
    memory: LinearMemory,
    ringPages: number,
    persistent: boolean,
    random: (below: number) => number,
  ) {
    this.number = number;
    this.domid = domid;
    this.memory = memory;
    this.persistent = persistent;
    this.#random = random;
    this.entries = ringPages * 32;
    this.#view = new DataView(memory.memory.buffer);
    const start = [0, 0xffffffe0, 0x7ffffff0][random(3)];
    this.#prepared = this.#pushed = this.#consumed = start;
    this.#set(abi.SRING_REQ_PROD, start);
    this.#set(abi.SRING_RSP_PROD, start);
    this.#set(abi.SRING_REQ_EVENT, start + 1);
    this.#set(abi.SRING_RSP_EVENT, start + 1);
    for (let i = 0; i < PAGES + INDIRECT_PAGES; i++) {
      const own = new Uint8Array(PAGE_SIZE);
      this.pages.set(number * 1000 + i, { own, bytes: own, mappedAt: -1, users: 0 });
    }
  }

  get #ring(): Uint32Array {
    return this.memory.u32;
  }

  #set(at: number, value: number): void {
    this.#ring[at >> 2] = value;
  }

  get room(): number {
    return this.entries - ((this.#prepared - this.#consumed) >>> 0);
  }

  notified(): void {
    this.rung = true;
  }

  /** Responses lie there that the guest was not told of, and will not look for. */
  get wasForgotten(): boolean {
    return !this.rung && this.#ring[abi.SRING_RSP_PROD >> 2] !== this.#consumed;
  }

  /** Prepares a request of any kind. */
  put(): void {
    const random = this.#random;
    if (this.room === 0) return;
    const kind = random(20);
    const operation = kind < 8 ? 0 : kind < 16 ? 1 : kind < 17 ? 2 : kind < 19 ? 3 : 5;
    if (operation > 3) this.#discard();
    else if (operation > 1 && random(2) === 0) this.#put(operation, [], false);
    else if (operation < 2 && random(4) === 0)
      this.#put(operation, this.#segments(1 + random([12, 64, 192][random(3)])), true);
    else this.#put(operation, this.#segments(1 + random(11)), false);
  }

  /** Prepares a read (0) or a write (1) of so many whole pages. */
  ask(operation: number, pages: number): void {
    this.#put(operation, this.#neighbours(this.#random(PAGES), pages, true), pages > 11);
  }

  #discard(): void {
    const sectors = 1 + this.#random(64);
    const sector = this.#random(SECTORS - sectors);
    const asked = this.#note(5, sector, sectors, [], [], false);
    this.#write(
      encodeRequest("x86_64", {
        operation: 5,
        id: BigInt(asked.number),
        sector: BigInt(sector),
        sectors: BigInt(sectors),
      }),
    );
  }

  #segments(count: number): Segment[] {
    return this.#neighbours(this.#random(PAGES), count, this.#random(3) > 0);
  }

  #neighbours(first: number, count: number, whole: boolean): Segment[] {
    return Array.from({ length: Math.min(count, PAGES) }, (_, i) => {
      const [a, b] = whole ? [0, 7] : [this.#random(8), this.#random(8)].sort();
      return { gref: this.number * 1000 + ((first + i) % PAGES), first: a, last: b };
    });
  }

  #put(operation: number, segments: Segment[], indirect: boolean): void {
    // Two requests in one page would show each other's data.
    while (segments.length > 0 && this.#isUsed(segments.at(-1))) segments.pop();
    if (segments.some((segment) => this.#isUsed(segment))) segments.length = 0;
    if (segments.length === 0 && operation < 2) return;
    const sectors = segments.reduce((sum, { first, last }) => sum + last - first + 1, 0);
    const wrong = segments.length > 0 && this.#random(60) === 0;
    const grefs = segments.map(({ gref }) => gref);
    if (wrong) segments[this.#random(segments.length)].gref = NO_GRANT;
    const sector = this.#random(SECTORS - sectors + 1);
    const id = BigInt(this.#next);
    const list = this.#indirectPage();
    if (indirect && (list === null || segments.length === 0)) return;
    const all = indirect ? [...grefs, list as number] : grefs;
    const asked = this.#note(operation, sector, sectors, segments, all, wrong);
    if (operation > 0) for (const { gref } of segments) this.#fill(gref, asked.number);
    if (!indirect) {
      this.#write(encodeRequest("x86_64", { operation, id, sector: BigInt(sector), segments }));
      return;
    }
    const page = this.#page(list as number);
    segments.forEach((segment, i) => {
      encodeSegment(new DataView(page.bytes.buffer, page.bytes.byteOffset), i * 8, segment);
    });
    const indirectGrefs = [list as number];
    const nrSegments = segments.length;
    this.#write(
      encodeRequest("x86_64", {
        operation: 6,
        inner: operation,
        id,
        sector: BigInt(sector),
        nrSegments,
        indirectGrefs,
      }),
    );
  }

  #fill(gref: number, who: number): void {
    const page = this.pages.get(gref);
    if (page) stamp(page.bytes, who);
  }

  #page(gref: number): Page {
    const page = this.pages.get(gref);
    assert.ok(page);
    return page;
  }

  #isUsed(segment: Segment | undefined): boolean {
    return segment !== undefined && this.#page(segment.gref).users > 0;
  }

  #indirectPage(): number | null {
    for (let i = PAGES; i < PAGES + INDIRECT_PAGES; i++) {
      const gref = this.number * 1000 + i;
      if (this.#page(gref).users === 0) return gref;
    }
    return null;
  }

  #note(
    operation: number,
    sector: number,
    sectors: number,
    segments: readonly Segment[],
    grefs: readonly number[],
    wrong: boolean,
  ): Asked {
    const asked: Asked = {
      number: this.#next++,
      operation,
      sector,
      segments,
      sectors,
      grefs,
      wrong,
      status: null,
    };
    this.asked.set(asked.number, asked);
    for (const gref of grefs) this.#page(gref).users++;
    if (operation > 0) for (let i = 0; i < sectors; i++) this.#writes[sector + i].push(asked);
    return asked;
  }

  #write(bytes: Uint8Array): void {
    this.memory.u8.set(bytes, abi.SRING_ENTRIES + (this.#prepared & (this.entries - 1)) * STRIDE);
    this.#prepared = (this.#prepared + 1) >>> 0;
  }

  /** RING_PUSH_REQUESTS_AND_CHECK_NOTIFY: true where the backend is to be told. */
  push(): boolean {
    const old = this.#pushed;
    this.#pushed = this.#prepared;
    this.#set(abi.SRING_REQ_PROD, this.#pushed);
    const event = this.#ring[abi.SRING_REQ_EVENT >> 2];
    return (this.#pushed - event) >>> 0 < (this.#pushed - old) >>> 0;
  }

  /** Requests that are not pushed yet. */
  get unpushed(): number {
    return (this.#prepared - this.#pushed) >>> 0;
  }

  /** It lies about its index, and is not served any more. */
  lie(): void {
    this.#set(abi.SRING_REQ_PROD, this.#pushed + 5 * this.entries);
  }

  /** Takes the responses that are there, and asks for an event at the next one. */
  take(): void {
    this.rung = false;
    do {
      const produced = this.#ring[abi.SRING_RSP_PROD >> 2];
      assert.ok((produced - this.#consumed) >>> 0 <= this.entries, "rsp_prod is beyond the ring");
      for (; this.#consumed !== produced; this.#consumed = (this.#consumed + 1) >>> 0)
        this.#hear(this.#consumed);
      this.#set(abi.SRING_RSP_EVENT, this.#consumed + 1);
    } while (this.#ring[abi.SRING_RSP_PROD >> 2] !== this.#consumed);
  }

  #hear(index: number): void {
    const at = abi.SRING_ENTRIES + (index & (this.entries - 1)) * STRIDE;
    const { id, operation, status } = decodeResponse(this.#view, at);
    const asked = this.asked.get(Number(id));
    assert.ok(asked, `request ${id} of ring ${this.number} is answered twice, or was never asked`);
    this.asked.delete(asked.number);
    this.answered++;
    assert.equal(operation, asked.operation);
    asked.status = status;
    if (asked.wrong) {
      // It writes nothing, even where it moves no data of that page.
      assert.equal(status, abi.BLKIF_RSP_ERROR, `request ${id} names a grant that does not exist`);
    } else if (!this.mayFail) assert.equal(status, 0, `request ${id} of ring ${this.number} failed`);
    if (asked.operation === 0 && status === 0) this.#checkRead(asked);
    for (const gref of asked.grefs) this.#page(gref).users--;
  }

  /** What was written last before this request, by one that succeeded. */
  #expected(sector: number, before: number): number {
    const writes = this.#writes[sector];
    for (let i = writes.length - 1; i >= 0; i--) {
      const { number, operation, status } = writes[i];
      if (number >= before) continue;
      assert.notEqual(status, null, `request ${before} has overtaken ${number}`);
      if (status === 0) return operation === 5 ? 0 : number;
    }
    return 0;
  }

  #checkRead(asked: Asked): void {
    let { sector } = asked;
    for (const { gref, first, last } of asked.segments) {
      const { bytes } = this.#page(gref);
      for (let i = first; i <= last; i++, sector++) {
        const seen = stampOf(bytes.subarray(i * 512, i * 512 + 512));
        const expected = this.#expected(sector, asked.number);
        assert.equal(seen, expected, `request ${asked.number} of ring ${this.number}, sector ${sector}`);
      }
    }
  }

  /** When all is answered. */
  checkDisk(): void {
    for (let sector = 0; sector < SECTORS; sector++) {
      assert.equal(
        this.disk.stamps[sector],
        this.#expected(sector, this.#next),
        `sector ${sector} of ring ${this.number}`,
      );
    }
  }

  /** Requests that the backend has taken and not answered. */
  get inflight(): number {
    return this.#ring[abi.OUT_INFLIGHT >> 2];
  }

  /** The index of the next request that the backend takes. */
  get taken(): number {
    return this.#ring[abi.OUT_REQ_CONS >> 2];
  }

  toString(): string {
    const at = (field: number): number => this.#ring[field >> 2];
    const ring = `req_prod ${at(abi.SRING_REQ_PROD)} req_event ${at(abi.SRING_REQ_EVENT)} rsp_prod ${at(abi.SRING_RSP_PROD)} rsp_event ${at(abi.SRING_RSP_EVENT)} rsp_cons ${this.#consumed}`;
    return `ring ${this.number} of domain ${this.domid}: ${ring}, ${this.asked.size} asked, ${this.inflight} in flight, ${this.disk.underway.length} I/Os, ${this.rung ? "rung" : "not rung"}`;
  }
}
