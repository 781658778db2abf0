/** xbdback while an operator's `trace` or `record` looks at the ring: what that costs. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { program } from "../../host/cli/child.js";
import type { Row } from "./rows.js";
import type { Contestant, Sample } from "./sample.js";
import type { Xbdback } from "./xbdback.js";

/** By when the command must look at the ring, on a machine that is busy. */
const START_MS = 60_000;
/** Of the load by which one sees that it looks. */
const PROBE_SECONDS = 0.05;
const COMMANDS = { traced: "trace", recorded: "record" } as const;

export class Observed implements Contestant {
  readonly name: keyof typeof COMMANDS;
  readonly #xbdback: Xbdback;
  /** What `record` writes. */
  readonly #session: string;

  constructor(name: keyof typeof COMMANDS, xbdback: Xbdback, scratch: string) {
    this.name = name;
    this.#xbdback = xbdback;
    this.#session = join(scratch, "observed.session");
  }

  get pids(): readonly number[] {
    return this.#xbdback.pids;
  }

  /** Rejects where nothing was seen: then nothing was measured. */
  async run(row: Row, seconds: number): Promise<Sample> {
    const { machine } = this.#xbdback;
    const command = COMMANDS[this.name];
    rmSync(this.#session, { force: true });
    const args = [command, machine.vbdName, "--directory", machine.directory];
    if (command === "record") args.push(this.#session);
    const child = spawn(process.execPath, [program, ...args], { stdio: ["ignore", "pipe", "ignore"] });
    let seen = 0;
    child.stdout.on("data", (data: Buffer) => (seen += data.length));
    try {
      const started = Date.now();
      // `record` begins its file at once; `trace` has something to say as soon as there are requests.
      while (command === "record" ? !existsSync(this.#session) : seen === 0) {
        if (child.exitCode !== null || Date.now() > started + START_MS)
          throw new Error(`xbdback ${command} did not begin (exit status ${child.exitCode})`);
        if (command === "record") await sleep(20);
        else await this.#xbdback.run(row, PROBE_SECONDS);
      }
      seen = 0;
      const sample = await this.#xbdback.run(row, seconds);
      if (command === "record") seen = statSync(this.#session).size;
      if (seen === 0) throw new Error(`xbdback ${command} saw nothing`);
      return sample;
    } finally {
      const ended = once(child, "close");
      if (child.exitCode === null && child.kill("SIGINT")) await ended;
      rmSync(this.#session, { force: true });
    }
  }
}
