/** A whole page, or the header, of an overlay, moved between a buffer and the device that the overlay is on. */
import { allocateMemory, type LinearMemory } from "../../core/memory.js";
import { addressOf } from "../../platform/libc.js";
import { type BlockDevice, IOVEC_BYTES, type IoVector, Result } from "../device.js";
import { PAGE } from "./cow-header.js";

/** Memory for one transfer at a time. */
export class PageMover {
  readonly #device: BlockDevice;
  readonly #io: IoVector;
  readonly #bytes: Uint8Array;

  /** The device stays the caller's. Transfers are of `bytes`, whole pages. */
  constructor(device: BlockDevice, bytes = PAGE) {
    this.#device = device;
    const memory: LinearMemory = allocateMemory(PAGE + bytes, addressOf);
    const entry = new BigUint64Array(memory.memory.buffer, 0, IOVEC_BYTES / 8);
    entry.set([BigInt(memory.base + PAGE), BigInt(bytes)]);
    this.#bytes = memory.u8.subarray(PAGE, PAGE + bytes);
    this.#io = { memory, table: 0, count: 1, bytes };
  }

  /** The bytes at a position, until the next call. Rejects with why they cannot be read. */
  async read(position: number): Promise<Uint8Array> {
    await new Promise<void>((resolve, reject) => {
      this.#device.read(position, this.#io, (result, error) => settle(result, error, resolve, reject));
    });
    return this.#bytes;
  }

  /** `bytes` may change as soon as this has returned. Rejects with why they cannot be written. */
  write(position: number, bytes: Uint8Array): Promise<void> {
    this.#bytes.set(bytes);
    return new Promise((resolve, reject) => {
      this.#device.write(position, this.#io, (result, error) => settle(result, error, resolve, reject));
    });
  }
}

/** Rejects with why the device cannot flush. */
export function flushed(device: BlockDevice): Promise<void> {
  return new Promise((resolve, reject) => {
    device.flush((result, error) => settle(result, error, resolve, reject));
  });
}

function settle(
  result: Result,
  error: Error | undefined,
  resolve: () => void,
  reject: (error: Error) => void,
): void {
  if (result === Result.Success) resolve();
  else reject(error ?? new Error("unknown error"));
}
