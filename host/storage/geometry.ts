/** What a raw store can do and how large it is: asked of the kernel by descriptor. */
import { readFileSync } from "node:fs";
import { constants, release } from "node:os";
import { ioctl, SystemError } from "../platform/libc.js";
import {
  BLKGETSIZE64,
  BLKPBSZGET,
  BLKROGET,
  BLKSECDISCARD,
  BLKSSZGET,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
} from "../platform/numbers.js";
import type { Place } from "./calls/place.js";

export type StoreKind = "image" | "block";

/** Sizes in bytes, as in {@link BlockDevice}. */
export interface Geometry {
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly canDiscard: boolean;
  readonly canSecureDiscard: boolean;
  readonly discardGranularity: number;
  readonly discardAlignment: number;
}

/** The smallest sector that the blkif protocol knows, and the size that an image's sectors have. */
export const SECTOR = 512;

export function wholeSectors(bytes: number, sectorSize: number): number {
  return bytes - (bytes % sectorSize);
}

/** All bytes of a store, whole sectors or not. The kernel knows a device's, and asks nobody. */
export async function storeBytes(fd: number, kind: StoreKind, place: Place): Promise<number> {
  return kind === "image"
    ? roundDown((await place.fstat(fd)).size)
    : askUint64(fd, BLKGETSIZE64, "BLKGETSIZE64");
}

/** The largest number that is not larger: of 2^63 - 1 bytes, a number would make 2^63, which is beyond the end. */
export function roundDown(bytes: bigint): number {
  const unneeded = BigInt(Math.max(0, bytes.toString(2).length - 53));
  return Number((bytes >> unneeded) << unneeded);
}

/** A regular file's. */
export async function imageGeometry(fd: number, readOnly: boolean, place: Place): Promise<Geometry> {
  const { size, blksize } = await place.fstat(fd);
  // Network file systems report their transfer size (1 MiB), which would lead a guest's mkfs astray.
  const unit = isPowerOfTwo(blksize) ? Math.min(Math.max(blksize, SECTOR), 4096) : 4096;
  return {
    sectorSize: SECTOR,
    physicalSectorSize: unit,
    canDiscard: !readOnly && (await canPunchHoles(fd, Number(size), place)),
    canSecureDiscard: false,
    discardGranularity: unit,
    discardAlignment: 0,
  };
}

/** A block device's; `device` is its number. */
export function blockGeometry(fd: number, readOnly: boolean, device: bigint): Geometry {
  const sysfs = `/sys/dev/block/${major(device)}:${minor(device)}`;
  const sectorSize = askUint32(fd, BLKSSZGET, "BLKSSZGET");
  // A partition's queue is its disk's.
  const queue = (name: string): number => numberIn(`${sysfs}/queue/${name}`, `${sysfs}/../queue/${name}`);
  const canDiscard = !readOnly && queue("discard_max_bytes") > 0;
  return {
    sectorSize,
    physicalSectorSize: Math.max(sectorSize, askUint32(fd, BLKPBSZGET, "BLKPBSZGET")),
    canDiscard,
    canSecureDiscard: canDiscard && canEraseSecurely(fd),
    discardGranularity: Math.max(sectorSize, queue("discard_granularity")),
    discardAlignment: numberIn(`${sysfs}/discard_alignment`),
  };
}

/** True for a block device that its administrator or its hardware made read-only. */
export function isWriteProtected(fd: number): boolean {
  return askUint32(fd, BLKROGET, "BLKROGET") !== 0;
}

export function isPowerOfTwo(n: number): boolean {
  return n > 0 && (n & (n - 1)) === 0;
}

/** The parts of a device number as glibc's <sys/sysmacros.h> packs them. */
export function major(device: bigint): number {
  return Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n));
}

export function minor(device: bigint): number {
  return Number((device & 0xffn) | ((device >> 12n) & 0xffffff00n));
}

/** Punches a hole where there is nothing, behind the end of the file, and so finds out whether punching works. */
async function canPunchHoles(fd: number, size: number, place: Place): Promise<boolean> {
  const end = Math.ceil(size / 4096) * 4096;
  return (await place.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end, 4096)) === 0;
}

/**
 * No file tells. BLKSECDISCARD on half a sector does nothing and answers EINVAL on a device that can and EOPNOTSUPP
 * on one that cannot; before Linux 5.19 it answers EINVAL on both, so there the offer is not made.
 */
function canEraseSecurely(fd: number): boolean {
  const [version, patchlevel] = release().split(".").map(Number);
  if (version < 5 || (version === 5 && patchlevel < 19)) return false;
  const halfSector = new Uint8Array(new BigUint64Array([1n, 1n]).buffer);
  try {
    ioctl(fd, BLKSECDISCARD, halfSector, "BLKSECDISCARD");
    return false;
  } catch (error) {
    return error instanceof SystemError && error.errno === constants.errno.EINVAL;
  }
}

/** The first of these one-number files that is there; 0 when none is. */
function numberIn(...paths: string[]): number {
  for (const path of paths) {
    try {
      return Number.parseInt(readFileSync(path, "latin1"), 10);
    } catch {
      // The next place, then.
    }
  }
  return 0;
}

function askUint32(fd: number, request: number, name: string): number {
  const answer = new Uint32Array(1);
  ioctl(fd, request, new Uint8Array(answer.buffer), name);
  return answer[0];
}

function askUint64(fd: number, request: number, name: string): number {
  const answer = new BigUint64Array(1);
  ioctl(fd, request, new Uint8Array(answer.buffer), name);
  return roundDown(answer[0]);
}
