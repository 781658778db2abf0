/** The way bytes get to the kernel: what a raw device asks of libuv's thread pool, or of io_uring. */
import type { IoVector } from "./device.js";

/** Gets 0, or the positive errno. */
export type ErrnoDone = (errno: number) => void;

/** Gets 0 and the bytes that were moved, perhaps fewer than asked for (0 at the end of a file); or an errno. */
export type TransferDone = (errno: number, bytes: number) => void;

/**
 * System calls that do not block the caller. One engine serves any number of descriptors; it keeps no state of
 * theirs and never closes them. `done` is called exactly once, never before the call returns. Positions and
 * lengths are bytes. Nothing is retried or continued here: that is the caller's (see transfer.ts).
 */
export interface IoEngine {
  /** For people: "libuv", "io_uring". */
  readonly name: string;

  /** preadv(2). The scatter list has at most 1024 entries (IOV_MAX) and stays as it is until `done`. */
  readv(fd: number, position: number, to: IoVector, done: TransferDone): void;
  /** pwritev(2), under the same terms. */
  writev(fd: number, position: number, from: IoVector, done: TransferDone): void;
  fdatasync(fd: number, done: ErrnoDone): void;
  /** fallocate(2); `mode` is made of FALLOC_FL_*. */
  fallocate(fd: number, mode: number, position: number, length: number, done: ErrnoDone): void;
  /** BLKDISCARD, or BLKSECDISCARD when `secure`, on a block device. */
  blockDiscard(fd: number, secure: boolean, position: number, length: number, done: ErrnoDone): void;

  /** open(2). `done` gets the descriptor, or an errno and a number without meaning. */
  openFile(path: string, flags: number, done: TransferDone): void;
  /** close(2), which may wait for a file server. */
  closeFile(fd: number, done: ErrnoDone): void;

  /** Calls `end` soon after it has returned: for what is refused before the kernel hears of it. */
  soon(end: () => void): void;

  /** Lets go of the engine's own resources. All operations must have ended. */
  close(): void;
}
