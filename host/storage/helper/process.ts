/** A helper program at work: from its start, or from where another daemon has left it, over the connection to it, to its end. */
import { spawn } from "node:child_process";
import { closeSync, mkdtempSync } from "node:fs";
import { Socket } from "node:net";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { startOf } from "../../platform/process-start.js";
import { DeviceError } from "../open.js";
import { Session } from "../vhost-user/session.js";
import { findProgram, type HelperCommand } from "./command.js";
import { confined } from "./confined.js";
import { Monitor, monitorOf } from "./monitor.js";
import { HelperPlace } from "./place.js";

const { EBUSY, EIO, ENOENT } = constants.errno;
const START_MS = 20_000;
const POLL_MS = 10;
/** For the answer to a message of the handshake, however long the start took. */
const ANSWER_MS = 10_000;
/** How long it may take to write back what it keeps and end by itself; then it is asked, then killed. */
const END_MS = 10_000;
const ASKED_MS = 5000;
const KEPT_LINES = 5;

/** Where one has its sockets that ends with this process. */
const DIRECTORY = process.env["RUNTIME_DIRECTORY"]?.split(":")[0] || tmpdir();

export interface HowToStart {
  /** Where it outlives this process. Default: it does not. */
  readonly place?: HelperPlace | null;
  /** What it is given, where it takes one; the caller's to close. */
  readonly connection?: number;
  /** Finds a program. */
  readonly find?: typeof findProgram;
}

interface Whereabouts {
  readonly place: HelperPlace;
  /** Its log. */
  readonly reading: number;
  /** Null where another daemon has started it. */
  readonly exited: Promise<void> | null;
  /** It does not end with this process. */
  readonly outlives: boolean;
}

export class Helper {
  /** For people. */
  readonly name: string;
  readonly pid: number;
  readonly #command: HelperCommand;
  readonly #place: HelperPlace;
  /** It does not end with this process. */
  readonly #outlives: boolean;
  /** Another daemon has started it. */
  readonly #found: boolean;
  readonly #log: Socket;
  #monitor: Monitor | null = null;
  /** What it said last. */
  readonly #said: string[] = [];
  readonly #ended: Promise<void>;
  #over = false;

