/**
 * QEMU's locks. QEMU does not flock: an open image holds shared locks on single bytes (its block/file-posix.c): 100 + n says
 * "I use permission n", 200 + n "I do not let others have permission n", where 0 is a consistent read, 1 write, 2 write
 * unchanged data, 3 resize.
 */
import type { FileLocks } from "./calls/locks.js";
import { whereLocksAreKept } from "./fence.js";

const USES = 100;
const SHARES_NOT = 200;
const READ = 0;
const WRITE = 1;
const WRITE_UNCHANGED = 2;
const RESIZE = 3;

/**
 * Takes the locks of a user like us, so that QEMU programs (qemu-img, qemu-nbd, a guest's QEMU) do not open for writing what
 * we serve, nor for reading what we write. The device model of an HVM guest has the guest's disk open beside us, for
 * the emulated disk: with `deviceModel`, a writer says only that it reads.
 */
export async function lockAsQemu(locks: FileLocks, readOnly: boolean, deviceModel: boolean): Promise<void> {
  const bytes = [USES + READ];
  if (!readOnly && !deviceModel) bytes.push(USES + WRITE);
  if (readOnly || !deviceModel) bytes.push(SHARES_NOT + WRITE, SHARES_NOT + RESIZE);
  for (const byte of bytes) await whereLocksAreKept(() => locks.shareRange(byte, 1), undefined);
}

/**
 * True when a QEMU program uses the file in a way that excludes this use. Programs that merely read share with readers.
 */
export async function isLockedByQemu(locks: FileLocks, readOnly: boolean): Promise<boolean> {
  const excluding: [start: number, length: number][] = [
    [USES + WRITE, 1],
    [USES + RESIZE, 1],
    [SHARES_NOT + READ, 1],
  ];
  if (!readOnly) excluding.push([USES + WRITE_UNCHANGED, 1], [SHARES_NOT + WRITE, 3]);
  for (const [start, length] of excluding) {
    if (await whereLocksAreKept(() => locks.isRangeLocked(start, length), false)) return true;
  }
  return false;
}
