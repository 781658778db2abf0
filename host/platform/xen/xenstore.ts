/** The ways to xenstored: its socket where it runs in this domain, else the kernel's device. */
import { closeSync, constants, existsSync, openSync } from "node:fs";
import { type Poll, pollReadable, readNonBlocking, writeNonBlocking } from "../libc.js";
import { type Xenstore, XenstoreError } from "../ports.js";
import { openXenstore } from "../xenstore/client.js";
import { type ByteStream, connectSocket } from "../xenstore/stream.js";
import { HEADER_BYTES, PAYLOAD_MAX } from "../xenstore/wire.js";

/** As libxenstore looks for them: `XENSTORED_PATH` first. */
const SOCKETS = ["/run/xenstored/socket", "/var/run/xenstored/socket"];
/** All that a driver domain has. */
const XENBUS_DEVICES = ["/dev/xen/xenbus", "/proc/xen/xenbus"];

/** Connects to this domain's xenstored. Rejects with a {@link XenstoreError} that says what was tried. */
export async function connectXen(): Promise<Xenstore> {
  const named = process.env["XENSTORED_PATH"];
  const sockets = named ? [named] : SOCKETS.filter((path) => existsSync(path));
  let refusal: Error | null = null;
  for (const path of sockets) {
    try {
      return openXenstore(await connectSocket(path));
    } catch (error) {
      refusal ??= error as Error;
    }
  }
  for (const path of XENBUS_DEVICES) {
    try {
      return openXenstore(deviceStream(openSync(path, constants.O_RDWR | constants.O_NONBLOCK), path));
    } catch (error) {
      refusal ??= error as Error;
    }
  }
  if (refusal instanceof XenstoreError) throw refusal;
  const code = (refusal as NodeJS.ErrnoException).code ?? "EIO";
  throw new XenstoreError(code, `no socket at ${SOCKETS[0]}, and can't open ${XENBUS_DEVICES[0]}`);
}

/**
 * Speaks over an open /dev/xen/xenbus, which is closed with the stream. The device takes messages of 4096 bytes with
 * their header, and ends transactions and watches with the file. It holds one message: a second that is written before
 * the first was answered can overwrite it, and then an answer is that to another request (xenbus_dev_request_and_reply
 * of Linux 4.11 and later queues a pointer into the file's only buffer).
 */
export function deviceStream(fd: number, name: string): ByteStream {
  let poll: Poll | null = null;
  let ended = false;
  let end: (error: Error) => void = () => {};
  const finish = (why: string): void => {
    if (ended) return;
    ended = true;
    poll?.close();
    closeSync(fd);
    // Not within the call that failed: the caller has not stored its request yet.
    setImmediate(() => end(new XenstoreError("EIO", `${name}: ${why}`)));
  };
  const guarded = (body: () => void): void => {
    try {
      body();
    } catch (error) {
      finish((error as Error).message);
    }
  };
  return {
    payloadMax: PAYLOAD_MAX - HEADER_BYTES,
    holdsOne: true,
    write: (bytes) => {
      if (ended) return;
      guarded(() => {
        if (!writeNonBlocking(fd, bytes)) throw new Error("the kernel does not take the request");
      });
    },
    start: (onBytes, onEnd) => {
      end = onEnd;
      poll = pollReadable(fd, () => {
        guarded(() => {
          // A buffer of its own: the receiver may keep what is incomplete.
          for (;;) {
            const buffer = Buffer.allocUnsafe(PAYLOAD_MAX);
            const count = ended ? 0 : readNonBlocking(fd, buffer);
            if (count === 0) return;
            onBytes(buffer.subarray(0, count));
          }
        });
      });
    },
    close: () => finish("closed"),
  };
}