  /** Hears its log, which ends with it. */
  private constructor(
    command: HelperCommand,
    pid: number,
    log: (line: string) => void,
    { place, reading, exited, outlives }: Whereabouts,
  ) {
    this.name = command.program;
    this.pid = pid;
    this.#command = command;
    this.#place = place;
    this.#outlives = outlives;
    this.#found = exited === null;
    this.#log = new Socket({ fd: reading, readable: true, writable: false });
    this.#log.on("error", () => {});
    createInterface({ input: this.#log }).on("line", (text) => {
      const line = withoutOption(text, command);
      if (this.#said.push(line) > KEPT_LINES) this.#said.shift();
      log(`${this.name}: ${line}`);
    });
    this.#ended = this.#end(exited ?? gone(pid));
  }

  /** Starts a helper for a disk of this name. Rejects with a {@link DeviceError} where it is not installed. */
  static start(
    name: string,
    makeCommand: (socket: string) => HelperCommand,
    log: (line: string) => void,
    { place: lasting = null, find = findProgram, connection }: HowToStart = {},
  ): Helper {
    const required = (program: string, from: string): string => {
      const path = find(program);
      if (path !== null) return path;
      const why = `needs ${program}, which is not installed: \`apt install ${from}\``;
      throw new DeviceError(ENOENT, name, why);
    };
    // Nobody else gets at the socket: the directory has mode 0700.
    const place = lasting ?? new HelperPlace(mkdtempSync(join(DIRECTORY, "xbdback-")), () => {});
    let logFd = -1;
    try {
      lasting?.make();
      const command = makeCommand(place.socket);
      const { args, reach, hasMonitor = false, takesConnection = false } = command;
      const path = required(command.program, command.package);
      // The launcher makes the kernel end it with the daemon, or a guard, after it. nbdkit sees to that itself.
      if (hasMonitor) required("perl", "perl-base");
      const how = { byHangup: hasMonitor, outlives: lasting !== null, takesConnection };
      const { program, args: line, env } = confined(path, args, reach, how);
      logFd = place.openLog();
      const reading = place.readLog();
      const child = spawn(program, line, {
        cwd: "/",
        env,
        detached: lasting !== null,
        stdio: [connection ?? "ignore", "ignore", logFd],
      });
      const exited = new Promise<void>((resolve) => {
        child.once("error", () => resolve());
        child.once("exit", (status, signal) => {
          if (signal !== null || status !== 0)
            log(`${command.program} ended with ${signal ?? `status ${status}`}`);
          resolve();
        });
      });
      lasting?.note(child.pid ?? 0, command);
      return new Helper(command, child.pid ?? 0, log, { place, reading, exited, outlives: lasting !== null });
    } catch (error) {
      place.remove();
      throw error;
    } finally {
      if (logFd >= 0) closeSync(logFd);
    }
  }

  /** The helper that another daemon has left in a place, where it lives. Throws a {@link DeviceError} where it cannot be had yet. */
  static find(place: HelperPlace, command: HelperCommand, log: (line: string) => void): Helper {
    place.claim();
    const { pid } = place;
    return new Helper(command, pid, log, { place, reading: place.readLog(), exited: null, outlives: true });
  }

  /** Connects to qemu-storage-daemon as soon as it listens. Rejects with a {@link DeviceError}; it is to be stopped then. */
  async connect(disk: string, milliseconds = START_MS): Promise<Session> {
    return this.reach(
      disk,
      async (socket, left) => {
        const session = await Session.connect(socket, left);
        session.milliseconds = ANSWER_MS;
        await this.#openMonitor();
        return session;
      },
      milliseconds,
    );
  }

  /** The same for whatever it is: `dial` gets its socket, and rejects while it does not listen. */
  async reach<T>(
    disk: string,
    dial: (socket: string, milliseconds: number) => Promise<T>,
    milliseconds = START_MS,
  ): Promise<T> {
    const end = performance.now() + milliseconds;
    try {
      for (;;) {
        try {
          return await dial(this.#place.socket, Math.max(Math.ceil(end - performance.now()), 1));
        } catch {
          this.#checkStart(disk, performance.now() > end, milliseconds / 1000);
        }
        await Promise.race([sleep(POLL_MS), this.#ended]);
      }
    } finally {
      // It serves one client, which is connected, or will never be.
      if (!this.#outlives) this.#place.remove();
    }
  }

  /** Throws where another attempt to connect would not help. `late`: the time for it, so many seconds, is over. */
  #checkStart(disk: string, late: boolean, seconds: number): void {
    if (this.#over) throw this.failure(disk);
    if (!late) return;
    const since = this.#found ? "" : " after its start";
    throw new DeviceError(EIO, disk, `${this.name} does not listen ${seconds} s${since}`);
  }

  async #openMonitor(): Promise<void> {
    if (!this.#command.hasMonitor || this.#monitor !== null) return;
    // Where it does not listen, it is ended by a signal.
    this.#monitor = await Monitor.connect(monitorOf(this.#place.socket)).catch(() => null);
  }

  /** Resolves when it has ended, having written back what it keeps if it can. To be called when its client is gone. */
  async end(): Promise<void> {
    await this.#openMonitor();
    this.#monitor?.quit();
    if (await this.#endsWithin(END_MS)) this.#forget();
    else await this.stop();
  }

  /** As {@link end}, for one that has nothing to write back, or never had a client: it would wait for one. */
  async stop(): Promise<void> {
    this.#signal(this.#command.hasMonitor ? "SIGHUP" : "SIGTERM");
    if (!(await this.#endsWithin(ASKED_MS))) this.#signal("SIGKILL");
    await this.#ended;
    this.#forget();
  }

  /** Leaves it to others: it lives on. */
  leave(): void {
    this.#monitor?.close();
    this.#log.destroy();
  }

  #signal(signal: NodeJS.Signals): void {
    if (this.#over || this.pid === 0) return;
    try {
      process.kill(this.pid, signal);
    } catch {
      // It has just ended.
    }
  }

  #forget(): void {
    this.#monitor?.close();
    this.#place.remove();
  }

  /** Resolves when it has ended, and all that it said was heard. */
  async #end(exited: Promise<void>): Promise<void> {
    await new Promise<void>((resolve) => this.#log.once("close", () => resolve()));
    await exited;
    this.#over = true;
  }

  async #endsWithin(milliseconds: number): Promise<boolean> {
    const controller = new AbortController();
    const late = sleep(milliseconds, undefined, { signal: controller.signal }).catch(() => {});
    await Promise.race([this.#ended, late]);
    controller.abort();
    return this.#over;
  }

  /** Why it ended instead of serving. */
  failure(disk: string): DeviceError {
    const why = this.#said.join("; ") || `${this.name} exited without any output`;
    // QEMU's words (block/file-posix.c).
    const busy = /Failed to (get|lock)|Is another process using the image|Device or resource busy/.test(why);
    const extra = /Unknown (driver|protocol)/.test(why) ? "; `apt install qemu-block-extra`" : "";
    return new DeviceError(busy ? EBUSY : EIO, disk, `${this.name} cannot serve it: ${why}${extra}`);
  }
}

/** Resolves when a process has ended that is not a child. */
async function gone(pid: number): Promise<void> {
  const begun = startOf(pid);
  while (begun !== null && startOf(pid) === begun) await sleep(POLL_MS, undefined, { ref: false });
}

/** A line of QEMU's without the option that it is about, which may be a chain of images in JSON. */
function withoutOption(line: string, { args }: HelperCommand): string {
  const about = args.findIndex((_, i) => line.includes(`: ${args[i]} ${args[i + 1]}: `));
  return about < 0 ? line : line.replace(`${args[about]} ${args[about + 1]}: `, "");
}
