/** What a path leads to, whatever it is called. */
import { type FileStats, isType } from "./calls/file-stats.js";
import { Place } from "./calls/place.js";

/** The same for two paths that lead to the same file or block device. Rejects with the error of stat(2). */
export async function fileIdentity(path: string): Promise<string> {
  return identityOf(await Place.of(path).stat());
}

/** As {@link fileIdentity}, of a file that is open at a path. */
export async function openFileIdentity(fd: number, path: string): Promise<string> {
  return identityOf(await Place.of(path).fstat(fd));
}

function identityOf(stats: FileStats): string {
  return isType(stats, "block") ? `block ${stats.rdev}` : `file ${stats.dev}:${stats.ino}`;
}
