/** What carries xenstore's messages: a duplex byte stream, be it xenstored's socket or /dev/xen/xenbus. */
import { connect } from "node:net";
import { XenstoreError } from "../ports.js";
import { PAYLOAD_MAX } from "./wire.js";

export interface ByteStream {
  /** Bytes of payload that one message may have: 4096, or 4080 on /dev/xen/xenbus, which counts the header in. */
  readonly payloadMax: number;
  write(bytes: Uint8Array): void;
  /** Starts the flow of bytes. `onEnd` is called once, whichever side ended it. */
  start(onBytes: (bytes: Buffer) => void, onEnd: (error: Error) => void): void;
  close(): void;
}

const REMEDIES: Readonly<Record<string, string>> = {
  ENOENT: "is xenstored running?",
  ECONNREFUSED: "is xenstored running?",
  EACCES: "run as root, or as the socket's owner",
};

/** Connects to xenstored's socket. Rejects with a {@link XenstoreError} that has the errno's name. */
export function connectSocket(path: string): Promise<ByteStream> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    const failed = (error: NodeJS.ErrnoException) => {
      const code = error.code ?? "EIO";
      const remedy = REMEDIES[code];
      reject(new XenstoreError(code, `can't connect to ${path}${remedy ? ` (${remedy})` : ""}`));
    };
    socket.once("error", failed);
    socket.once("connect", () => {
      socket.off("error", failed);
      resolve({
        payloadMax: PAYLOAD_MAX,
        write: (bytes) => void socket.write(bytes),
        start: (onBytes, onEnd) => {
          let reason = "xenstored closed the connection";
          socket.on("data", onBytes);
          socket.on("error", (error) => {
            reason = error.message;
          });
          socket.once("close", () => onEnd(new XenstoreError("EIO", `${path}: ${reason}`)));
        },
        close: () => socket.destroy(),
      });
    });
  });
}
