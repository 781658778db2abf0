/**
 * Copies of writes that a server has acknowledged and not yet flushed. A server that dies takes with it what it had not
 * flushed, but the guest's kernel lives: it would find old data where it has seen its new data, without having crashed
 * itself. So they are written again to the server that comes next, before anything else; by the daemon that comes next,
 * where this one dies as well.
 *
 * The threads that write to one disk have one log of copies in shared memory: they are in the order in which the writes
 * were acknowledged, whichever queue they came from, and a flush on one queue covers those of all. Of two writes that
 * overlap, the later one was acknowledged later, or they were in flight together and may be in either order.
 */
import { closeSync } from "node:fs";
import {
  createFile,
  KeptMemory,
  MOST_RECORDS,
  makeMemory,
  openFile,
  RECORD_BYTES,
  RING_BYTES,
} from "./kept-memory.js";

/** A guest that never flushes is flushed for from so much on, while it goes on writing; at the most it waits for that. */
export const FLUSHED_FOR_BYTES = RING_BYTES / 2;
/** Of the writes with what describes them. */
export const MOST_UNFLUSHED_BYTES = RING_BYTES;
const TIDY_MS = 5000;

/** For the operator, when a server refuses what was kept. */
export const CANNOT_REPEAT =
  "a write that was acknowledged cannot be repeated; nothing more is written until the disk is attached again";

/** What another thread needs for the same log. Plain data. */
export interface SharedLog {
  readonly memoryFd: number;
  readonly state: SharedArrayBuffer;
}

export interface KeptWrite {
  readonly position: number;
  readonly length: number;
  /** The data. One, or two where they go round the end of the memory. */
  readonly views: readonly Uint8Array[];
}

/** Where a log is kept that is to outlive the daemon. */
export interface KeptPlace {
  /** A file's, on a tmpfs. */
  readonly path: string;
  /** What tells its disk from others. */
  readonly identity: string;
  /** Another daemon has served the disk to the same vbd: what it has left is to be written again. */
  readonly again: boolean;
}

/** In the state: the lock; the numbers of the first write and of the next one; the bytes that are allocated; no room for more. */
const Word = { lock: 0, first: 1, next: 2, allocated: 3, crowded: 4 } as const;
const WORDS = 5;

export class KeptWrites {
  readonly shared: SharedLog;
  readonly #words: Int32Array;
  readonly #memory: KeptMemory;
  /** Null in those who did not make it. */
  #tidying: NodeJS.Timeout | null = null;
  /** Writes that were there at the last look. */
  #seen = 0;

  /** Uses a log that another one has made, and has as long as this one. */
  constructor(shared: SharedLog) {
    this.shared = shared;
    this.#words = new Int32Array(shared.state);
    this.#memory = new KeptMemory(shared.memoryFd);
  }

  /** A log for one disk that ends with this process. */
  static make(): KeptWrites {
    return KeptWrites.#over(makeMemory());
  }

  /** An empty log in a file. `crowded` is called once, when the file system has no room for more. Throws where it cannot be. */
  static create({ path, identity }: KeptPlace, crowded: () => void): KeptWrites {
    return KeptWrites.#over(createFile(path, identity), crowded);
  }

  /** The log that another process has left; null where there is none. Throws as {@link openFile} does. */
  static inherit({ path, identity }: KeptPlace, crowded: () => void): KeptWrites | null {
    const fd = openFile(path, identity);
    return fd === null ? null : KeptWrites.#over(fd, crowded);
  }

