/** What a path leads to, whatever it is called. */
import { stat } from "node:fs/promises";

/** The same for two paths that lead to the same file or block device. Rejects with the error of stat(2). */
export async function fileIdentity(path: string): Promise<string> {
  const stats = await stat(path, { bigint: true });
  return stats.isBlockDevice() ? `block ${stats.rdev}` : `file ${stats.dev}:${stats.ino}`;
}
