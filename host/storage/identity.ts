/** What a path leads to, whatever it is called. */
import { type BigIntStats, fstat } from "node:fs";
import { stat } from "node:fs/promises";
import { promisify } from "node:util";

const statFile = promisify(fstat);

/** The same for two paths that lead to the same file or block device. Rejects with the error of stat(2). */
export async function fileIdentity(path: string): Promise<string> {
  return identityOf(await stat(path, { bigint: true }));
}

/** As {@link fileIdentity}, of an open file. */
export async function openFileIdentity(fd: number): Promise<string> {
  return identityOf(await statFile(fd, { bigint: true }));
}

function identityOf(stats: BigIntStats): string {
  return stats.isBlockDevice() ? `block ${stats.rdev}` : `file ${stats.dev}:${stats.ino}`;
}
