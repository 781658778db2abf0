/** Runs a test body against a server on a socket in a directory of its own. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { GuestDisk } from "../../host/guest/disk.js";
import { NbdServer, type NbdServerOptions } from "../../host/guest/nbd/server.js";

export interface Served {
  readonly server: NbdServer;
  readonly path: string;
  /** For other files of the test; removed afterwards. */
  readonly directory: string;
}

export async function withDirectory<T>(body: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), "nbd-"));
  try {
    return await body(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

export function serve(
  disk: GuestDisk,
  body: (served: Served) => Promise<void>,
  options: NbdServerOptions = {},
): Promise<void> {
  return withDirectory(async (directory) => {
    const path = join(directory, "disk.sock");
    const server = await NbdServer.listen(disk, path, { drainTimeout: 1000, ...options });
    try {
      await body({ server, path, directory });
    } finally {
      await server.close();
    }
  });
}

/** Polls until `condition` holds; fails after five seconds. */
export async function eventually(condition: () => boolean, what: string): Promise<void> {
  const deadline = Date.now() + 60_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
