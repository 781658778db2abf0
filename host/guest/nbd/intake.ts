/** Cuts what a socket delivers into pieces of the lengths that the reader asks for, and stops reading when told. */
import type { Socket } from "node:net";

/** Copies this short are done byte by byte: cheaper than making a view. */
const SHORT_COPY = 64;

const EMPTY = new Uint8Array(0);

/**
 * One piece is asked for at a time, with `take` or `skip`; the callback that gets it asks for the next. While the
 * intake is held nothing is delivered and, beyond the bytes that have come already, nothing is read.
 */
export class Intake {
  readonly #socket: Socket;
  #arrived: Uint8Array = EMPTY;
  #offset = 0;
  #target: Uint8Array | null = null;
  #filled = 0;
  #missing = 0;
  #then: (() => void) | null = null;
  #held = false;
  #stopped = false;
  #running = false;
  #atEnd = false;
  readonly #ended: () => void;

  /** `ended` is called when the peer sends no more and everything that it sent was delivered. */
  constructor(socket: Socket, ended: () => void) {
    this.#socket = socket;
    this.#ended = ended;
    socket.on("data", (bytes: Uint8Array) => {
      if (this.#stopped) return;
      this.#append(bytes);
      this.#run();
    });
    // It comes while the socket is paused, too, and bytes may still lie here.
    socket.on("end", () => {
      this.#atEnd = true;
      this.#run();
    });
  }

  /** Fills `into` with the next bytes, then calls `then`. */
  take(into: Uint8Array, then: () => void): void {
    this.#target = into;
    this.#filled = 0;
    this.#missing = into.byteLength;
    this.#then = then;
  }

  /** Throws the next `count` bytes away, then calls `then`. */
  skip(count: number, then: () => void): void {
    this.#target = null;
    this.#missing = count;
    this.#then = then;
  }

  hold(): void {
    this.#held = true;
    this.#socket.pause();
  }

  release(): void {
    if (!this.#held || this.#stopped) return;
    this.#held = false;
    this.#run();
    if (!this.#held) this.#socket.resume();
  }

  /** No callback is called any more; what still comes is thrown away. */
  stop(): void {
    this.#stopped = true;
    this.#then = null;
    this.#target = null;
    this.#arrived = EMPTY;
    this.#offset = 0;
    this.#socket.resume();
  }

  #append(bytes: Uint8Array): void {
    const rest = this.#arrived.byteLength - this.#offset;
    // A paused socket may still hand over what it had read.
    this.#arrived = rest === 0 ? bytes : Buffer.concat([this.#arrived.subarray(this.#offset), bytes]);
    this.#offset = 0;
  }

  #run(): void {
    if (this.#running) return;
    this.#running = true;
    while (!this.#held && this.#then) {
      if (this.#missing === 0) {
        const then = this.#then;
        this.#then = null;
        then();
      } else if (this.#offset < this.#arrived.byteLength) {
        this.#move();
      } else {
        this.#arrived = EMPTY;
        this.#offset = 0;
        break;
      }
    }
    this.#running = false;
    if (this.#atEnd && !this.#held && !this.#stopped) this.#ended();
  }

  #move(): void {
    const from = this.#arrived;
    const start = this.#offset;
    const count = Math.min(this.#missing, from.byteLength - start);
    const into = this.#target;
    if (into && count <= SHORT_COPY) {
      for (let i = 0; i < count; i++) into[this.#filled + i] = from[start + i];
    } else if (into) {
      into.set(from.subarray(start, start + count), this.#filled);
    }
    this.#offset = start + count;
    this.#filled += count;
    this.#missing -= count;
  }
}
