/**
 * The layout of an overlay, format 1 (docs/disks.md). Little endian:
 *
 *     0     header: 4096 bytes
 *     4096  pairs of pages of 4096 bytes, one pair for each 32768 sectors of the disk: in the first page a bit for each
 *           sector that was written, in the second for each of them that is on stable storage
 *     data  the sectors at their own positions
 */
import { constants } from "node:os";
import { isPowerOfTwo, SECTOR } from "../geometry.js";
import { DeviceError } from "../open.js";

export const PAGE = 4096;
/** Sectors that a page of the bitmap is for. */
export const SECTORS_A_PAGE = PAGE * 8;
const MAGIC = "xbdbackC";
const FORMAT = 1;
/** Bytes that the checksum, behind them, is of. */
const CHECKED = 64;
/** Positions are numbers of JavaScript. */
const LARGEST = 2 ** 52;

export interface CowHeader {
  /** Of the disk, in bytes. */
  readonly size: number;
  /** Bytes that a bit stands for. */
  readonly sectorSize: number;
  /** Of the machine's boot in which sectors were last written, 16 bytes: they are all there as long as it has not crashed. */
  readonly bootId: Buffer;
}

/** Pairs of pages. */
export function pagesOf({ size, sectorSize }: Pick<CowHeader, "size" | "sectorSize">): number {
  return Math.ceil(size / sectorSize / SECTORS_A_PAGE);
}

/** Where the first page of a pair is. */
export function pageAt(index: number): number {
  return PAGE + index * 2 * PAGE;
}

/** Where the disk's first byte is. */
export function dataAt(header: Pick<CowHeader, "size" | "sectorSize">): number {
  return pageAt(pagesOf(header));
}

export function encodeHeader({ size, sectorSize, bootId }: CowHeader): Buffer {
  const bytes = Buffer.alloc(PAGE);
  bytes.write(MAGIC, 0, "latin1");
  bytes.writeUInt32LE(FORMAT, 8);
  bytes.writeUInt32LE(sectorSize, 12);
  bytes.writeBigUInt64LE(BigInt(size), 16);
  bytes.writeBigUInt64LE(BigInt(dataAt({ size, sectorSize })), 24);
  bootId.copy(bytes, 32);
  bytes.writeUInt32LE(checksum(bytes), CHECKED);
  return bytes;
}

/** The header of a file of `fileBytes`. Throws a DeviceError that says what is wrong with it. */
export function decodeHeader(path: string, bytes: Buffer, fileBytes: number): CowHeader {
  const wrong = (why: string): DeviceError => new DeviceError(constants.errno.EINVAL, path, why);
  if (bytes.toString("latin1", 0, MAGIC.length) !== MAGIC)
    throw wrong("is not an overlay of xbdback; name another file, or one that does not exist yet");
  const format = bytes.readUInt32LE(8);
  if (format !== FORMAT)
    throw wrong(`an overlay of format ${format}; this release knows ${FORMAT}: use a later one`);
  const sectorSize = bytes.readUInt32LE(12);
  const size = Number(bytes.readBigUInt64LE(16));
  const sound =
    bytes.readUInt32LE(CHECKED) === checksum(bytes) &&
    isPowerOfTwo(sectorSize) &&
    sectorSize >= SECTOR &&
    sectorSize <= PAGE &&
    size >= sectorSize &&
    size <= LARGEST &&
    size % sectorSize === 0 &&
    Number(bytes.readBigUInt64LE(24)) === dataAt({ size, sectorSize });
  if (!sound) throw damaged(path, "its header is damaged");
  const end = dataAt({ size, sectorSize }) + size;
  if (fileBytes < end) throw damaged(path, `it has ${fileBytes} bytes and needs ${end}`);
  return { size, sectorSize, bootId: Buffer.from(bytes.subarray(32, 48)) };
}

export function damaged(path: string, why: string): DeviceError {
  return new DeviceError(
    constants.errno.EINVAL,
    path,
    `a damaged overlay: ${why}; restore it from a copy, or name another`,
  );
}

/** FNV-1a. */
function checksum(bytes: Buffer): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < CHECKED; i++) hash = Math.imul(hash ^ bytes[i], 0x01000193);
  return hash >>> 0;
}
