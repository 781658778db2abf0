/**
 * Copies of writes that a server has acknowledged and not yet flushed. A server that dies takes with it what it had not
 * flushed, but the guest's kernel lives: it would find old data where it has seen its new data, without having crashed
 * itself. So they are written again to the server that comes next, before anything else.
 */
export interface UnflushedWrite {
  readonly position: number;
  readonly data: Buffer;
}

/** A guest that never flushes is flushed for from so much on, while it goes on writing; at the most it waits for that. */
export const FLUSHED_FOR_BYTES = 16 << 20;
export const MOST_UNFLUSHED_BYTES = 32 << 20;

export class Unflushed {
  /** In the order in which they were acknowledged: of two that overlap, the later one was begun later. */
  readonly #writes: UnflushedWrite[] = [];
  /** Writes that were forgotten so far: the number of the first one here. */
  #forgotten = 0;
  #bytes = 0;

  get bytes(): number {
    return this.#bytes;
  }

  get writes(): readonly UnflushedWrite[] {
    return this.#writes;
  }

  add(position: number, views: readonly Uint8Array[], length: number): void {
    this.#writes.push({ position, data: Buffer.concat(views, length) });
    this.#bytes += length;
  }

  /** What a flush that is begun now is going to cover, for {@link forget}. */
  mark(): number {
    return this.#forgotten + this.#writes.length;
  }

  /** Those up to a mark are on stable storage. */
  forget(mark: number): void {
    const flushed = this.#writes.splice(0, Math.max(mark - this.#forgotten, 0));
    this.#forgotten += flushed.length;
    for (const { data } of flushed) this.#bytes -= data.length;
  }

  /** All of them are lost. */
  clear(): void {
    this.forget(this.mark());
  }
}
