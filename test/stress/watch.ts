/** Says within a minute that a round stands still, and what everything waits for then. */
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { program } from "../../host/cli/child.js";

/** A guest of a busy machine is answered sooner, with limits, too. */
const STANDSTILL_MS = 30_000;
const ASK_MS = 5000;
const LOOK_MS = 500;

export class Watch {
  readonly #directory: string;
  readonly #backend: number;
  readonly #vbds: readonly string[];
  readonly #progress: () => number;
  #ended = false;

  /** `progress` changes as long as things go on; `backend` is the daemon's process. */
  constructor(directory: string, backend: number, vbds: readonly string[], progress: () => number) {
    this.#directory = directory;
    this.#backend = backend;
    this.#vbds = vbds;
    this.#progress = progress;
  }

  /** Rejects when nothing has changed for half a minute; never resolves. */
  async standstill(): Promise<never> {
    let last = this.#progress();
    let since = Date.now();
    while (!this.#ended) {
      await sleep(LOOK_MS);
      const now = this.#progress();
      if (now !== last) {
        last = now;
        since = Date.now();
      } else if (Date.now() - since > STANDSTILL_MS) {
        throw new Error(`nothing has moved for ${STANDSTILL_MS / 1000} s\n${await this.#dump(now)}`);
      }
    }
    return new Promise(() => {});
  }

  end(): void {
    this.#ended = true;
  }

  /** What is in flight and what is on the rings, twice, so that it is seen what still moves; and what the threads do. */
  async #dump(progress: number): Promise<string> {
    const first = this.#ask();
    await sleep(1000);
    return [
      `progress: ${progress}`,
      first,
      "---- a second later ----",
      this.#ask(),
      "---- the daemon's threads ----",
      ...this.#threads(),
    ].join("\n");
  }

  #ask(): string {
    const place = ["--directory", this.#directory];
    const questions = [["list"], ...this.#vbds.map((vbd) => ["show", vbd]), ["stats", "--json"]];
    return questions
      .map((words) => `$ xbdback ${words.join(" ")}\n${answerTo([...words, ...place])}`)
      .join("\n");
  }

  /** What each waits for in the kernel, where that may be read. */
  #threads(): string[] {
    const tasks = `/proc/${this.#backend}/task`;
    try {
      return readdirSync(tasks).map((task) => {
        const read = (file: string): string => readFileSync(`${tasks}/${task}/${file}`, "utf8").trim();
        const [, state] = /^State:\s*(\S+)/m.exec(read("status")) ?? [];
        return `${task} ${read("comm")}: ${state}, ${read("wchan")}, system call ${read("syscall").split(" ")[0]}`;
      });
    } catch (error) {
      return [(error as Error).message];
    }
  }
}

function answerTo(args: readonly string[]): string {
  try {
    return execFileSync(process.execPath, [program, ...args], {
      encoding: "utf8",
      timeout: ASK_MS,
      stdio: ["ignore", "pipe", "pipe"],
    });
  } catch (error) {
    const { stderr, message } = error as Error & { stderr?: string };
    return stderr || message;
  }
}
