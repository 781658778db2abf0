/**
 * The driver's side of one split virtqueue. The server can write every byte of it, so nothing is read from there but what
 * the server has to say, and that is judged: which requests are out, and what they are, is known here alone.
 */
import { DESCRIPTOR_BYTES, Descriptor, NO_STATUS, RANGE_BYTES, REQUEST_HEADER_BYTES, Status } from "./abi.js";
import {
  Control,
  MAX_REQUESTS,
  RECORD_BYTES,
  SHARED_BASE,
  sliceAt,
  TABLE_BYTES,
  TABLE_SEGMENTS,
} from "./area.js";

const TWO_TO_32 = 4294967296;
/** In a record: the header first. */
const RANGE_AT = REQUEST_HEADER_BYTES;
const STATUS_AT = RANGE_AT + RANGE_BYTES;
/** Descriptors that each request has where the server knows no tables, and how many there are. */
const CHAIN = 8;
const CHAINED_SIZE = 1024;

/** What the server said cannot be true. */
export class Violation extends Error {}

/** How a queue is laid out, by what the server can do. */
export interface Shape {
  readonly indirect: boolean;
  readonly eventIndex: boolean;
}

/** Descriptors of the ring. */
export function ringSize({ indirect }: Shape): number {
  return indirect ? MAX_REQUESTS : CHAINED_SIZE;
}

/** Data segments that a request may have. */
export function mostSegments({ indirect }: Shape): number {
  return indirect ? TABLE_SEGMENTS : CHAIN - 2;
}

/** A range of the shared memory as the server addresses it. */
export interface Segment {
  readonly address: number;
  readonly length: number;
}

export interface QueuedRequest {
  readonly type: number;
  /** In 512 bytes. */
  readonly sector: number;
  /** The server writes to the segments. */
  readonly reads: boolean;
  /** For DISCARD and WRITE_ZEROES, instead of segments. */
  readonly range: { readonly sectors: number; readonly flags: number } | null;
}

/**
 * Empties a ring, before the server hears of it: what an earlier one has left there a server may take for what it has said
 * itself, and then answer where nobody looks.
 */
export function clearRing(control: ArrayBuffer): void {
  new Uint8Array(control).fill(0, Control.available, Control.records);
}

export class Virtqueue {
  readonly #shape: Shape;
  readonly #size: number;
  readonly #u8: Uint8Array;
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  readonly #i32: Int32Array;
  /** The server's address of the control part. */
  readonly #address: number;
  readonly #free: number[] = [];
  /** By request: bytes that the server has to have written at least; -1 where the request is not out. */
  readonly #owed = new Float64Array(MAX_REQUESTS).fill(-1);
  #available = 0;
  #seen = 0;

  /** `control` is the control part of the slice of queue `index`, whose ring begins at 0 for the server, too. */
  constructor(control: ArrayBuffer, index: number, shape: Shape) {
    this.#shape = shape;
    this.#size = ringSize(shape);
    this.#u8 = new Uint8Array(control);
    this.#u16 = new Uint16Array(control);
    this.#u32 = new Uint32Array(control);
    this.#i32 = new Int32Array(control);
    this.#address = SHARED_BASE + sliceAt(index);
    clearRing(control);
    const requests = shape.indirect ? this.#size : this.#size / CHAIN;
    for (let id = requests - 1; id >= 0; id--) this.#free.push(id);
  }

