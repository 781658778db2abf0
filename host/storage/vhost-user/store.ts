/** What a thread needs to do I/O on one virtqueue of a server. Plain data, so that it can go to another thread. */
import type { SharedLog } from "../kept-writes.js";
import type { Shape } from "./virtqueue.js";

/** What a request may be, by what the server has told. */
export interface Limits {
  readonly sectorSize: number;
  /** Data segments of a request, and bytes of each, a multiple of the sector size. */
  readonly segments: number;
  readonly segmentBytes: number;
  readonly flush: boolean;
  /** The request that discards, the sectors of 512 bytes that it may have, and its flags; null where there is none. */
  readonly discard: { readonly type: number; readonly sectors: number; readonly flags: number } | null;
}

export interface VhostStore {
  readonly kind: "vhost-user";
  readonly name: string;
  readonly readOnly: boolean;
  /** When the queue was set up. */
  readonly bytes: number;
  readonly limits: Limits;
  readonly shape: Shape;
  /** The queue's number. */
  readonly index: number;
  /** The server reads it to hear of requests, and writes the other when it has answered. */
  readonly kickFd: number;
  readonly callFd: number;
  /** Eventfds that no server has: there is a new order for the queue, and the queue has something to say. */
  readonly toldFd: number;
  readonly reportFd: number;
  /** An i32 for all threads: the errno of the flush that failed, or 0. */
  readonly flushErrno: SharedArrayBuffer;
  /** See {@link QueueState}. */
  readonly state: SharedArrayBuffer;
  /** Where acknowledged writes are kept; null where there is no need. */
  readonly kept: SharedLog | null;
  /**
   * The connection that the server itself has its data from, or -1: once that has broken, a failure says nothing of the request,
   * which waits for the next server.
   */
  readonly connectionFd: number;
  /** The same for a server whose failures say that in any case: what they mean, for people. Null of all others. */
  readonly failureMeans: string | null;
  /** Milliseconds that a request waits for another connection. */
  readonly reconnectMs: number;
}

/** What the thread that has the socket wants of a queue. */
export const Order = {
  /** There is no connection: nothing is asked of the server, and what was not answered waits. */
  park: 0,
  /** There is one, with new memory: what waits is asked. */
  run: 1,
  /** There has been none for too long: what waits fails, and so does all that comes, until there is one. */
  fail: 2,
  /** There will be none. */
  lose: 3,
} as const;
export type Order = (typeof Order)[keyof typeof Order];

/** Why a queue cannot go on with this server. */
export const FAULTS = [
  "",
  "a virtqueue cannot be believed any more",
  "the server has changed the event descriptor of a virtqueue",
  "the memory of a virtqueue cannot be replaced",
] as const;
export const Fault = { ring: 1, event: 2, memory: 3 } as const;

const Word = { out: 0, answers: 1, wanted: 2, reached: 3, memory: 4, used: 5, fault: 6, cutOff: 7 } as const;

/** What the thread of a queue and the one that has the socket know of each other. Each word has one writer. */
export class QueueState {
  static readonly BYTES = 32;
  readonly #words: Int32Array;

  constructor(buffer: SharedArrayBuffer) {
    this.#words = new Int32Array(buffer);
  }

  /** A new queue's, which has no order yet. */
  static make(): QueueState {
    const state = new QueueState(new SharedArrayBuffer(QueueState.BYTES));
    state.#words[Word.reached] = state.#words[Word.used] = -1;
    return state;
  }

  get buffer(): SharedArrayBuffer {
    return this.#words.buffer as SharedArrayBuffer;
  }

  /** Requests that have not ended. */
  get out(): number {
    return Atomics.load(this.#words, Word.out);
  }

  /** Answers, counted without end. */
  get answers(): number {
    return Atomics.load(this.#words, Word.answers);
  }

  /** Of those, the ones that wait for the next server. */
  get cutOff(): number {
    return Atomics.load(this.#words, Word.cutOff);
  }

  note(out: number, answers: number, cutOff: number): void {
    Atomics.store(this.#words, Word.out, out);
    Atomics.store(this.#words, Word.cutOff, cutOff);
    if (answers > 0) Atomics.add(this.#words, Word.answers, answers);
  }

  /** The memfd of the last connection (see area.ts), which is open until no queue uses it. */
  get memoryFd(): number {
    return Atomics.load(this.#words, Word.memory);
  }

  /** Gives an order; orders are numbered, so that each is a new one. */
  order(order: Order, memoryFd: number): void {
    Atomics.store(this.#words, Word.memory, memoryFd);
    const number = (Atomics.load(this.#words, Word.wanted) >> 2) + 1;
    Atomics.store(this.#words, Word.wanted, (number << 2) | order);
  }

  /** The last order, as {@link obey} wants it. */
  get wanted(): number {
    return Atomics.load(this.#words, Word.wanted);
  }

  get obeyed(): boolean {
    return Atomics.load(this.#words, Word.reached) === this.wanted;
  }

  obey(wanted: number): void {
    Atomics.store(this.#words, Word.reached, wanted);
  }

  /** The memfd that the queue has mapped; -1 before the first. */
  get usedFd(): number {
    return Atomics.load(this.#words, Word.used);
  }

  use(memoryFd: number): void {
    Atomics.store(this.#words, Word.used, memoryFd);
  }

  /** An index of {@link FAULTS}. */
  get fault(): number {
    return Atomics.load(this.#words, Word.fault);
  }

  set fault(fault: number) {
    Atomics.compareExchange(this.#words, Word.fault, 0, fault);
  }
}
