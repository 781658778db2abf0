/** A program of others that serves storage, as a process of the benchmark. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { atExit } from "./cleanup.js";

const START_MS = 10_000;

export class Server {
  readonly pid: number;
  readonly #process: ChildProcess;

  private constructor(process: ChildProcess) {
    this.pid = process.pid!;
    this.#process = process;
  }

  /** Resolves when `isReady`. Rejects with what the program said instead. `afterKill`: see {@link atExit}. */
  static async start(
    program: string,
    args: readonly string[],
    isReady: () => boolean,
    afterKill: () => void = () => {},
  ): Promise<Server> {
    const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
    const kept = atExit(() => {
      child.kill("SIGKILL");
      afterKill();
    });
    child.on("close", kept);
    let said = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
    const end = Date.now() + START_MS;
    while (!isReady()) {
      await sleep(10);
      if (child.exitCode !== null) throw new Error(`${program} ended: ${said.trim().split("\n").at(-1)}`);
      if (Date.now() > end) {
        child.kill("SIGKILL");
        throw new Error(`${program} was not ready within ${START_MS / 1000} s`);
      }
    }
    return new Server(child);
  }

  async stop(): Promise<void> {
    if (this.#process.exitCode !== null) return;
    const closed = once(this.#process, "close");
    this.#process.kill("SIGTERM");
    await closed;
  }
}
