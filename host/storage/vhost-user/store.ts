/** What a thread needs to do I/O on one virtqueue of a server. Plain data, so that it can go to another thread. */
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
  /** See area.ts. */
  readonly memoryFd: number;
  /** The server reads it to hear of requests, and writes the other when it has answered. */
  readonly kickFd: number;
  readonly callFd: number;
  /** An eventfd that no server has, readable once the server is lost, or a thread has found that it cannot be believed. */
  readonly lostFd: number;
  /** An i32 for all threads: the errno of the flush that failed, or 0. */
  readonly flushErrno: SharedArrayBuffer;
  /** See {@link Progress}. */
  readonly progress: SharedArrayBuffer;
}

/** How far a queue is, for the thread that has an eye on the server. */
export class Progress {
  static readonly BYTES = 8;
  readonly #words: Int32Array;

  constructor(buffer: SharedArrayBuffer) {
    this.#words = new Int32Array(buffer);
  }

  /** Requests that are out. */
  get out(): number {
    return Atomics.load(this.#words, 0);
  }

  /** Answers, counted without end. */
  get answers(): number {
    return Atomics.load(this.#words, 1);
  }

  note(out: number, answers: number): void {
    Atomics.store(this.#words, 0, out);
    Atomics.add(this.#words, 1, answers);
  }
}
