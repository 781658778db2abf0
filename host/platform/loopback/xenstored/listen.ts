/** Sockets in the file system that only their owner can use, and of which each path has one. */
import { chmodSync, lstatSync, unlinkSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { isMainThread } from "node:worker_threads";

/** Bytes of sun_path (unix(7)), less its NUL. A longer path would be cut off without a word. */
const SOCKET_PATH_MAX = 107;

/**
 * Listens at `path` with mode 0600. A socket that is left over from a process that is gone is replaced; rejects if
 * somebody listens there, or if what is there is not a socket.
 */
export async function listenPrivately(path: string, onSocket: (socket: Socket) => void): Promise<Server> {
  if (Buffer.byteLength(path) > SOCKET_PATH_MAX) {
    throw new Error(
      `${path}: too long for a socket (at most ${SOCKET_PATH_MAX} bytes); use a shorter directory`,
    );
  }
  await removeStale(path);
  const server = createServer(onSocket);
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    // The socket is made before listen() returns. Only the main thread may set the umask.
    const umask = isMainThread ? process.umask(0o177) : null;
    try {
      server.listen(path, resolve);
    } finally {
      if (umask !== null) process.umask(umask);
    }
  });
  chmodSync(path, 0o600);
  return server;
}

async function removeStale(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found) return;
  if (!found.isSocket())
    throw new Error(`${path} exists and is not a socket; remove it or choose another path`);
  if (await somebodyListens(path)) {
    throw new Error(`${path}: another process listens there; stop it or choose another path`);
  }
  unlinkSync(path);
}

function somebodyListens(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const answer = (listens: boolean) => {
      socket.destroy();
      resolve(listens);
    };
    socket.once("connect", () => answer(true));
    socket.once("error", (error: NodeJS.ErrnoException) => answer(error.code !== "ECONNREFUSED"));
  });
}
