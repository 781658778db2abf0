/** Puts what a socket delivers where its reader wants it: long pieces from the kernel straight into their place. */
import type { OnReadOpts } from "node:net";

/** Room for many short replies in one read. */
const BUFFER_BYTES = 256 << 10;
/** What comes before anybody asks for it is kept up to this. */
const MOST_EARLY_BYTES = 1 << 20;
/** A piece with more than this to come is read without a detour through the buffer. */
const DIRECT_BYTES = 64 << 10;

const EMPTY = new Uint8Array(0);

/** One piece is asked for at a time; the callback that gets it asks for the next. */
export class Receiver {
  /** For net.connect(). */
  readonly onread: OnReadOpts;
  /** When bytes came last, by performance.now(). */
  lastAt = performance.now();
  /** Called when far more comes than was asked for. */
  onExcess: () => void = () => {};
  readonly #buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  #targets: readonly Uint8Array[] = [];
  #target = 0;
  /** Bytes of that target that have come. */
  #filled = 0;
  #then: (() => void) | null = null;
  #stopped = false;
  /** Came before it was asked for. */
  #early: Uint8Array = EMPTY;
  #running = false;

  constructor() {
    this.onread = {
      buffer: () => this.#place(),
      callback: (bytes, buffer) => {
        this.#arrived(bytes, buffer);
        return true;
      },
    };
  }

  /** Fills these, none of them empty, with the next bytes, then calls `then`. */
  take(targets: readonly Uint8Array[], then: () => void): void {
    this.#targets = targets;
    this.#target = 0;
    this.#filled = 0;
    this.#then = then;
    if (this.#early.length > 0 && !this.#running) {
      const early = this.#early;
      this.#early = EMPTY;
      this.#hand(early);
    }
  }

  /** No callback is called, and no target written, any more. */
  stop(): void {
    this.#stopped = true;
    this.#then = null;
    this.#targets = [];
  }

  /** Where the next read is to go. */
  #place(): Uint8Array {
    const target = this.#then && this.#targets[this.#target];
    if (!target || target.length - this.#filled <= DIRECT_BYTES) return this.#buffer;
    return target.subarray(this.#filled);
  }

  #arrived(bytes: number, buffer: Uint8Array): void {
    if (this.#stopped) return;
    this.lastAt = performance.now();
    if (buffer !== this.#buffer) {
      this.#advance(bytes);
      return;
    }
    this.#hand(buffer.subarray(0, bytes));
  }

  #hand(bytes: Uint8Array): void {
    this.#running = true;
    let at = 0;
    while (at < bytes.length && this.#then) {
      const target = this.#targets[this.#target];
      const count = Math.min(bytes.length - at, target.length - this.#filled);
      target.set(bytes.subarray(at, at + count), this.#filled);
      at += count;
      this.#advance(count);
    }
    this.#running = false;
    if (at === bytes.length || this.#stopped) return;
    // The buffer is read into again.
    this.#early = Buffer.concat([this.#early, bytes.subarray(at)]);
    if (this.#early.length > MOST_EARLY_BYTES) this.onExcess();
  }

  #advance(bytes: number): void {
    this.#filled += bytes;
    if (this.#filled < this.#targets[this.#target].length) return;
    this.#filled = 0;
    if (++this.#target < this.#targets.length) return;
    const then = this.#then as () => void;
    this.#then = null;
    then();
  }
}
