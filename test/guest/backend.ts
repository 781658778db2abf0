/** A reference block backend, plain on purpose: DataView, BigInt, one request after the other. */
import assert from "node:assert/strict";
import type { FakeEvents, FakePages, FakeXenstore } from "./fakes.js";

/** Offsets from the facts' table: 64-bit and 32-bit x86. */
const OFFSETS = {
  wide: { size: 112, id: 8, sector: 16, segments: 24, sectors: 24, indirectRefs: 28 },
  narrow: { size: 108, id: 4, sector: 12, segments: 20, sectors: 20, indirectRefs: 24 },
};

export interface BackendOptions {
  sectors: number;
  sectorSize?: number;
  info?: number;
  maxOrder?: number;
  maxQueues?: number;
  indirect?: number;
  persistent?: boolean;
  /** Further keys, or null to leave one out. */
  keys?: Record<string, string | null>;
  /** Keeps grants mapped over the response. */
  holdGrants?: boolean;
  /** Answers in random order and later, from this seed. */
  shuffle?: number;
}

export interface Answer {
  id: bigint;
  operation: number;
  status: number;
}

export interface SeenRequest {
  queue: number;
  operation: number;
  handle: number;
  sector: bigint;
  /** Of an indirect request. */
  indirectOperation?: number;
  segments: { ref: number; first: number; last: number }[];
}

interface Ring {
  index: number;
  view: DataView;
  refs: number[];
  entries: number;
  reqCons: number;
  rspProdPvt: number;
  waiting: Answer[];
  notify: () => void;
}

export class ReferenceBackend {
  readonly disk: Uint8Array;
  readonly seen: SeenRequest[] = [];
  rings: Ring[] = [];
  /** Served only while not silent. */
  silent = false;
  /** Changes an answer before it is given; null gives none. */
  tamper: ((answer: Answer) => Answer | null) | null = null;
  /** What each operation is answered, where that is not the natural thing. */
  statuses = new Map<number, number>();
  readonly back = "/local/domain/0/backend/vbd/7/51712";
  readonly front = "/local/domain/7/device/vbd/51712";
  readonly #persistentRefs = new Map<number, Uint8Array>();
  #state = 1;
  #wide = true;
  #random: number;

  constructor(
    readonly pages: FakePages,
    readonly events: FakeEvents,
    readonly xenstore: FakeXenstore,
    readonly options: BackendOptions,
  ) {
    this.disk = new Uint8Array(options.sectors * 512);
    this.#random = options.shuffle ?? 0;
  }

