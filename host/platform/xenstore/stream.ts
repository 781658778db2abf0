/** What carries xenstore's messages: a duplex byte stream, be it xenstored's socket or /dev/xen/xenbus. */
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { XenstoreError } from "../ports.js";
import { PAYLOAD_MAX } from "./wire.js";

export interface ByteStream {
  /** Bytes of payload that one message may have: 4096, or 4080 on /dev/xen/xenbus, which counts the header in. */
  readonly payloadMax: number;
  /** It holds one message: none may be written before the answer to the last has come. */
  readonly holdsOne?: boolean;
  write(bytes: Uint8Array): void;
  /** Starts the flow of bytes. `onEnd` is called once, whichever side ended it. */
  start(onBytes: (bytes: Buffer) => void, onEnd: (error: Error) => void): void;
  close(): void;
}

/** What to do when nobody listens. */
const XENSTORED = "is xenstored running?";

function remedyFor(code: string, absent: string): string | undefined {
  if (code === "ENOENT" || code === "ECONNREFUSED") return absent;
  return code === "EACCES" ? "run as root, or as the socket's owner" : undefined;
}

/** xenstored listens with a backlog of 1: a connect(2) that finds it full fails with EAGAIN and is tried again. */
const CONNECT_ATTEMPTS = 200;
const CONNECT_PAUSE = 5;

/** Connects to xenstored's socket. Rejects with a {@link XenstoreError} that has the errno's name and the remedy. */
export async function connectSocket(path: string, absent = XENSTORED): Promise<ByteStream> {
  for (let attempt = 1; ; attempt++) {
    try {
      return streamOf(await connected(path), path);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ?? "EIO";
      if (code !== "EAGAIN" || attempt === CONNECT_ATTEMPTS) {
        const remedy = remedyFor(code, absent);
        throw new XenstoreError(code, `can't connect to ${path}${remedy ? ` (${remedy})` : ""}`);
      }
    }
    await sleep(CONNECT_PAUSE);
  }
}

function connected(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.off("error", reject);
      resolve(socket);
    });
  });
}

function streamOf(socket: Socket, path: string): ByteStream {
  let reason = "xenstored closed the connection";
  socket.on("error", (error) => {
    reason = error.message;
  });
  const uncork = (): void => socket.uncork();
  return {
    payloadMax: PAYLOAD_MAX,
    write: (bytes) => {
      // The requests of one turn of the event loop go out in one system call.
      if (socket.writableCorked === 0) {
        socket.cork();
        process.nextTick(uncork);
      }
      socket.write(bytes);
    },
    start: (onBytes, onEnd) => {
      socket.on("data", onBytes);
      socket.once("close", () => onEnd(new XenstoreError("EIO", `${path}: ${reason}`)));
    },
    close: () => socket.destroy(),
  };
}
