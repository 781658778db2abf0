/**
 * Copies of writes that a server has acknowledged and not yet flushed. A server that dies takes with it what it had not
 * flushed, but the guest's kernel lives: it would find old data where it has seen its new data, without having crashed
 * itself. So they are written again to the server that comes next, before anything else.
 *
 * The threads that write to one disk have one log of copies in shared memory: they are in the order in which the writes
 * were acknowledged, whichever queue they came from, and a flush on one queue covers those of all. Of two writes that
 * overlap, the later one was acknowledged later, or they were in flight together and may be in either order.
 */
import { closeSync, ftruncateSync } from "node:fs";
import { mapBuffer, unmapBuffer } from "../platform/libc.js";
import { removePages, sealedMemory } from "../platform/sharing.js";

/** A guest that never flushes is flushed for from so much on, while it goes on writing; at the most it waits for that. */
export const FLUSHED_FOR_BYTES = 16 << 20;
export const MOST_UNFLUSHED_BYTES = 32 << 20;
/** As many writes at the most; those of 2 KiB and more reach the bytes first. */
const MOST_WRITES = MOST_UNFLUSHED_BYTES >> 11;
const TIDY_MS = 5000;

/** What another thread needs for the same log. Plain data. */
export interface SharedLog {
  /** MOST_UNFLUSHED_BYTES, in which the copies go round. */
  readonly memoryFd: number;
  readonly state: SharedArrayBuffer;
}

export interface KeptWrite {
  readonly position: number;
  readonly length: number;
  /** The data. One, or two where they go round the end of the memory. */
  readonly views: readonly Uint8Array[];
}

/** In the state: 32-bit words, then the position, the place and the length of each write. */
const Word = { lock: 0, first: 1, next: 2, bytes: 3, start: 4, touched: 5 } as const;
const WORDS = 8;
const POSITIONS_AT = WORDS * 4;
const PLACES_AT = POSITIONS_AT + MOST_WRITES * 8;
const LENGTHS_AT = PLACES_AT + MOST_WRITES * 4;
const STATE_BYTES = LENGTHS_AT + MOST_WRITES * 4;

export class KeptWrites {
  readonly shared: SharedLog;
  readonly #words: Int32Array;
  readonly #positions: Float64Array;
  readonly #places: Uint32Array;
  readonly #lengths: Uint32Array;
  readonly #address: number;
  readonly #data: Uint8Array;
  /** Null in those who did not make it. */
  #tidying: NodeJS.Timeout | null = null;
  /** Writes that were there at the last look. */
  #seen = 0;

  /** Uses a log that another one has made, and has as long as this one. */
  constructor(shared: SharedLog) {
    const { memoryFd, state } = shared;
    this.shared = shared;
    this.#words = new Int32Array(state, 0, WORDS);
    this.#positions = new Float64Array(state, POSITIONS_AT, MOST_WRITES);
    this.#places = new Uint32Array(state, PLACES_AT, MOST_WRITES);
    this.#lengths = new Uint32Array(state, LENGTHS_AT, MOST_WRITES);
    const { address, bytes } = mapBuffer(memoryFd, 0, MOST_UNFLUSHED_BYTES, false);
    this.#address = address;
    this.#data = new Uint8Array(bytes);
  }

  /** A log for one disk. A page of it costs nothing until it is written. */
  static make(): KeptWrites {
    const memoryFd = sealedMemory("xbdback-kept", (fd) => ftruncateSync(fd, MOST_UNFLUSHED_BYTES));
    const kept = new KeptWrites({ memoryFd, state: new SharedArrayBuffer(STATE_BYTES) });
    kept.#tidying = setInterval(() => kept.tidy(), TIDY_MS).unref();
    return kept;
  }

