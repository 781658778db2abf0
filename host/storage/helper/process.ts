/** A helper program at work: from its start, over the one connection to it, to its end. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { DialError } from "../nbd/negotiate.js";
import { DeviceError } from "../open.js";
import { findProgram, type HelperCommand } from "./command.js";
import { confined } from "./confined.js";
import type { Dial } from "./dial.js";

const { EBUSY, EIO, ENOENT } = constants.errno;
const START_MS = 20_000;
const POLL_MS = 10;
/** How long it may take to write back what it keeps and end by itself; then it is asked, then killed. */
const END_MS = 10_000;
const ASKED_MS = 5000;
const KEPT_LINES = 5;
const SOCKET = "socket";
/** To a monitor: what is to be said first, and the end. Its answers are of no use. */
const QUIT = '{"execute":"qmp_capabilities"}\n{"execute":"quit"}\n';

/** Where its socket is for the short time until we are connected. */
const DIRECTORY = process.env["RUNTIME_DIRECTORY"]?.split(":")[0] || tmpdir();

export class Helper {
  /** For people. */
  readonly name: string;
  readonly #child: ChildProcess;
  readonly #command: HelperCommand;
  readonly #directory: string;
  /** What it said last. */
  readonly #said: string[] = [];
  readonly #ended: Promise<void>;
  #over = false;

  private constructor(
    command: HelperCommand,
    child: ChildProcess,
    directory: string,
    log: (line: string) => void,
  ) {
    const { program } = command;
    this.name = program;
    this.#command = command;
    this.#child = child;
    this.#directory = directory;
    // It has ended.
    child.stdin?.on("error", () => {});
    this.#ended = new Promise((resolve) => {
      child.once("close", (status, signal) => {
        this.#over = true;
        if (signal !== null || status !== 0) log(`${program} ended with ${signal ?? `status ${status}`}`);
        resolve();
      });
      child.once("error", () => resolve());
    });
    createInterface({ input: child.stderr as NonNullable<ChildProcess["stderr"]> }).on("line", (text) => {
      const line = withoutOption(text, command);
      if (this.#said.push(line) > KEPT_LINES) this.#said.shift();
      log(`${program}: ${line}`);
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Starts a helper for a disk of this name. Rejects with a {@link DeviceError} where it is not installed. */
  static start(
    name: string,
    makeCommand: (socket: string) => HelperCommand,
    log: (line: string) => void,
    find = findProgram,
  ): Helper {
    const required = (program: string, from: string): string => {
      const path = find(program);
      if (path !== null) return path;
      const why = `needs ${program}, which is not installed: \`apt install ${from}\``;
      throw new DeviceError(ENOENT, name, why);
    };
    // Nobody else gets at the socket: the directory has mode 0700.
    const directory = mkdtempSync(join(DIRECTORY, "xbdback-"));
    try {
      const made = makeCommand(join(directory, SOCKET));
      const { args, reach, hasMonitor = false } = made;
      const path = required(made.program, made.package);
      // The launcher makes the kernel end it with the daemon. Nothing else would: nbdkit sees to that itself.
      if (hasMonitor) required("perl", "perl-base");
      const command = confined(path, args, reach, { byHangup: hasMonitor });
      const child = spawn(command.program, command.args, {
        cwd: "/",
        env: command.env,
        stdio: [hasMonitor ? "pipe" : "ignore", "ignore", "pipe"],
      });
      return new Helper(made, child, directory, log);
    } catch (error) {
      rmSync(directory, { recursive: true, force: true });
      throw error;
    }
  }

  /** Connects to it as soon as it listens. Rejects with a {@link DeviceError}; it is to be stopped then. */
  async connect<Connection>(
    disk: string,
    dial: Dial<Connection>,
    milliseconds = START_MS,
  ): Promise<Connection> {
    const end = performance.now() + milliseconds;
    const socket = join(this.#directory, SOCKET);
    try {
      for (;;) {
        try {
          return await dial(socket, Math.max(end - performance.now(), 1));
        } catch (error) {
          await this.#giveUp(disk, error as Error, performance.now() > end, milliseconds / 1000);
        }
        await Promise.race([sleep(POLL_MS), this.#ended]);
      }
    } finally {
      // It serves one client, which is connected, or will never be.
      rmSync(this.#directory, { recursive: true, force: true });
    }
  }

  /** Throws where another attempt to connect would not help. `late`: the time for it, so many seconds, is over. */
  async #giveUp(disk: string, error: Error, late: boolean, seconds: number): Promise<void> {
    const kind = error instanceof DialError ? error.kind : "handshake";
    // One that fails closes the connection first, and says why.
    if (kind === "closed") await this.#endsWithin(END_MS);
    if (this.#over && (kind === "unreachable" || kind === "closed")) throw this.#failure(disk);
    if (kind === "unreachable" && !late) return;
    let why = `: ${error.message}`;
    if (kind === "unreachable") why = ` does not listen ${seconds} s after its start`;
    else if (kind === "unanswered") why = ` does not answer ${seconds} s after its start`;
    throw new DeviceError(EIO, disk, `${this.name}${why}`);
  }

  /** Resolves when it has ended, having written back what it keeps if it can. To be called when its client is gone. */
  async end(): Promise<void> {
    if (this.#command.hasMonitor) this.#child.stdin?.end(QUIT);
    if (!(await this.#endsWithin(END_MS))) await this.stop();
  }

  /** As {@link end}, for one that never had a client: it would wait for one, and has nothing to write back. */
  async stop(): Promise<void> {
    this.#child.kill(this.#command.hasMonitor ? "SIGHUP" : "SIGTERM");
    if (await this.#endsWithin(ASKED_MS)) return;
    this.#child.kill("SIGKILL");
    await this.#ended;
  }

  async #endsWithin(milliseconds: number): Promise<boolean> {
    const controller = new AbortController();
    const late = sleep(milliseconds, undefined, { signal: controller.signal }).catch(() => {});
    await Promise.race([this.#ended, late]);
    controller.abort();
    return this.#over;
  }

  /** Why it ended instead of serving. */
  #failure(disk: string): DeviceError {
    const why = this.#said.join("; ") || `${this.name} exited without any output`;
    // QEMU's words (block/file-posix.c).
    const busy = /Failed to (get|lock)|Is another process using the image|Device or resource busy/.test(why);
    const extra = /Unknown (driver|protocol)/.test(why) ? "; `apt install qemu-block-extra`" : "";
    return new DeviceError(busy ? EBUSY : EIO, disk, `${this.name} cannot serve it: ${why}${extra}`);
  }
}

/** A line of QEMU's without the option that it is about, which may be a chain of images in JSON. */
function withoutOption(line: string, { args }: HelperCommand): string {
  const about = args.findIndex((_, i) => line.includes(`: ${args[i]} ${args[i + 1]}: `));
  return about < 0 ? line : line.replace(`${args[about]} ${args[about + 1]}: `, "");
}
