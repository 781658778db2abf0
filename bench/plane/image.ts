/** Files to measure on: written in full, since the blocks of a sparse file cost nothing to read. */

import { spawnSync } from "node:child_process";
import { randomFillSync } from "node:crypto";
import { open } from "node:fs/promises";

const CHUNK = 1 << 20;

export async function writeImage(path: string, bytes: number): Promise<void> {
  const chunk = randomFillSync(Buffer.alloc(CHUNK));
  const file = await open(path, "w");
  try {
    for (let at = 0; at < bytes; at += CHUNK) await file.write(chunk, 0, Math.min(CHUNK, bytes - at), at);
    await file.sync();
  } finally {
    await file.close();
  }
  // Out of the page cache: O_DIRECT would have to look there.
  spawnSync("dd", [`of=${path}`, "oflag=nocache", "conv=notrunc,fdatasync", "count=0", "if=/dev/null"]);
}