  static #over(memoryFd: number, crowded = (): void => {}): KeptWrites {
    const kept = new KeptWrites({ memoryFd, state: new SharedArrayBuffer(4 * WORDS) });
    kept.#tidying = setInterval(() => {
      kept.tidy();
      if (Atomics.compareExchange(kept.#words, Word.crowded, 1, 2) === 1) crowded();
    }, TIDY_MS).unref();
    try {
      const { first, count } = kept.#memory.check();
      kept.#words[Word.first] = first;
      kept.#words[Word.next] = (first + count) | 0;
      return kept;
    } catch (error) {
      kept.close();
      throw error;
    }
  }

  /** Of the writes that are kept, with what describes them. */
  get bytes(): number {
    return this.#memory.used;
  }

  /** Writes in it. */
  get count(): number {
    return (Atomics.load(this.#words, Word.next) - Atomics.load(this.#words, Word.first)) | 0;
  }

  /** It is time to flush, although the guest does not ask for it. */
  get wantsFlush(): boolean {
    return this.bytes >= FLUSHED_FOR_BYTES || this.count >= MOST_RECORDS / 2;
  }

  /** The errno of a write that is lost: whoever comes next must not believe a later success. 0 where none is. */
  get lost(): number {
    return this.#memory.lost;
  }

  /** Keeps a write that was acknowledged; false where there is no room before a flush. */
  add(position: number, views: readonly Uint8Array[], length: number): boolean {
    return this.#locked(() => {
      const { used } = this.#memory;
      if (used + RECORD_BYTES + length > RING_BYTES || this.count === MOST_RECORDS) return false;
      if (used === 0) this.#memory.rewind();
      const place = this.#memory.tail;
      if (!this.#allocated(Math.min(place + RECORD_BYTES + length, RING_BYTES))) return false;
      const next = this.#words[Word.next];
      this.#memory.describe(next, position, length);
      this.#copy(views, (place + RECORD_BYTES) % RING_BYTES);
      this.#memory.commit(length);
      Atomics.store(this.#words, Word.next, (next + 1) | 0);
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
      const first = this.#words[Word.first];
      // A flush that ends late may cover what was forgotten before.
      const covered = (mark - first) | 0;
      if (covered <= 0) return;
      let bytes = 0;
      for (let i = 0; i < covered; i++)
        bytes += RECORD_BYTES + this.#memory.lengthAt((this.#memory.head + bytes) % RING_BYTES);
      this.#memory.drop(bytes);
      Atomics.store(this.#words, Word.first, mark);
    });
  }

  /** All of them are lost, because of this errno. */
  lose(errno: number): void {
    this.#memory.lost = errno;
    this.forget(this.mark());
  }

  /** In their order. Nobody may add or forget any meanwhile. */
  *writes(): Generator<KeptWrite> {
    const { used, head, data } = this.#memory;
    for (let at = 0; at < used; ) {
      const offset = (head + at) % RING_BYTES;
      const { position, length } = this.#memory.recordAt(offset);
      const place = (offset + RECORD_BYTES) % RING_BYTES;
      const whole = data.subarray(place, place + length);
      const rest = length - whole.length;
      const views = rest === 0 ? [whole] : [whole, data.subarray(0, rest)];
      yield { position, length, views };
      at += RECORD_BYTES + length;
    }
  }

  /** Gives the memory back to the kernel if nothing was kept since the last call. */
  tidy(): void {
    this.#locked(() => {
      const words = this.#words;
      const next = words[Word.next];
      const idle = this.#memory.used === 0 && next === this.#seen;
      this.#seen = next;
      if (!idle || words[Word.allocated] === 0) return;
      this.#memory.free(words[Word.allocated]);
      words[Word.allocated] = 0;
    });
  }

  /** The memory goes when the one that made it is closed; a file stays, with what was not flushed. */
  close(): void {
    this.#memory.unmap();
    if (this.#tidying === null) return;
    clearInterval(this.#tidying);
    closeSync(this.shared.memoryFd);
  }

  #allocated(needed: number): boolean {
    const words = this.#words;
    if (needed > words[Word.allocated])
      words[Word.allocated] = this.#memory.allocate(words[Word.allocated], needed);
    const fits = needed <= words[Word.allocated];
    if (!fits) Atomics.compareExchange(words, Word.crowded, 0, 1);
    return fits;
  }

  #copy(views: readonly Uint8Array[], place: number): void {
    const { data } = this.#memory;
    let at = place;
    for (const view of views) {
      const room = RING_BYTES - at;
      if (view.length <= room) data.set(view, at);
      else {
        data.set(view.subarray(0, room), at);
        data.set(view.subarray(room), 0);
      }
      at = (at + view.length) % RING_BYTES;
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
