/** Whole transfers out of system calls that may be interrupted or move less than they were asked to. */
import { constants } from "node:os";
import type { IoVector } from "./device.js";
import type { ErrnoDone, TransferDone } from "./engine.js";
import { type Part, partOf } from "./part.js";

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

/** What one call may be asked to move: bytes, and entries of the scatter list. */
export interface Most {
  readonly bytes: number;
  readonly entries: number;
}
export const WHOLE: Most = { bytes: Number.POSITIVE_INFINITY, entries: Number.POSITIVE_INFINITY };

/**
 * Calls `move` until the whole scatter list has been moved. `done` gets 0 and `io.bytes`; 0 and fewer when a call
 * moved nothing, which a read does at the end of a file; or the errno and what was moved before.
 *
 * Between calls the table in linear memory is cut where the last one ended, so that an engine can always hand it to
 * the kernel as it is; it is whole again before `done`. No call is asked to move more than `most`.
 */
export function transfer(
  move: (position: number, io: IoVector, done: TransferDone) => void,
  position: number,
  io: IoVector,
  done: TransferDone,
  most = WHOLE,
): void {
  let moved = 0;
  let retries = 0;
  let rest: Part | null = null;
  const ended = (errno: number, bytes: number): void => {
    rest?.mend();
    const progress = errno === 0 && bytes > 0;
    if (progress) moved += bytes;
    retries = progress ? 0 : retries + 1;
    const stuck = !progress && (!isTransient(errno) || retries > MAX_RETRIES);
    if (stuck || moved >= io.bytes) {
      done(errno, moved);
      return;
    }
    next();
  };
  const next = (): void => {
    rest = partOf(io, moved, Math.min(io.bytes - moved, most.bytes), most.entries);
    move(position + moved, rest.io, ended);
  };
  next();
}
