/** A client's request as it came, and the reasons not to carry it out. */

import { Bytes, Command, CommandFlag, MAXIMUM_PAYLOAD, Magic, NbdError } from "../../nbd/protocol.js";
import type { GuestDisk } from "../disk.js";

const TWO_TO_32 = 4294967296;

export interface Request {
  readonly command: number;
  readonly flags: number;
  /** The client's name for the request, 64 bits that go back as they are. */
  readonly cookieHigh: number;
  readonly cookieLow: number;
  /** Bytes. Above 2^53 it is not exact, and far beyond any disk. */
  readonly position: number;
  /** Bytes. */
  readonly length: number;
}

export const REQUEST_BYTES = Bytes.request;

/** Null when this is no request at all: the stream cannot be trusted any more. */
export function parseRequest(view: DataView): Request | null {
  if (view.getUint32(0) !== Magic.request) return null;
  return {
    flags: view.getUint16(4),
    command: view.getUint16(6),
    cookieHigh: view.getUint32(8),
    cookieLow: view.getUint32(12),
    position: view.getUint32(16) * TWO_TO_32 + view.getUint32(20),
    length: view.getUint32(24),
  };
}

/** An error for the client: the wire's number, and words that go along where structured replies were agreed on. */
export interface Refusal {
  readonly error: number;
  readonly message: string;
}

function refusal(error: number, message: string): Refusal {
  return { error, message };
}

const ALLOWED_FLAGS = new Map<number, number>([
  [Command.read, CommandFlag.fua | CommandFlag.df],
  [Command.write, CommandFlag.fua],
  [Command.flush, CommandFlag.fua],
  [Command.trim, CommandFlag.fua],
  [Command.writeZeroes, CommandFlag.fua | CommandFlag.noHole | CommandFlag.fastZero],
]);

/** Why `request` is not to be carried out, or null. `structured`: structured replies were agreed on. */
export function refuse(disk: GuestDisk, request: Request, structured: boolean): Refusal | null {
  const { command, flags, length } = request;
  const allowed = ALLOWED_FLAGS.get(command);
  if (allowed === undefined) return refusal(NbdError.EINVAL, `command ${command} is not supported`);
  if (flags & ~allowed || (flags & CommandFlag.df && !structured)) {
    return refusal(NbdError.EINVAL, `command ${command} with flags ${flags} is not supported`);
  }
  if (flags & CommandFlag.fua && command !== Command.read && !disk.canFlush) {
    return refusal(NbdError.EINVAL, "this disk has no flush, so no FUA either");
  }
  if (command === Command.flush) {
    return disk.canFlush ? null : refusal(NbdError.EINVAL, "this disk has no flush");
  }
  if (command === Command.read) return outside(disk, request) ?? tooLong(length);
  return refuseChange(disk, request);
}

function refuseChange(disk: GuestDisk, request: Request): Refusal | null {
  const { command, flags, length, position } = request;
  if (disk.readOnly) return refusal(NbdError.EPERM, "this disk is read-only");
  if (command === Command.trim && !disk.canDiscard) {
    return refusal(NbdError.EINVAL, "this disk has no discard");
  }
  const beyond = outside(disk, request);
  if (beyond) return beyond;
  if (position % disk.sectorSize !== 0 || length % disk.sectorSize !== 0) {
    return refusal(NbdError.EINVAL, `position and length must be multiples of ${disk.sectorSize} bytes`);
  }
  if (flags & CommandFlag.fastZero) {
    return refusal(NbdError.ENOTSUP, "zeroes are written out: no faster than writes");
  }
  return command === Command.write ? tooLong(length) : null;
}

function outside(disk: GuestDisk, { command, position, length }: Request): Refusal | null {
  if (position + length <= disk.size) return null;
  const grows = command === Command.write || command === Command.writeZeroes;
  const error = grows ? NbdError.ENOSPC : NbdError.EINVAL;
  return refusal(error, `${length} bytes at ${position}: the disk ends at ${disk.size}`);
}

function tooLong(length: number): Refusal | null {
  if (length <= MAXIMUM_PAYLOAD) return null;
  return refusal(NbdError.EINVAL, `${length} bytes in one request: ${MAXIMUM_PAYLOAD} is the most`);
}
