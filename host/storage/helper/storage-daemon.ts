/** The command line of qemu-storage-daemon, which serves an image as a vhost-user-blk disk on a private socket. */
import { IMAGE_FORMATS } from "../source.js";
import { MOST_QUEUES } from "../vhost-user/handshake.js";
import {
  findProgram,
  type HelpedSource,
  type HelperCommand,
  type HowToServe,
  nodeOf,
  reachOfImage,
} from "./command.js";

const PROGRAM = "qemu-storage-daemon";
/** Debian's. */
const PACKAGE = "qemu-system-common";

/** QEMU's ways to do I/O on files. With threads it does a third of what it does with io_uring, which a kernel may forbid. */
export type Aio = "io_uring" | "threads";

/**
 * It opens the image, and locks it, when it starts, and serves one client after the other. Without an iothread: with one,
 * QEMU 7.2 never ends when it is asked to while a client is connected, and so would outlive a daemon that is killed.
 */
export function storageDaemon(
  { format, path }: Extract<HelpedSource, { kind: "image" }>,
  how: HowToServe,
  aio: Aio,
): HelperCommand {
  const { readOnly, shared, cache, socket, block = false, bases = [] } = how;
  const image = { driver: IMAGE_FORMATS[format], path, block };
  const node = {
    ...{ "node-name": "disk", "read-only": readOnly, discard: "unmap" },
    // With false the page cache is used. A guest's flush is a flush in both cases. The nodes below inherit it.
    cache: { direct: cache === "none", "no-flush": false },
    ...nodeOf(image, shared ? "off" : "on", bases, { aio }),
  };
  const server = {
    ...{ type: "vhost-user-blk", id: "disk", "node-name": "disk", writable: !readOnly },
    addr: { type: "unix", path: socket },
    "num-queues": MOST_QUEUES,
  };
  return {
    program: PROGRAM,
    package: PACKAGE,
    reach: reachOfImage(image, how),
    hasMonitor: true,
    args: [
      ...["--chardev", "stdio,id=monitor,signal=off", "--monitor", "chardev=monitor"],
      ...["--blockdev", JSON.stringify(node), "--export", JSON.stringify(server)],
    ],
  };
}

/** Why images cannot be served by it here; null where they can. */
export function noStorageDaemon(perl = findProgram("perl")): string | null {
  if (findProgram(PROGRAM) === null) return `${PROGRAM} is not installed: \`apt install ${PACKAGE}\``;
  // The launcher, which is in Perl, makes the kernel end it with the daemon. Nothing else would.
  return perl === null ? `${PROGRAM} needs perl: \`apt install perl-base\`` : null;
}
