/**
 * A mark on an open file that says for whom it is open. The kernel keeps it, as it keeps every lock of an open file, until
 * the last I/O on it has ended, even if the process is dead. So who comes next for the same user waits for it, also where
 * the store is open to others at the same time.
 */
import { constants } from "node:os";
import { isRangeLocked, SystemError, shareRange } from "../platform/libc.js";

const { errno } = constants;

/** Bytes that nobody else locks: far behind every image's end. */
const FIRST_BYTE = 2 ** 50;

/** What a file system says that keeps no locks. */
const WITHOUT_LOCKS: number[] = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL];

/**
 * Sets the mark of a user, a number below 2^47. False, and nothing set, while I/O for that user may be under way on another
 * open file. Where the file system keeps no locks there is nothing to set, and nothing to wait for.
 */
export async function fence(fd: number, user: number): Promise<boolean> {
  return whereLocksAreKept(async () => {
    if (await isRangeLocked(fd, FIRST_BYTE + user, 1)) return false;
    await shareRange(fd, FIRST_BYTE + user, 1);
    return true;
  }, true);
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
