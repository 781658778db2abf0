/** Message buffers that are used again, so that steady I/O makes no garbage. */

/** Room in front of the data for the longest reply header, a structured one with its offset (28 bytes). */
export const HEADROOM = 32;

/** One reply's bytes: a header that ends where the data starts. Data starts at `HEADROOM` at the earliest. */
export interface MessageBuffer {
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

/** Longer ones are left to the garbage collector. */
const LONGEST_KEPT = 1 << 20;

/**
 * Free buffers by their exact length. When they come to more than `limit` bytes all are dropped: the sizes that
 * are in use come back at once, those of an earlier workload do not.
 */
export class BufferPool {
  readonly #limit: number;
  readonly #free = new Map<number, MessageBuffer[]>();
  #kept = 0;

  constructor(limit = 16 << 20) {
    this.#limit = limit;
  }

  /** A buffer with room for `length` bytes of data behind the headroom; its content is arbitrary. */
  acquire(length: number): MessageBuffer {
    const found = this.#free.get(length)?.pop();
    if (found) {
      this.#kept -= found.bytes.byteLength;
      return found;
    }
    const bytes = Buffer.allocUnsafeSlow(HEADROOM + length);
    return { bytes, view: new DataView(bytes.buffer) };
  }

  release(buffer: MessageBuffer): void {
    const size = buffer.bytes.byteLength;
    if (size > LONGEST_KEPT + HEADROOM) return;
    if (this.#kept + size > this.#limit) {
      this.#free.clear();
      this.#kept = 0;
    }
    const length = size - HEADROOM;
    const list = this.#free.get(length);
    if (list) list.push(buffer);
    else this.#free.set(length, [buffer]);
    this.#kept += size;
  }
}
