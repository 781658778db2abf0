/** What a user could run instead: NBD servers on the same file. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, rmSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { atExit } from "./cleanup.js";
import type { Image, NbdPeer, Setup } from "./rows.js";

const START_MS = 10_000;

/** The fastest of its options: see docs/bench.md. */
function commandOf(
  peer: NbdPeer,
  { cache, queues }: Setup,
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
  readonly pid: number;
  readonly #process: ChildProcess;

  private constructor(socket: string, process: ChildProcess) {
    this.socket = socket;
    this.pid = process.pid!;
    this.#process = process;
  }

  /** Resolves when the server listens. Rejects with what it said instead. */
  static async start(peer: NbdPeer, setup: Setup, image: Image, socket: string): Promise<NbdServer> {
    rmSync(socket, { force: true });
    const [program, ...args] = commandOf(peer, setup, image, socket);
    const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
    const kept = atExit(() => child.kill("SIGKILL"));
    child.on("close", kept);
    let said = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
    const end = Date.now() + START_MS;
    while (!existsSync(socket)) {
      await sleep(10);
      if (child.exitCode !== null) throw new Error(`${peer} ended: ${said.trim().split("\n").at(-1)}`);
      if (Date.now() > end) {
        child.kill("SIGKILL");
        throw new Error(`${peer} did not listen within ${START_MS / 1000} s`);
      }
    }
    return new NbdServer(socket, child);
  }

  async stop(): Promise<void> {
    if (this.#process.exitCode !== null) return;
    const closed = once(this.#process, "close");
    this.#process.kill("SIGTERM");
    await closed;
  }
}