  async start(): Promise<void> {
    const { nodes } = this.xenstore;
    nodes.set(`${this.front}/backend`, this.back);
    nodes.set(`${this.front}/backend-id`, "0");
    nodes.set(`${this.front}/state`, "1");
    nodes.set(`${this.back}/state`, "1");
    const { maxOrder, maxQueues, indirect } = this.options;
    if (maxOrder !== undefined) nodes.set(`${this.back}/max-ring-page-order`, String(maxOrder));
    if (maxQueues !== undefined) nodes.set(`${this.back}/multi-queue-max-queues`, String(maxQueues));
    if (indirect !== undefined) nodes.set(`${this.back}/feature-max-indirect-segments`, String(indirect));
    await this.xenstore.watch(`${this.front}/state`, () => void this.#follow());
  }

  async setState(state: number): Promise<void> {
    this.#state = state;
    this.xenstore.nodes.delete(`${this.back}/state`);
    await this.xenstore.write(`${this.back}/state`, String(state));
  }

  async #follow(): Promise<void> {
    const front = Number(this.xenstore.nodes.get(`${this.front}/state`) ?? 0);
    if (front === 1 && (this.#state === 1 || this.#state === 6)) await this.setState(2);
    else if (front === 3 && this.#state === 2) await this.#connect();
    else if (front === 5 && this.#state < 5) await this.setState(5);
    else if (front === 6 && this.#state !== 6) {
      this.#disconnect();
      await this.setState(6);
    }
  }

  async #connect(): Promise<void> {
    const number = (key: string) => Number(this.xenstore.nodes.get(`${this.front}/${key}`) ?? Number.NaN);
    this.#wide = this.xenstore.nodes.get(`${this.front}/protocol`) !== "x86_32-abi";
    const queues = number("multi-queue-num-queues") || 1;
    const order = number("ring-page-order") || 0;
    for (let i = 0; i < queues; i++) {
      const prefix = queues > 1 ? `queue-${i}/` : "";
      const refs =
        order === 0
          ? [number(`${prefix}ring-ref`)]
          : Array.from({ length: 2 ** order }, (_, n) => number(`${prefix}ring-ref${n}`));
      this.#attach(i, refs, number(`${prefix}event-channel`));
    }
    const { sectors, sectorSize = 512, info = 0, persistent = false, keys = {} } = this.options;
    const all: Record<string, string | null> = {
      sectors: String(sectors),
      "sector-size": String(sectorSize),
      info: String(info),
      "feature-flush-cache": "1",
      "feature-persistent": persistent ? "1" : "0",
      ...keys,
    };
    for (const [key, value] of Object.entries(all))
      if (value !== null) this.xenstore.nodes.set(`${this.back}/${key}`, value);
    await this.setState(4);
  }

  #attach(index: number, refs: number[], port: number): void {
    const pages = refs.map((ref) => this.pages.map(ref, true));
    const offset = pages[0].byteOffset;
    for (const [i, page] of pages.entries()) assert.equal(page.byteOffset, offset + i * 4096);
    const view = new DataView(pages[0].buffer, offset, refs.length * 4096);
    const { size } = this.#wide ? OFFSETS.wide : OFFSETS.narrow;
    let entries = 1;
    while (entries * 2 * size <= view.byteLength - 64) entries *= 2;
    const at = view.getUint32(8, true);
    const ring: Ring = {
      index,
      view,
      refs,
      entries,
      reqCons: at,
      rspProdPvt: at,
      waiting: [],
      notify: this.events.bind(port, () => setImmediate(() => this.serve(ring))),
    };
    this.rings.push(ring);
    setImmediate(() => this.serve(ring));
  }

  #disconnect(): void {
    for (const ring of this.rings) for (const ref of ring.refs) this.pages.unmap(ref);
    this.rings = [];
    for (const ref of this.#persistentRefs.keys()) this.pages.unmap(ref);
    this.#persistentRefs.clear();
  }

  /** Takes every request of a ring and gives the answers. */
  serve(ring: Ring): void {
    if (this.silent || !this.rings.includes(ring)) return;
    for (;;) {
      const prod = ring.view.getUint32(0, true);
      assert.ok((prod - ring.rspProdPvt) >>> 0 <= ring.entries, "the frontend overran its ring");
      if (prod === ring.reqCons) {
        ring.view.setUint32(4, (ring.reqCons + 1) >>> 0, true);
        if (ring.view.getUint32(0, true) === prod) break;
        continue;
      }
      const at = 64 + (ring.reqCons & (ring.entries - 1)) * (this.#wide ? 112 : 108);
      ring.reqCons = (ring.reqCons + 1) >>> 0;
      ring.waiting.push(this.#execute(ring, at));
    }
    if (this.options.shuffle === undefined) this.respond(ring, ring.waiting.length);
    else this.#respondLater(ring);
  }

  #respondLater(ring: Ring): void {
    if (ring.waiting.length === 0 || !this.rings.includes(ring)) return;
    ring.waiting.sort(() => this.#next() - 0.5);
    this.respond(ring, 1 + Math.floor(this.#next() * ring.waiting.length));
    setImmediate(() => this.#respondLater(ring));
  }

  #next(): number {
    this.#random = (Math.imul(this.#random, 1664525) + 1013904223) >>> 0;
    return this.#random / 4294967296;
  }

  respond(ring: Ring, count: number): void {
    const old = ring.rspProdPvt;
    for (const given of ring.waiting.splice(0, count)) {
      const answer = this.tamper ? this.tamper(given) : given;
      if (!answer) continue;
      const at = 64 + (ring.rspProdPvt & (ring.entries - 1)) * (this.#wide ? 112 : 108);
      ring.view.setBigUint64(at, answer.id, true);
      ring.view.setUint8(at + 8, answer.operation);
      ring.view.setInt16(at + 10, answer.status, true);
      ring.rspProdPvt = (ring.rspProdPvt + 1) >>> 0;
    }
    ring.view.setUint32(8, ring.rspProdPvt, true);
    const event = ring.view.getUint32(12, true);
    if ((ring.rspProdPvt - event) >>> 0 < (ring.rspProdPvt - old) >>> 0) ring.notify();
  }

  #execute(ring: Ring, at: number): Answer {
    const { view } = ring;
    const o = this.#wide ? OFFSETS.wide : OFFSETS.narrow;
    const operation = view.getUint8(at);
    const id = view.getBigUint64(at + o.id, true);
    const sector = view.getBigUint64(at + o.sector, true);
    const handle = view.getUint16(at + 2, true);
    const request: SeenRequest = { queue: ring.index, operation, handle, sector, segments: [] };
    this.seen.push(request);
    let inner = operation;
    let ok = true;
    if (operation === 5) {
      const from = Number(sector) * 512;
      this.disk.fill(0, from, from + Number(view.getBigUint64(at + o.sectors, true)) * 512);
    } else if (operation === 6) {
      inner = request.indirectOperation = view.getUint8(at + 1);
      request.handle = view.getUint16(at + (this.#wide ? 24 : 20), true);
      request.segments = this.#indirectSegments(view, at + o.indirectRefs, view.getUint16(at + 2, true));
    } else {
      for (let i = 0; i < view.getUint8(at + 1); i++)
        request.segments.push(segmentAt(view, at + o.segments + i * 8));
    }
    const forced = this.statuses.get(inner);
    if (forced === undefined) ok = this.#transfer(inner, sector, request.segments);
    return { id, operation: inner, status: forced ?? (ok ? 0 : -1) };
  }

  #indirectSegments(view: DataView, refs: number, count: number): SeenRequest["segments"] {
    assert.ok(count > 0 && count <= this.options.indirect!, `${count} indirect segments`);
    const segments = [];
    for (let i = 0; i < count; i++) {
      const ref = view.getUint32(refs + Math.floor(i / 512) * 4, true);
      const page = this.#map(ref, false);
      segments.push(segmentAt(new DataView(page.buffer, page.byteOffset, 4096), (i % 512) * 8));
      this.#unmap(ref);
    }
    return segments;
  }

  #transfer(operation: number, sector: bigint, segments: SeenRequest["segments"]): boolean {
    let position = Number(sector) * 512;
    for (const { ref, first, last } of segments) {
      assert.ok(first <= last && last <= 7, "a segment's sectors");
      const length = (last - first + 1) * 512;
      if (position + length > this.disk.length) return false;
      const page = this.#map(ref, operation === 0).subarray(first * 512, first * 512 + length);
      if (operation === 0) page.set(this.disk.subarray(position, position + length));
      else this.disk.set(page, position);
      this.#unmap(ref);
      position += length;
    }
    return true;
  }

  get #persistent(): boolean {
    const wanted = this.xenstore.nodes.get(`${this.front}/feature-persistent`) === "1";
    return wanted && this.options.persistent === true;
  }

  #map(ref: number, writable: boolean): Uint8Array {
    if (!this.#persistent) return this.pages.map(ref, writable);
    let page = this.#persistentRefs.get(ref);
    if (!page) this.#persistentRefs.set(ref, (page = this.pages.map(ref, true)));
    return page;
  }

  #unmap(ref: number): void {
    if (!this.#persistent && !this.options.holdGrants) this.pages.unmap(ref);
  }
}

function segmentAt(view: DataView, at: number): { ref: number; first: number; last: number } {
  return { ref: view.getUint32(at, true), first: view.getUint8(at + 4), last: view.getUint8(at + 5) };
}
