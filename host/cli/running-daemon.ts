/** A daemon that runs, as /proc shows it: how it was started, and by whom. */
import { spawnSync } from "node:child_process";
import { existsSync, openSync, readFileSync, readlinkSync } from "node:fs";
import type { Listener } from "../daemon/replace.js";
import { OWN_VARIABLES } from "../platform/service-variables.js";
import { CliError } from "./errors.js";

/** What a service manager gives to the process that it has started, and to no other. */
const NOT_INHERITED = [...OWN_VARIABLES, "INVOCATION_ID", "JOURNAL_STREAM"];

export class RunningDaemon {
  readonly pid: number;
  /** Node's own options. */
  readonly nodeOptions: readonly string[];
  /** The command line from "serve" on. */
  readonly args: readonly string[];
  readonly #listener: Listener;

  /** Throws a {@link CliError} when there is nothing to learn of it, or it is no `xbdback serve`. */
  constructor(listener: Listener) {
    const { pid } = listener;
    this.#listener = listener;
    this.pid = pid;
    const [, ...words] = this.#words("cmdline");
    const at = words.indexOf("serve");
    if (at < 1) throw new CliError(`process ${pid} is not \`xbdback serve\`: stop it and start the new one`);
    this.nodeOptions = words.slice(0, at - 1);
    this.args = words.slice(at).filter((word) => word !== "--replace");
  }

  /**
   * A user that it is, or was when it began to listen, who is not ours; null where there is none. Environment and
   * descriptors are that user's word, and the process may have become another program since.
   */
  get stranger(): number | null {
    const [, ids] =
      this.#read(() => readFileSync(`/proc/${this.pid}/status`, "utf8")).match(/^Uid:\s*(.*)$/m) ?? [];
    const users = [this.#listener.uid, ...(ids ?? "").split("\t").map(Number)];
    return users.find((uid) => uid !== process.geteuid?.()) ?? null;
  }

  /** Its working directory; "/" where that is gone. */
  get directory(): string {
    const path = this.#read(() => readlinkSync(`/proc/${this.pid}/cwd`));
    return existsSync(path) ? path : "/";
  }

  get environment(): NodeJS.ProcessEnv {
    const pairs = this.#words("environ").map((line): [string, string] => {
      const at = line.indexOf("=");
      return [line.slice(0, at), line.slice(at + 1)];
    });
    return Object.fromEntries(pairs.filter(([name]) => !NOT_INHERITED.includes(name)));
  }

  /** Opens where its output goes. Null where that is not to be had again: a socket. */
  openOutput(fd: 1 | 2): number | null {
    try {
      return openSync(`/proc/${this.pid}/fd/${fd}`, "a");
    } catch {
      return null;
    }
  }

  /** The systemd unit whose main process it is; null when it is none's. */
  get unit(): string | null {
    const [path] =
      this.#read(() => readFileSync(`/proc/${this.pid}/cgroup`, "utf8")).match(/[^/\n]+\.service$/m) ?? [];
    if (path === undefined) return null;
    const { stdout } = spawnSync("systemctl", ["show", "--property=MainPID", "--value", "--", path], {
      encoding: "utf8",
    });
    return Number(stdout) === this.pid ? path : null;
  }

  #words(file: string): string[] {
    return this.#read(() => readFileSync(`/proc/${this.pid}/${file}`, "utf8"))
      .split("\0")
      .slice(0, -1);
  }

  #read<T>(read: () => T): T {
    try {
      return read();
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      const remedy = code === "EACCES" ? "run this as root" : "it has ended: start the new one";
      throw new CliError(`can't see how process ${this.pid} was started (${code}): ${remedy}`);
    }
  }
}
