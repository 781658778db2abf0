/**
 * What an observer of a ring sends to whoever asked for it: bytes in a queue in shared memory, written by the ring's thread
 * and read by the main thread. Neither waits for the other: what does not fit is not written.
 */
import type { ObserverKind } from "./observer.js";

/** Bytes of the queue, powers of two: a recording must not lose any, a trace may. */
const CAPACITY: Record<ObserverKind, number> = { record: 1 << 24, trace: 1 << 18 };

/** i32 each, in front of the bytes; `written` and `read` are free-running. */
const WRITTEN = 0;
const READ = 1;
const DROPPED = 2;
const STATE = 3;
const WHY_LENGTH = 4;
/** The reason for the end, in UTF-8. */
const WHY = 32;
const WHY_BYTES = 480;
const HEADER_BYTES = 512;

const WAITING = 0;
const RUNNING = 1;
const ENDED = 2;

export class ObservationQueue {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #mask: number;

  constructor(buffer: SharedArrayBuffer) {
    this.buffer = buffer;
    this.#words = new Int32Array(buffer, 0, HEADER_BYTES >> 2);
    this.#bytes = new Uint8Array(buffer, HEADER_BYTES);
    this.#mask = this.#bytes.length - 1;
  }

  static for(kind: ObserverKind): ObservationQueue {
    return new ObservationQueue(new SharedArrayBuffer(HEADER_BYTES + CAPACITY[kind]));
  }

  // ---- The ring's thread ----

  begin(): void {
    Atomics.store(this.#words, STATE, RUNNING);
  }

  /** Adds all of it, or nothing and returns false. */
  write(bytes: Uint8Array): boolean {
    const written = Atomics.load(this.#words, WRITTEN);
    const used = (written - Atomics.load(this.#words, READ)) >>> 0;
    if (bytes.length > this.#bytes.length - used) return false;
    const at = written & this.#mask;
    const first = Math.min(bytes.length, this.#bytes.length - at);
    this.#bytes.set(bytes.subarray(0, first), at);
    this.#bytes.set(bytes.subarray(first), 0);
    Atomics.store(this.#words, WRITTEN, (written + bytes.length) | 0);
    return true;
  }

  drop(): void {
    Atomics.add(this.#words, DROPPED, 1);
  }

  /** The first reason counts. */
  end(why: string): void {
    if (Atomics.load(this.#words, STATE) === ENDED) return;
    const text = new TextEncoder().encode(why).subarray(0, WHY_BYTES);
    new Uint8Array(this.buffer, WHY, WHY_BYTES).set(text);
    Atomics.store(this.#words, WHY_LENGTH, text.length);
    Atomics.store(this.#words, STATE, ENDED);
  }

  // ---- The main thread ----

  /** It has not begun: requests that were in flight when it was asked for still are. */
  get waits(): boolean {
    return Atomics.load(this.#words, STATE) === WAITING;
  }

  /** Why it has ended; null when it has not. Everything that was written before is still to be read. */
  get ended(): string | null {
    if (Atomics.load(this.#words, STATE) !== ENDED) return null;
    const length = Atomics.load(this.#words, WHY_LENGTH);
    // A decoder takes no shared memory.
    return new TextDecoder().decode(new Uint8Array(this.buffer, WHY, length).slice());
  }

  /** What was dropped since this was last asked. */
  takeDropped(): number {
    return Atomics.exchange(this.#words, DROPPED, 0);
  }

  /** What is there, at most so many bytes of it. */
  read(most: number): Uint8Array {
    const read = Atomics.load(this.#words, READ);
    const length = Math.min((Atomics.load(this.#words, WRITTEN) - read) >>> 0, most);
    const bytes = new Uint8Array(length);
    const at = read & this.#mask;
    const first = Math.min(length, this.#bytes.length - at);
    bytes.set(this.#bytes.subarray(at, at + first));
    bytes.set(this.#bytes.subarray(0, length - first), first);
    Atomics.store(this.#words, READ, (read + length) | 0);
    return bytes;
  }
}
