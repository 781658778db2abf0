/** What a user could run instead: NBD servers on the same file. */
import { existsSync, rmSync } from "node:fs";
import type { Image, NbdPeer, Setup } from "./rows.js";
import { Server } from "./server.js";

/** The fastest of its options: see docs/bench.md. */
function commandOf(
  peer: NbdPeer,
  { cache, queues }: Pick<Setup, "cache" | "queues">,
  { path, format }: Image,
  socket: string,
): string[] {
  if (peer === "nbdkit") return ["nbdkit", "--foreground", "--unix", socket, "file", path];
  // The file is open in xbdback, too; both are idle when they are not measured.
  const image = `driver=${format},file.driver=file,file.filename=${path},file.locking=off`;
  return [
    ...["qemu-nbd", "--persistent", `--shared=${queues}`, `--cache=${cache}`, "--aio=io_uring"],
    ...["--discard=unmap", "--socket", socket, "--image-opts", `${image},file.aio=io_uring`],
  ];
}

export class NbdServer {
  readonly socket: string;
  readonly #server: Server;

  private constructor(socket: string, server: Server) {
    this.socket = socket;
    this.#server = server;
  }

  /** Resolves when the server listens. Rejects with what it said instead. */
  static async start(
    peer: NbdPeer,
    how: Pick<Setup, "cache" | "queues">,
    image: Image,
    socket: string,
  ): Promise<NbdServer> {
    rmSync(socket, { force: true });
    const [program, ...args] = commandOf(peer, how, image, socket);
    return new NbdServer(socket, await Server.start(program, args, () => existsSync(socket)));
  }

  get pid(): number {
    return this.#server.pid;
  }

  stop(): Promise<void> {
    return this.#server.stop();
  }
}
