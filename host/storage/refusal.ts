/** Why an operation on a disk is not even begun, in the same words whatever the disk. */
import type { SystemError } from "../platform/libc.js";
import { type BlockDevice, type Done, Result } from "./device.js";

/** How an operation ended. */
export interface Outcome {
  readonly result: Result;
  readonly error?: Error;
}

/** The disk is closed, or the range is not in it; null when neither is so. */
export function outOfReach(
  { name, size }: Pick<BlockDevice, "name" | "size">,
  closed: boolean,
  verb: string,
  position: number,
  length: number,
): Outcome | null {
  if (closed) return { result: Result.Failure, error: new Error(`${verb} ${name}: the disk is closed`) };
  // The caller has checked, but perhaps before the store shrank; and a write must never enlarge an image.
  if (position + length <= size) return null;
  const range = `${length} bytes at ${position} of ${name}`;
  return { result: Result.Failure, error: new Error(`${verb} ${range}: beyond its end at ${size}`) };
}

/** A flush has failed, for this reason: nothing may be changed any more. */
export function lossBy(cause: SystemError): Error {
  const remedy = "written data may be lost; nothing more is written until the disk is attached again";
  return new Error(`${cause.message}; ${remedy}`, { cause });
}

/** `done` never comes before the call returns. */
export function later(done: Done, { result, error }: Outcome): void {
  queueMicrotask(() => done(result, error));
}
