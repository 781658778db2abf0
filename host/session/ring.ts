/** The guest's side of the ring, and what it sees of the backend's: every byte that changes must be the backend's. */
import * as abi from "../../assembly/abi.js";
import * as format from "../../assembly/session/format.js";
import type { RingView } from "../core/ring-view.js";
import { SHARED_RING } from "../core/windows.js";
import type { SessionHeader } from "./file.js";
import { check } from "./violation.js";

export interface RingResponse {
  readonly id: bigint;
  readonly operation: number;
  readonly status: number;
}

interface Asked {
  readonly id: bigint;
  readonly operation: number;
}

export class GuestRing {
  readonly entries: number;
  readonly stride: number;
  readonly #core: RingView;
  readonly #view: DataView;
  readonly #idOffset: number;
  readonly #bytes: Uint8Array;
  readonly #words: Int32Array;
  readonly #shadow: Uint8Array;
  readonly #shadowWords: Int32Array;
  readonly #asked: Asked[] = [];
  /** The guest's req_prod_pvt. */
  #next: number;
  #reqCons: number;
  #rspProd: number;
  #halted = false;
  /** Whether req_prod was strange when requests were last taken. */
  #wasStrange = false;
  #confused = false;
  #inFlight = 0;

  constructor(core: RingView, header: SessionHeader) {
    const { buffer } = core.memory.memory;
    const size = header.ringPages * abi.PAGE;
    this.#core = core;
    this.entries = header.ringPages * 32;
    this.stride = header.abi === abi.ABI_X86_32 ? 108 : 112;
    this.#idOffset = header.abi === abi.ABI_X86_32 ? 4 : 8;
    this.#bytes = new Uint8Array(buffer, SHARED_RING, size);
    this.#view = new DataView(buffer, SHARED_RING, size);
    this.#words = new Int32Array(buffer, SHARED_RING, size >> 2);
    this.#shadow = new Uint8Array(size);
    this.#shadowWords = new Int32Array(this.#shadow.buffer);
    this.#bytes.fill(0);
    this.#next = this.#reqCons = this.#rspProd = header.start;
    this.writeIndex(0, header.start + header.ahead);
    this.writeIndex(1, header.start + 1);
    this.writeIndex(2, header.start);
    this.writeIndex(3, header.start + 1);
  }

  /** Whether what was taken cannot be told any more: see `strange`. */
  get confused(): boolean {
    return this.#confused;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** Whether the frontend claims more requests than the ring holds. */
  get overfull(): boolean {
    return (this.#core.reqProd - this.#rspProd) >>> 0 > this.entries;
  }

  /**
   * Whether req_prod is not where an honest frontend can have it: overfull, or behind what it has published before. In
   * the latter case a backend may take entries that lie under responses of the same pass, as Linux's does, or halt.
   */
  get strange(): boolean {
    const claimed = (this.#core.reqProd - this.#reqCons) >>> 0;
    return claimed > this.entries - ((this.#reqCons - this.#rspProd) >>> 0);
  }

  /** Whether the backend has taken all that was published, as far as it is meant to. */
  isDrained(batch: number): boolean {
    if (batch === 0 || this.#halted || this.#confused) return true;
    return this.#core.reqProd === this.#reqCons;
  }

  /** At the end of a pass: whether the backend may say that the ring is (not) halted. */
  mayHalt(halted: boolean): boolean {
    if (halted && this.#wasStrange) this.#halted = true;
    return halted === this.#halted;
  }

  put(entry: Uint8Array): void {
    this.#bytes.set(entry.subarray(0, this.stride), 64 + this.#slot(this.#next));
    this.#next = (this.#next + 1) >>> 0;
  }

  push(): void {
    this.writeIndex(0, this.#next);
  }

  /** Guest's write of req_prod, req_event, rsp_prod or rsp_event (0 to 3). */
  writeIndex(which: number, value: number): void {
    this.#words[which] = value;
  }

  #slot(index: number): number {
    return (index & (this.entries - 1)) * this.stride;
  }

  /** To be called before the core is. */
  shadow(): void {
    this.#shadowWords.set(this.#words);
  }

  /** After a call that began a pass: the entries that it took, with their ring indices, as they stood in the ring. */
  observeTaking(batch: number): { index: number; entry: Uint8Array }[] {
    const cons = this.#core.reqCons;
    const taken = (cons - this.#reqCons) >>> 0;
    this.#wasStrange = batch !== 0 && this.strange;
    if (batch !== 0 && this.overfull) this.#halted = true;
    check(taken <= batch && (!this.#halted || taken === 0), format.BAD_TAKE);
    if (taken !== 0 && this.strange) this.#confused = true;
    const claimed = (this.#core.reqProd - this.#reqCons) >>> 0;
    check(this.#confused || taken <= claimed, format.BAD_TAKE);
    this.#inFlight += taken;
    if (this.#confused) {
      this.#reqCons = cons;
      return [];
    }
    const list: { index: number; entry: Uint8Array }[] = [];
    for (; this.#reqCons !== cons; this.#reqCons = (this.#reqCons + 1) >>> 0) {
      const at = 64 + this.#slot(this.#reqCons);
      const entry = this.#shadow.slice(at, at + this.stride);
      const id = new DataView(entry.buffer).getBigUint64(this.#idOffset, true);
      this.#asked.push({ id, operation: entry[0] === abi.BLKIF_OP_INDIRECT ? entry[1] : entry[0] });
      list.push({ index: this.#reqCons, entry });
    }
    return list;
  }

  /** After every call: the responses, which `told` hears of; throws a Violation where something else was written. */
  observe(notify: boolean, told: (response: RingResponse) => void): void {
    const core = this.#core;
    check(core.reqCons === this.#reqCons, format.BAD_TAKE);
    const event = this.#words[1];
    if (event !== this.#shadowWords[1]) check(event === ((this.#reqCons + 1) | 0), format.BAD_INDEX);
    this.#shadowWords[1] = event;
    const old = this.#rspProd;
    this.#rspProd = core.rspProdPvt;
    const count = (this.#rspProd - old) >>> 0;
    if (count !== 0) {
      check(core.rspProd === this.#rspProd, format.BAD_INDEX);
      this.#shadowWords[2] = this.#rspProd | 0;
    }
    check(count <= this.#inFlight, format.BAD_RESPONSE);
    for (let index = old; index !== this.#rspProd; index = (index + 1) >>> 0) told(this.#takeResponse(index));
    this.#inFlight -= count;
    check(core.inflight === this.#inFlight, format.BAD_LEAK);
    check(notify === (count !== 0 && (this.#rspProd - core.rspEvent) >>> 0 < count), format.BAD_NOTIFY);
    check(Buffer.compare(this.#bytes, this.#shadow) === 0, format.BAD_RING_WRITE);
  }

  #takeResponse(index: number): RingResponse {
    const at = 64 + this.#slot(index);
    const response = {
      id: this.#view.getBigUint64(at, true),
      operation: this.#bytes[at + 8],
      status: this.#view.getInt16(at + 10, true),
    };
    for (const byte of [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]) this.#shadow[at + byte] = this.#bytes[at + byte];
    if (this.#confused) return response;
    const { status } = response;
    check(status <= abi.BLKIF_RSP_OKAY && status >= abi.BLKIF_RSP_EOPNOTSUPP, format.BAD_STATUS);
    const position = this.#asked.findIndex(
      (asked) => asked.id === response.id && asked.operation === response.operation,
    );
    check(position >= 0, format.BAD_RESPONSE);
    this.#asked.splice(position, 1);
    return response;
  }
}
