/** A qemu-storage-daemon with one image and two sockets: one for xbdback, one for a client that is measured beside it. */
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { MOST_QUEUES } from "../../host/storage/vhost-user/handshake.js";
import { Server } from "./server.js";

/** One file of an image. */
export interface Layer {
  readonly format: "raw" | "qcow2";
  readonly path: string;
}

/** What an image consists of, from above. */
export type Layers = readonly [Layer, ...Layer[]];

function nodeOf([{ format, path }, base]: readonly Layer[]): object {
  const file = { driver: "file", filename: path, locking: "off", aio: "io_uring" };
  return { driver: format, file, ...(format === "qcow2" && { backing: base ? nodeOf([base]) : null }) };
}

export class StorageDaemon {
  /** For xbdback, and for the other one. */
  readonly sockets: readonly [string, string];
  readonly #server: Server;

  private constructor(server: Server, sockets: [string, string]) {
    this.#server = server;
    this.sockets = sockets;
  }

  /** As xbdback starts it for a disk of its own (host/storage/helper/storage-daemon.ts), through the page cache. */
  static async start(layers: Layers, scratch: string): Promise<StorageDaemon> {
    const sockets: [string, string] = [join(scratch, "own.sock"), join(scratch, "vhost.sock")];
    for (const socket of sockets) rmSync(socket, { force: true });
    const node = {
      ...{ "node-name": "disk", discard: "unmap", cache: { direct: false, "no-flush": false } },
      ...nodeOf(layers),
    };
    const exports = sockets.map((path, i) => ({
      ...{ type: "vhost-user-blk", id: `export${i}`, "node-name": "disk", writable: true },
      ...{ addr: { type: "unix", path }, "num-queues": MOST_QUEUES },
    }));
    const args = [
      ...["--blockdev", JSON.stringify(node)],
      ...exports.flatMap((server) => ["--export", JSON.stringify(server)]),
    ];
    const server = await Server.start("qemu-storage-daemon", args, () => sockets.every(existsSync));
    return new StorageDaemon(server, sockets);
  }

  get pid(): number {
    return this.#server.pid;
  }

  stop(): Promise<void> {
    return this.#server.stop();
  }
}
