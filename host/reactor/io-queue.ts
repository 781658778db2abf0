/** A ring's way to its disk. */
import type { Result } from "../storage/device.js";

/** Starts the I/Os that stand in the core's table. */
export interface IoQueue {
  /** Starts the I/O of a slot. The owner hears of its end once, and not before this returns. */
  start(slot: number): void;
  /** Pages of the persistent window were mapped. */
  mapped?(page: number, count: number): void;
  /** Pages of the persistent window are going to be unmapped, or mapped anew. */
  unmapping?(page: number, count: number): void;
  /** Gives pages of the data window back to the kernel; not there where they are private memory. */
  readonly discardData?: (address: number, length: number) => void;
  /** To be called when no I/O is under way, before the pages are unmapped. */
  close(): void;
}

export interface IoOwner {
  /** `error` says why, where `result` is not Success. */
  ended(slot: number, result: Result, error?: Error): void;
}
