/** Carries a request out that nothing speaks against. */

import { Command, CommandFlag } from "../../nbd/protocol.js";
import type { GuestDisk } from "../disk.js";
import { HEADROOM, type MessageBuffer } from "./buffers.js";
import type { Request } from "./request.js";

/** blkif has no write-zeroes and discarded blocks may read as anything, so zeroes are written, this many at a time. */
const ZEROES = new Uint8Array(1 << 20);

/** How far in front of `request.position` a read has to begin so that it begins with a sector. */
export function lead(disk: GuestDisk, request: Request): number {
  return request.command === Command.read ? request.position % disk.sectorSize : 0;
}

/** Bytes of buffer that `request` needs for data: its own, and for reads the rest of the sectors at both ends. */
export function payloadBytes(disk: GuestDisk, request: Request): number {
  if (request.command === Command.write) return request.length;
  if (request.command !== Command.read) return 0;
  const sectors = Math.ceil((lead(disk, request) + request.length) / disk.sectorSize);
  return sectors * disk.sectorSize;
}

/**
 * Data to write lie in `buffer` behind the headroom; a read puts its sectors there. Rejects as the disk does.
 * `abandoned` is asked between the pieces of a long operation.
 */
export async function operate(
  disk: GuestDisk,
  request: Request,
  buffer: MessageBuffer,
  abandoned: () => boolean,
): Promise<void> {
  const { command, position, length } = request;
  if (command === Command.flush) return disk.flush();
  if (command === Command.read) {
    const into = buffer.bytes.subarray(HEADROOM);
    if (into.byteLength > 0) await disk.read(position - lead(disk, request), into);
    return;
  }
  if (length > 0) {
    if (command === Command.write) await disk.write(position, buffer.bytes.subarray(HEADROOM));
    else if (command === Command.trim) await disk.discard(position, length);
    else await writeZeroes(disk, position, length, abandoned);
  }
  if (request.flags & CommandFlag.fua) await disk.flush();
}

async function writeZeroes(
  disk: GuestDisk,
  position: number,
  length: number,
  abandoned: () => boolean,
): Promise<void> {
  const end = position + length;
  for (let at = position; at < end; at += ZEROES.byteLength) {
    if (abandoned()) throw Object.assign(new Error("the connection is shutting down"), { code: "ESHUTDOWN" });
    await disk.write(at, ZEROES.subarray(0, Math.min(end - at, ZEROES.byteLength)));
  }
}
