/** Unix sockets at which this user alone may connect. */

import { once } from "node:events";
import { chmodSync, lstatSync, rmSync } from "node:fs";
import { createConnection, type Server } from "node:net";
import { constants } from "node:os";

/** Listens at `path`, in the place of a socket at which nobody answers. Rejects when somebody does, and leaves whatever is no socket. */
export async function listenPrivately(server: Server, path: string): Promise<void> {
  await removeStale(path);
  const mask = process.umask(0o177);
  try {
    // The socket is made before listen() returns.
    server.listen(path);
  } finally {
    process.umask(mask);
  }
  await once(server, "listening");
  chmodSync(path, 0o600);
}

async function removeStale(path: string): Promise<void> {
  // To connect to another file is refused, too, as if it were a socket that is left over.
  if (!lstatSync(path, { throwIfNoEntry: false })?.isSocket()) return;
  const socket = createConnection(path);
  const answers = await new Promise<boolean>((resolve) => {
    socket.once("connect", () => resolve(true));
    socket.once("error", () => resolve(false));
  });
  socket.destroy();
  if (answers)
    throw Object.assign(new Error(`another daemon answers at ${path}: stop it first`), {
      errno: constants.errno.EBUSY,
    });
  rmSync(path, { force: true });
}
