/**
 * The last good configuration, kept in the run-time directory: a service whose file has been broken meanwhile starts with
 * it, as guests wait for their disks. Who starts a daemon by hand is told what is wrong instead, and nothing starts.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import type { Command } from "commander";
import { controlSocket } from "../daemon/serve.js";
import { apply, DEFAULT_FILE, readConfiguration } from "./configuration.js";

export class LastGood {
  readonly #command: Command;
  readonly #file: string;
  readonly #named: boolean;
  readonly #copy: string;

  /** `command` has its command line and environment, and no file yet: the broken file cannot say where its copy is. */
  constructor(command: Command, named?: string) {
    const { directory, kind } = command.opts<{ directory?: string; kind: string }>();
    this.#command = command;
    this.#file = resolve(named ?? DEFAULT_FILE);
    this.#named = named !== undefined;
    const socket =
      directory === undefined
        ? controlSocket({ kind: "xen", domid: 0 }, kind)
        : controlSocket({ kind: "loopback", directory, domid: 0 }, kind);
    const id = createHash("sha256").update(`${kind}\0${this.#file}`).digest("hex").slice(0, 12);
    this.#copy = join(dirname(socket), `last-good-${id}.toml`);
  }

  /** Keeps the file as it is now, which was taken. A run-time directory that cannot be written is no reason to end. */
  keep(): void {
    try {
      const text = readConfiguration(this.#file, this.#named) ?? "";
      mkdirSync(dirname(this.#copy), { recursive: true, mode: 0o755 });
      writeFileSync(`${this.#copy}.new`, text, { mode: 0o600 });
      renameSync(`${this.#copy}.new`, this.#copy);
    } catch {
      // The next start has no copy then, and refuses a broken file.
    }
  }

  /** Configures the command by the copy and returns the line that says so, or throws `problem`: there is no good copy. */
  use(problem: unknown): string {
    try {
      apply(this.#command, this.#copy, readFileSync(this.#copy, "utf8"));
    } catch {
      throw problem;
    }
    return `${(problem as Error).message}; started with the last good configuration, ${this.#copy}`;
  }
}
