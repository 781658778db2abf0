/** Whole transfers out of system calls that may be interrupted or move less than they were asked to. */
import { constants } from "node:os";
import { IOVEC_BYTES, type IoVector } from "./device.js";
import type { ErrnoDone, TransferDone } from "./engine.js";

/** How often in a row a call may end with EINTR or EAGAIN before that counts as its result. */
export const MAX_RETRIES = 16;

export function isTransient(errno: number): boolean {
  return errno === constants.errno.EINTR || errno === constants.errno.EAGAIN;
}

/** Repeats `call` while it ends with EINTR or EAGAIN, up to {@link MAX_RETRIES} times. */
export function withRetries(call: (done: ErrnoDone) => void, done: ErrnoDone): void {
  let retries = 0;
  const ended = (errno: number): void => {
    if (isTransient(errno) && retries++ < MAX_RETRIES) call(ended);
    else done(errno);
  };
  call(ended);
}

/**
 * Calls `move` until the whole scatter list has been moved. `done` gets 0 and `io.bytes`; 0 and fewer when a call
 * moved nothing, which a read does at the end of a file; or the errno and what was moved before.
 *
 * Between calls the table in linear memory is cut where the last one ended, so that an engine can always hand it to
 * the kernel as it is; it is whole again before `done`.
 */
export function transfer(
  move: (position: number, io: IoVector, done: TransferDone) => void,
  position: number,
  io: IoVector,
  done: TransferDone,
): void {
  let moved = 0;
  let retries = 0;
  let cut: Cut | null = null;
  const ended = (errno: number, bytes: number): void => {
    if (cut) mend(cut);
    const progress = errno === 0 && bytes > 0;
    if (progress) moved += bytes;
    retries = progress ? 0 : retries + 1;
    const stuck = !progress && (!isTransient(errno) || retries > MAX_RETRIES);
    if (stuck || moved >= io.bytes) {
      done(errno, moved);
      return;
    }
    cut = cutAt(io, moved);
    move(position + moved, cut.rest, ended);
  };
  move(position, io, ended);
}

/** A scatter list without its first bytes, and the entry that had to be changed for that. */
interface Cut {
  readonly rest: IoVector;
  readonly entry: BigUint64Array;
  readonly address: bigint;
  readonly length: bigint;
}

function cutAt({ memory, table, count, bytes }: IoVector, moved: number): Cut {
  const entries = new BigUint64Array(memory.memory.buffer, table, count * 2);
  let first = 0;
  let skip = BigInt(moved);
  while (skip >= entries[first * 2 + 1]) {
    skip -= entries[first * 2 + 1];
    first++;
  }
  const entry = entries.subarray(first * 2, first * 2 + 2);
  const [address, length] = entry;
  entry[0] = address + skip;
  entry[1] = length - skip;
  const rest = { memory, table: table + first * IOVEC_BYTES, count: count - first, bytes: bytes - moved };
  return { rest, entry, address, length };
}

function mend({ entry, address, length }: Cut): void {
  entry[0] = address;
  entry[1] = length;
}