  /** Requests that are out. */
  get out(): number {
    return (this.#available - this.#seen) & 0xffff;
  }

  /** The number that the next request will have; null where there is no room. */
  get next(): number | null {
    return this.#free.at(-1) ?? null;
  }

  /** Puts a request, for which there must be room, on the ring. True if the server wants to hear of it. */
  push(request: QueuedRequest, segments: readonly Segment[]): boolean {
    const id = this.#free.pop() as number;
    this.#owed[id] = this.#describe(id, request, segments);
    const head = this.#shape.indirect ? id : id * CHAIN;
    this.#u16[(Control.available + 4 + 2 * (this.#available % this.#size)) >> 1] = head;
    const before = this.#available;
    this.#available = (before + 1) & 0xffff;
    // The flags, which share the word, are zero.
    Atomics.store(this.#i32, Control.available >> 2, this.#available << 16);
    if (!this.#shape.eventIndex) return (Atomics.load(this.#i32, Control.used >> 2) & 1) === 0;
    const event = Atomics.load(this.#i32, (Control.used + 4 + 8 * this.#size) >> 2) & 0xffff;
    return event === before;
  }

  /** The server has answered something. */
  get hasAnswers(): boolean {
    return Atomics.load(this.#i32, Control.used >> 2) >>> 16 !== this.#seen;
  }

  /** Asks the server for a call at the next answer. Where it does not look at it, it calls at each. */
  askForCall(): void {
    Atomics.store(this.#i32, (Control.available + 4 + 2 * this.#size) >> 2, this.#seen);
  }

  /**
   * Takes what the server has answered. `ended` gets a request's number and its status, or what is wrong with the answer.
   * Throws a {@link Violation} where nothing more can be believed.
   */
  take(ended: (id: number, status: number, fault: string | null) => void): void {
    do {
      const used = Atomics.load(this.#i32, Control.used >> 2) >>> 16;
      const answers = (used - this.#seen) & 0xffff;
      if (answers > this.out)
        throw new Violation(`a used index that is ${answers} ahead, with ${this.out} requests in flight`);
      for (let i = 0; i < answers; i++) this.#takeOne(ended);
    } while (this.hasAnswers);
  }

  #takeOne(ended: (id: number, status: number, fault: string | null) => void): void {
    const at = (Control.used + 4 + 8 * (this.#seen % this.#size)) >> 2;
    const head = this.#u32[at];
    const written = this.#u32[at + 1];
    const id = this.#shape.indirect ? head : head / CHAIN;
    const owed = this.#owed[id] ?? -1;
    if (owed < 0) throw new Violation(`an answer to descriptor ${head}, which has no request in flight`);
    this.#seen = (this.#seen + 1) & 0xffff;
    this.#owed[id] = -1;
    const status = this.#u8[Control.records + id * RECORD_BYTES + STATUS_AT];
    this.#free.push(id);
    // A number that is too large does no harm, and there are servers that count what they have read.
    const short = owed > 1 && written < owed && status === Status.ok;
    const fault =
      status === NO_STATUS
        ? "the server has written no status"
        : short
          ? `the server has written ${written} bytes, not ${owed}`
          : null;
    ended(id, status, fault);
  }

  /** Writes all of a request but its head's place; the bytes that the server owes. */
  #describe(id: number, request: QueuedRequest, segments: readonly Segment[]): number {
    const { type, sector, reads, range } = request;
    const { indirect } = this.#shape;
    const record = Control.records + id * RECORD_BYTES;
    this.#u32[record >> 2] = type;
    this.#u32[(record >> 2) + 1] = 0;
    this.#set64(record + 8, range ? 0 : sector);
    this.#u8[record + STATUS_AT] = NO_STATUS;
    const base = indirect ? 0 : id * CHAIN;
    const first = indirect
      ? Control.tables + id * TABLE_BYTES
      : Control.descriptors + base * DESCRIPTOR_BYTES;
    let at = first;
    let next = base + 1;
    let owed = 1;
    this.#setDescriptor(at, this.#address + record, REQUEST_HEADER_BYTES, Descriptor.next, next++);
    for (const { address, length } of segments) {
      const flags = reads ? Descriptor.next | Descriptor.write : Descriptor.next;
      this.#setDescriptor((at += DESCRIPTOR_BYTES), address, length, flags, next++);
      if (reads) owed += length;
    }
    if (range) {
      this.#set64(record + RANGE_AT, sector);
      this.#u32[(record + RANGE_AT + 8) >> 2] = range.sectors;
      this.#u32[(record + RANGE_AT + 12) >> 2] = range.flags;
      at += DESCRIPTOR_BYTES;
      this.#setDescriptor(at, this.#address + record + RANGE_AT, RANGE_BYTES, Descriptor.next, next++);
    }
    at += DESCRIPTOR_BYTES;
    this.#setDescriptor(at, this.#address + record + STATUS_AT, 1, Descriptor.write, 0);
    if (indirect) {
      const head = Control.descriptors + id * DESCRIPTOR_BYTES;
      const bytes = at + DESCRIPTOR_BYTES - first;
      this.#setDescriptor(head, this.#address + first, bytes, Descriptor.indirect, 0);
    }
    return owed;
  }

  #setDescriptor(at: number, address: number, length: number, flags: number, next: number): void {
    this.#set64(at, address);
    this.#u32[(at + 8) >> 2] = length;
    this.#u16[(at + 12) >> 1] = flags;
    this.#u16[(at + 14) >> 1] = next;
  }

  #set64(at: number, value: number): void {
    const high = Math.floor(value / TWO_TO_32);
    this.#u32[at >> 2] = value - high * TWO_TO_32;
    this.#u32[(at >> 2) + 1] = high;
  }
}
