/** A ring's way to its disk. */
import type { Result } from "../storage/device.js";

/** Starts the I/Os that stand in the core's table. */
export interface IoQueue {
  /** Starts the I/O of a slot. The owner hears of its end once, and not before this returns. */
  start(slot: number): void;
  /** To be called when no I/O is under way. */
  close(): void;
}

export interface IoOwner {
  /** `error` says why, where `result` is not Success. */
  ended(slot: number, result: Result, error?: Error): void;
}
