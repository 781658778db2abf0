/** What a user could run instead: NBD servers on the same file. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { atExit } from "./cleanup.js";
import { FioNbd } from "./fio.js";
import type { Peer, Setup } from "./rows.js";

const START_MS = 10_000;

/** Why there can be no such peer; null where there can. */
export function objection(peer: Peer, missing: ReadonlyMap<string, string>): string | null {
  return missing.get("fio") ?? missing.get(peer) ?? null;
}

/** The fastest of its options: see docs/bench.md. */
function commandOf(peer: Peer, { cache, queues }: Setup, file: string, socket: string): string[] {
  if (peer === "nbdkit") return ["nbdkit", "--foreground", "--unix", socket, "file", file];
  // The file is open in xbdback, too; both are idle when they are not measured.
  const image = `driver=raw,file.driver=file,file.filename=${file},file.locking=off`;
  return [
    ...["qemu-nbd", "--persistent", `--shared=${queues}`, `--cache=${cache}`, "--aio=io_uring"],
    ...["--discard=unmap", "--socket", socket, "--image-opts", `${image},file.aio=io_uring`],
  ];
}

export class NbdPeer {
  readonly contestant: FioNbd;
  readonly #process: ChildProcess;

  private constructor(contestant: FioNbd, process: ChildProcess) {
    this.contestant = contestant;
    this.#process = process;
  }

  /** Resolves when the server listens. Rejects with what it said instead. */
  static async start(peer: Peer, setup: Setup, file: string, scratch: string): Promise<NbdPeer> {
    const socket = join(scratch, `${peer}.sock`);
    rmSync(socket, { force: true });
    const [program, ...args] = commandOf(peer, setup, file, socket);
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
    return new NbdPeer(new FioNbd(peer, child.pid!, socket, scratch), child);
  }

  async stop(): Promise<void> {
    if (this.#process.exitCode !== null) return;
    const closed = once(this.#process, "close");
    this.#process.kill("SIGTERM");
    await closed;
  }
}
