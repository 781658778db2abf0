/** A connection to an NBD server on which nothing has been said yet: for another program, which is given a descriptor. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { copyOf } from "../../platform/connection.js";
import { answersWithin } from "../calls/answers.js";
import { unanswered, unreachable } from "./negotiate.js";
import type { NbdAddress } from "./uri.js";

/** Resolves with a descriptor, the caller's to close. Rejects with an Error that says why there is none. */
export async function connectTo(address: NbdAddress, milliseconds: number): Promise<number> {
  const { socket: path, host, port } = address;
  // connect(2) of a path looks it up in this thread.
  if (path !== null && !(await answersWithin(path, milliseconds)))
    throw new Error(`${path} does not answer; check the file system that it is on`);
  const socket: Socket =
    path === null ? connect({ host, port, noDelay: true, keepAlive: true }) : connect({ path });
  // What the server says first is not for us.
  socket.pause();
  try {
    await once(socket, "connect", { signal: AbortSignal.timeout(milliseconds) });
    return copyOf((socket as unknown as { _handle: { fd: number } })._handle.fd);
  } catch (error) {
    const { name } = error as Error;
    throw name === "AbortError"
      ? unanswered(address, milliseconds, true)
      : unreachable(address, error as NodeJS.ErrnoException);
  } finally {
    socket.on("error", () => {});
    socket.destroy();
  }
}
