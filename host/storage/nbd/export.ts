/** What an NBD server offers, and whether a guest can have it. */
import { constants } from "node:os";
import { Transmission } from "../../nbd/protocol.js";
import { SECTOR } from "../geometry.js";
import { DeviceError } from "../open.js";

const LARGEST_SECTOR = 4096;

/** Sizes in bytes. */
export interface Export {
  readonly size: number;
  /** Transmission flags. */
  readonly flags: number;
  readonly minimumBlock: number;
  /** Of data in one request. */
  readonly maximumPayload: number;
}

/** The bytes of a guest's sectors, with warnings of what it will miss. Throws a {@link DeviceError} where it cannot be served. */
export function acceptExport(
  name: string,
  exported: Export,
  readOnly: boolean,
  log: (text: string) => void,
): number {
  const { size, flags } = exported;
  const sectorSize = sectorsOf(name, exported);
  if (!readOnly && flags & Transmission.readOnly)
    throw new DeviceError(
      constants.errno.EROFS,
      name,
      "read-only; attach it read-only, or let its server write",
    );
  const tail = size % sectorSize;
  if (tail !== 0)
    log(
      `${size} bytes are not a multiple of the sector size ${sectorSize}; the guest does not see the last ${tail}`,
    );
  if (!readOnly && !(flags & Transmission.sendFlush))
    log("the server has no flush: what a guest has flushed may not be on stable storage");
  return sectorSize;
}

/** The sectors in which it can be served. */
function sectorsOf(name: string, { minimumBlock, maximumPayload, size }: Export): number {
  const refuse = (why: string): never => {
    throw new DeviceError(constants.errno.EINVAL, name, why);
  };
  const sectorSize = Math.max(minimumBlock, SECTOR);
  if (sectorSize > LARGEST_SECTOR)
    refuse(
      `the server's minimum block size is ${minimumBlock} bytes, and a guest's sector size at most ${LARGEST_SECTOR}: ` +
        "put `nbdkit --filter=blocksize` in front of it",
    );
  if (maximumPayload < sectorSize)
    refuse(`the server's maximum request size is ${maximumPayload} bytes, less than a sector`);
  if (size < sectorSize) refuse(`the export has ${size} bytes, less than a sector`);
  return sectorSize;
}

/** For people. */
export function describe({ size, flags, minimumBlock }: Export): string {
  return `${size} bytes in blocks of ${minimumBlock}${flags & Transmission.readOnly ? ", read-only" : ""}`;
}
