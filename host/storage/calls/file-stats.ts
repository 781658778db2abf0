/** What stat(2) tells, as io_uring and node:fs have it: plain data, which goes from thread to thread. */
import type { BigIntStats } from "node:fs";

export interface FileStats {
  readonly dev: bigint;
  readonly ino: bigint;
  readonly rdev: bigint;
  readonly size: bigint;
  readonly blksize: number;
  /** Type and permissions. */
  readonly mode: number;
  readonly uid: number;
  /** When its content was last changed, in nanoseconds since 1970. */
  readonly mtime: bigint;
}

export const STATX_BYTES = 256;

const S_IFMT = 0o170000;
const TYPES = {
  socket: 0o140000,
  file: 0o100000,
  block: 0o060000,
  directory: 0o040000,
  fifo: 0o010000,
} as const;

/** Whether it is a file of this type. */
export function isType({ mode }: Pick<FileStats, "mode">, type: keyof typeof TYPES): boolean {
  return (mode & S_IFMT) === TYPES[type];
}

/** struct statx: u32 blksize @4, u32 uid @20, u16 mode @28, u64 ino @32, u64 size @40, i64 seconds and u32 nanoseconds of mtime @112, u32 rdev and dev, major and minor, @128. */
export function decodeStatx(bytes: Uint8Array): FileStats {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const u32 = (at: number): number => view.getUint32(at, true);
  return {
    dev: makeDevice(u32(136), u32(140)),
    ino: view.getBigUint64(32, true),
    rdev: makeDevice(u32(128), u32(132)),
    size: view.getBigUint64(40, true),
    blksize: u32(4),
    mode: view.getUint16(28, true),
    uid: u32(20),
    mtime: view.getBigInt64(112, true) * 1_000_000_000n + BigInt(u32(120)),
  };
}

export function plainStats({ dev, ino, rdev, size, blksize, mode, uid, mtimeNs }: BigIntStats): FileStats {
  const numbers = { blksize: Number(blksize), mode: Number(mode), uid: Number(uid) };
  return { dev, ino, rdev, size, mtime: mtimeNs, ...numbers };
}

/** A device number as glibc's <sys/sysmacros.h> packs it. */
function makeDevice(major: number, minor: number): bigint {
  const [high, low] = [BigInt(major), BigInt(minor)];
  return (
    ((high & 0xfffff000n) << 32n) | ((high & 0xfffn) << 8n) | ((low & 0xffffff00n) << 12n) | (low & 0xffn)
  );
}
