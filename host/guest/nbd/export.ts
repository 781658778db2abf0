/** What the one export of a disk promises to its clients. */

import { MAXIMUM_PAYLOAD, Transmission } from "../../nbd/protocol.js";
import type { GuestDisk } from "../disk.js";

export interface Export {
  readonly disk: GuestDisk;
  /** For people: what NBD_INFO_DESCRIPTION and NBD_OPT_LIST show. */
  readonly description: string;
}

/** Transmission flags: only what the disk really does. `structured`: structured replies were agreed on. */
export function transmissionFlags(disk: GuestDisk, structured: boolean): number {
  // Nothing is cached between the disk and the connections, hence a flush on one covers what was answered on all.
  let flags = Transmission.hasFlags | Transmission.canMultiConn;
  if (structured) flags |= Transmission.sendDf;
  if (disk.canFlush) flags |= Transmission.sendFlush | Transmission.sendFua;
  if (disk.readOnly) return flags | Transmission.readOnly;
  flags |= Transmission.sendWriteZeroes;
  if (disk.canDiscard) flags |= Transmission.sendTrim;
  return flags;
}

/** Bytes, as NBD_INFO_BLOCK_SIZE has them. */
export function blockSizes(disk: GuestDisk): { minimum: number; preferred: number; maximum: number } {
  return {
    minimum: disk.sectorSize,
    preferred: Math.max(4096, disk.physicalSectorSize),
    maximum: MAXIMUM_PAYLOAD,
  };
}