  get bytes(): number {
    return Atomics.load(this.#words, Word.bytes);
  }

  /** Writes in it. */
  get count(): number {
    return (Atomics.load(this.#words, Word.next) - Atomics.load(this.#words, Word.first)) | 0;
  }

  /** It is time to flush, although the guest does not ask for it. */
  get wantsFlush(): boolean {
    return this.bytes >= FLUSHED_FOR_BYTES || this.count >= MOST_WRITES / 2;
  }

  /** Keeps a write that was acknowledged; false where there is no room before a flush. */
  add(position: number, views: readonly Uint8Array[], length: number): boolean {
    return this.#locked(() => {
      const words = this.#words;
      const bytes = words[Word.bytes];
      if (bytes + length > MOST_UNFLUSHED_BYTES || this.count === MOST_WRITES) return false;
      if (bytes === 0) words[Word.start] = 0;
      const place = (words[Word.start] + bytes) % MOST_UNFLUSHED_BYTES;
      const next = words[Word.next];
      const entry = indexOf(next);
      this.#positions[entry] = position;
      this.#places[entry] = place;
      this.#lengths[entry] = length;
      this.#copy(views, place);
      words[Word.touched] = Math.max(words[Word.touched], Math.min(place + length, MOST_UNFLUSHED_BYTES));
      Atomics.store(words, Word.bytes, bytes + length);
      Atomics.store(words, Word.next, (next + 1) | 0);
      return true;
    });
  }

  /** What a flush that is begun now is going to cover, for {@link forget}. */
  mark(): number {
    return Atomics.load(this.#words, Word.next);
  }

  /** Those up to a mark are on stable storage. */
  forget(mark: number): void {
    this.#locked(() => {
      const words = this.#words;
      let first = words[Word.first];
      let bytes = words[Word.bytes];
      for (; ((mark - first) | 0) > 0; first = (first + 1) | 0) {
        const length = this.#lengths[indexOf(first)];
        bytes -= length;
        words[Word.start] = (words[Word.start] + length) % MOST_UNFLUSHED_BYTES;
      }
      Atomics.store(words, Word.bytes, bytes);
      Atomics.store(words, Word.first, first);
    });
  }

  /** All of them are lost. */
  clear(): void {
    this.forget(this.mark());
  }

  /** In their order. Nobody may add or forget any meanwhile. */
  *writes(): Generator<KeptWrite> {
    const next = this.mark();
    for (let at = this.#words[Word.first]; at !== next; at = (at + 1) | 0) {
      const entry = indexOf(at);
      const [place, length] = [this.#places[entry], this.#lengths[entry]];
      const whole = this.#data.subarray(place, place + length);
      const rest = length - whole.length;
      const views = rest === 0 ? [whole] : [whole, this.#data.subarray(0, rest)];
      yield { position: this.#positions[entry], length, views };
    }
  }

  /** Gives the memory back to the kernel if nothing was kept since the last call. */
  tidy(): void {
    this.#locked(() => {
      const words = this.#words;
      const next = words[Word.next];
      const idle = words[Word.bytes] === 0 && next === this.#seen;
      this.#seen = next;
      if (!idle || words[Word.touched] === 0) return;
      removePages(this.#address, Math.ceil(words[Word.touched] / 4096) * 4096);
      words[Word.touched] = 0;
    });
  }

  /** The memory itself goes when the one that made it is closed. */
  close(): void {
    unmapBuffer(this.#address, MOST_UNFLUSHED_BYTES);
    if (this.#tidying === null) return;
    clearInterval(this.#tidying);
    closeSync(this.shared.memoryFd);
  }

  #copy(views: readonly Uint8Array[], place: number): void {
    let at = place;
    for (const view of views) {
      const room = MOST_UNFLUSHED_BYTES - at;
      if (view.length <= room) this.#data.set(view, at);
      else {
        this.#data.set(view.subarray(0, room), at);
        this.#data.set(view.subarray(room), 0);
      }
      at = (at + view.length) % MOST_UNFLUSHED_BYTES;
    }
  }

  /** Does it while no other thread does. The lock is 0 when free, 1 when held, 2 when somebody may wait for it. */
  #locked<T>(action: () => T): T {
    const words = this.#words;
    if (Atomics.compareExchange(words, Word.lock, 0, 1) !== 0) {
      while (Atomics.exchange(words, Word.lock, 2) !== 0) Atomics.wait(words, Word.lock, 2);
    }
    try {
      return action();
    } finally {
      if (Atomics.exchange(words, Word.lock, 0) === 2) Atomics.notify(words, Word.lock, 1);
    }
  }
}

/** Where the write of a number is described; the numbers go on for ever. */
function indexOf(number: number): number {
  return (number >>> 0) % MOST_WRITES;
}
