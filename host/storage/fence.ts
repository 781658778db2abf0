/**
 * A mark on an open file that says for whom it is open. The kernel keeps it, as it keeps every lock of an open file, until
 * the last I/O on it has ended, even if the process is dead. So who comes next for the same user waits for it, also where
 * the store is open to others at the same time.
 */
import { constants } from "node:os";
import { SystemError } from "../platform/libc.js";
import type { FileLocks } from "./calls/locks.js";

const { errno } = constants;

/** Bytes that nobody else locks: far behind every image's end. */
const FIRST_BYTE = 2 ** 50;

/** What fcntl(2) says of bytes that another open file has locked. */
const LOCKED: number[] = [errno.EAGAIN, errno.EACCES];

/** What a file system says that keeps no locks. */
const WITHOUT_LOCKS: number[] = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL];

/** Whether I/O for a user, a number below 2^47, may be under way on another open file. */
export async function isFenced(locks: FileLocks, user: number): Promise<boolean> {
  return whereLocksAreKept(() => locks.isRangeLocked(FIRST_BYTE + user, 1), false);
}

/** Sets the mark of a user. False where the file system keeps no locks. */
export async function fence(locks: FileLocks, user: number): Promise<boolean> {
  return whereLocksAreKept(async () => {
    await locks.shareRange(FIRST_BYTE + user, 1);
    return true;
  }, false);
}

/**
 * As {@link fence}, for the open file that does the I/O, where another one has the locks. False, too, where the file system
 * takes a flock for a lock of all bytes (NFS, SMB), so that the two open files would exclude each other.
 */
export async function fenceBeside(locks: FileLocks, user: number): Promise<boolean> {
  try {
    return await fence(locks, user);
  } catch (error) {
    if (error instanceof SystemError && LOCKED.includes(error.errno)) return false;
    throw error;
  }
}

/** What `locking` returns, or `otherwise` where the file system keeps no locks. */
export async function whereLocksAreKept<T>(locking: () => Promise<T>, otherwise: T): Promise<T> {
  try {
    return await locking();
  } catch (error) {
    if (error instanceof SystemError && WITHOUT_LOCKS.includes(error.errno)) return otherwise;
    throw error;
  }
}
