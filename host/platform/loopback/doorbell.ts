/** The writing end of a handle's FIFO. */
import { closeSync, constants, openSync } from "node:fs";
import { writeNonBlocking } from "../libc.js";
import { paths } from "./layout.js";

const number = new Uint32Array(1);
const bytes = new Uint8Array(number.buffer);

/** Opens the FIFO of a handle for writing. Null when its owner is gone. */
export function openDoorbell(directory: string, handle: number): number | null {
  try {
    return openSync(paths.doorbell(directory, handle), constants.O_WRONLY | constants.O_NONBLOCK);
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

/** Queues a port at an open FIFO. False when its owner is gone. */
export function ringDoorbell(fd: number, port: number): boolean {
  number[0] = port;
  try {
    // It is never full: see evtchn-words.ts.
    writeNonBlocking(fd, bytes);
    return true;
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}

/** Queues a port, for those who do it rarely. */
export function ringOnce(directory: string, handle: number, port: number): void {
  const fd = openDoorbell(directory, handle);
  if (fd === null) return;
  ringDoorbell(fd, port);
  closeSync(fd);
}

/** ENOENT and ENXIO come from open, EPIPE from write. */
function isGone(error: unknown): boolean {
  return ["ENOENT", "ENXIO", "EPIPE"].includes((error as NodeJS.ErrnoException).code ?? "");
}
