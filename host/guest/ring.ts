/** The frontend's end of one shared ring: requests in, responses out, and a backend that is not trusted. */
import { type LinearMemory, PAGE_SIZE } from "../core/memory.js";
import { type Layout, Response, readStatus, ringEntries, Sring, writeU64 } from "./layout.js";

/** The backend did what no backend may do. The disk is of no use afterwards. */
export class ProtocolViolation extends Error {
  readonly code = "EIO";
}

const hex = (value: number): string => `0x${value.toString(16)}`;

/** In `#expected`: this id has no request that waits. No operation is negative. */
const IDLE = -1;

/**
 * Requests are produced into entries, made visible by {@link push}, and answered through {@link consume}. An id is
 * the number of its place in the shadow table (low half) and how often that place was used (high half), so that
 * an answer to an earlier request of the same place is found out.
 */
export class FrontRing {
  readonly entries: number;
  readonly #memory: LinearMemory;
  readonly #layout: Layout;
  readonly #at: number;
  /** Word indices of the header's fields. */
  readonly #reqProd: number;
  readonly #reqEvent: number;
  readonly #rspProd: number;
  readonly #rspEvent: number;

  #reqProdPvt: number;
  #pushed: number;
  #rspCons: number;

  /** The operation that the answer to an id must name, or IDLE. */
  readonly #expected: Int16Array;
  readonly #generation: Uint32Array;
  readonly #freeIds: Uint16Array;
  #free: number;

  /**
   * Initialises the ring of `pages` pages at byte offset `at` (SHARED_RING_INIT). Both producer indices start
   * at `start`, which is 0 except where wrap-around is to be seen soon.
   */
  constructor(memory: LinearMemory, at: number, pages: number, layout: Layout, start = 0) {
    this.entries = ringEntries(layout, pages);
    this.#memory = memory;
    this.#layout = layout;
    this.#at = at;
    this.#reqProd = (at + Sring.reqProd) >>> 2;
    this.#reqEvent = (at + Sring.reqEvent) >>> 2;
    this.#rspProd = (at + Sring.rspProd) >>> 2;
    this.#rspEvent = (at + Sring.rspEvent) >>> 2;
    this.#reqProdPvt = this.#pushed = this.#rspCons = start >>> 0;
    this.#expected = new Int16Array(this.entries).fill(IDLE);
    this.#generation = new Uint32Array(this.entries);
    this.#freeIds = Uint16Array.from({ length: this.entries }, (_, i) => this.entries - 1 - i);
    this.#free = this.entries;

    memory.u8.fill(0, at, at + pages * PAGE_SIZE);
    Atomics.store(memory.i32, this.#reqProd, start | 0);
    Atomics.store(memory.i32, this.#rspProd, start | 0);
    Atomics.store(memory.i32, this.#reqEvent, (start + 1) | 0);
    Atomics.store(memory.i32, this.#rspEvent, (start + 1) | 0);
  }

  /** Requests that still fit. */
  get free(): number {
    return this.#free;
  }

  /** Requests that have no response yet, pushed or not. */
  get waiting(): number {
    return this.entries - this.#free;
  }

  /** Requests produced that {@link push} has not made visible. */
  get unpushed(): number {
    return (this.#reqProdPvt - this.#pushed) >>> 0;
  }

  /** The id (low half) that the next {@link produce} uses. Only while `free` is not 0. */
  get nextId(): number {
    return this.#freeIds[this.#free - 1];
  }

  /**
   * Takes the next entry for a request whose answer must name `operation` (of an INDIRECT: the inner one), writes
   * its id and returns the entry's byte offset. Only while `free` is not 0.
   */
  produce(operation: number): number {
    const id = this.#freeIds[--this.#free];
    this.#expected[id] = operation;
    const at = this.#entry(this.#reqProdPvt);
    writeU64(this.#memory, at + this.#layout.id, id, ++this.#generation[id]);
    this.#reqProdPvt = (this.#reqProdPvt + 1) >>> 0;
    return at;
  }

  /** PUSH_REQUESTS_AND_CHECK_NOTIFY: makes what was produced visible; true when the backend asked to be told. */
  push(): boolean {
    const { i32 } = this.#memory;
    const before = this.#pushed;
    const now = this.#reqProdPvt;
    if (now === before) return false;
    this.#pushed = now;
    Atomics.store(i32, this.#reqProd, now | 0);
    return (now - Atomics.load(i32, this.#reqEvent)) >>> 0 < (now - before) >>> 0;
  }

  /** Whether there are responses that {@link consume} has not seen. */
  get hasResponses(): boolean {
    return Atomics.load(this.#memory.i32, this.#rspProd) >>> 0 !== this.#rspCons;
  }

  /**
   * Hands out every response that is there, and asks to be told of no other: {@link consume} must come before the
   * frontend sleeps. As it otherwise.
   */
  take(answered: (id: number, status: number) => void): number {
    let count = 0;
    for (;;) {
      const ready = this.#ready();
      if (ready === 0) return count;
      for (let i = 0; i < ready; i++) this.#take(answered);
      count += ready;
    }
  }

  /**
   * Hands out every response, then asks to be told of the next one (FINAL_CHECK_FOR_RESPONSES). `answered` gets the
   * low half of the id and the status; it may produce. Returns how many there were.
   * Throws a {@link ProtocolViolation}.
   */
  consume(answered: (id: number, status: number) => void): number {
    const { i32 } = this.#memory;
    let count = 0;
    do {
      count += this.take(answered);
      Atomics.store(i32, this.#rspEvent, (this.#rspCons + 1) | 0);
    } while (this.hasResponses);
    return count;
  }

  /** How many responses are there. Throws where there are more than requests. */
  #ready(): number {
    const ready = (Atomics.load(this.#memory.i32, this.#rspProd) - this.#rspCons) >>> 0;
    const pushed = (this.#pushed - this.#rspCons) >>> 0;
    if (ready <= pushed) return ready;
    throw new ProtocolViolation(
      `the backend gave an illegal number of responses: ${ready} for ${pushed} requests that wait`,
    );
  }

  #take(answered: (id: number, status: number) => void): void {
    const { u8, u32 } = this.#memory;
    const at = this.#entry(this.#rspCons);
    const id = u32[(at + Response.idLow) >>> 2];
    const generation = u32[(at + Response.idHigh) >>> 2];
    const operation = u8[at + Response.operation];
    const status = readStatus(this.#memory, at);
    if (id >= this.entries) {
      throw new ProtocolViolation(`a response has an id that is out of range (${hex(id)})`);
    }
    const expected = this.#expected[id];
    if (expected === IDLE || generation !== this.#generation[id]) {
      throw new ProtocolViolation(
        `a response references no pending request (id ${hex(id)}, upper half ${hex(generation)})`,
      );
    }
    if (operation !== expected) {
      throw new ProtocolViolation(`a response has a wrong operation (${operation} instead of ${expected})`);
    }
    this.#expected[id] = IDLE;
    this.#freeIds[this.#free++] = id;
    this.#rspCons = (this.#rspCons + 1) >>> 0;
    answered(id, status);
  }

  #entry(index: number): number {
    return this.#at + Sring.entries + (index & (this.entries - 1)) * this.#layout.stride;
  }
}
