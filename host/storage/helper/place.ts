/**
 * The directory of a helper that outlives its daemon, on a tmpfs: its sockets, and what the next daemon finds it by. The
 * helper's standard error is a FIFO there, whose lock it has from before its start to its end: so there is no moment in which
 * a process lives that nobody would find.
 */
import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { makeFifo, tryLock } from "../../platform/libc.js";
import type { HelperCommand } from "./command.js";
import { JOBS_MONITOR } from "./monitor.js";

const { O_NONBLOCK, O_RDONLY, O_RDWR } = constants;

/** The end of the name of a mark: see {@link HelperPlace.ended}. */
export const ENDED = ".ended";

export class HelperPlace {
  readonly directory: string;
  readonly #claim: () => void;

  /** `claim` is called before a helper is there for the first time; it may throw why there can be none. */
  constructor(directory: string, claim: () => void) {
    this.directory = directory;
    this.#claim = claim;
  }

  /** Where the helper listens for its client, and for commands. */
  get socket(): string {
    return join(this.directory, "socket");
  }

  /** A helper lives here, or is being started. */
  get taken(): boolean {
    let fd: number;
    try {
      fd = openSync(this.#log, O_RDONLY | O_NONBLOCK);
    } catch {
      return false;
    }
    try {
      return !tryLock(fd, true);
    } finally {
      closeSync(fd);
    }
  }

  /** Makes the directory, in which there is nothing yet. */
  make(): void {
    this.#claim();
    this.remove();
    mkdirSync(this.directory, { mode: 0o700 });
  }

  /** As {@link make}, for one that is there because of a helper that another daemon started. Throws as that. */
  claim(): void {
    this.#claim();
  }

  /** The standard error of a helper that is to be started, with the lock. The caller closes it when the helper has it. */
  openLog(): number {
    makeFifo(this.#log);
    // It is its own reader, too: nobody has to read for it to write. What finds no room is lost.
    const fd = openSync(this.#log, O_RDWR | O_NONBLOCK);
    tryLock(fd, true);
    return fd;
  }

  /** What a helper has said since somebody read it last. It ends when the helper does. */
  readLog(): number {
    return openSync(this.#log, O_RDONLY | O_NONBLOCK);
  }

  /** No helper lives here, and the last one has ended all that any daemon had asked of it. */
  get ended(): boolean {
    return !this.taken && existsSync(this.#mark);
  }

  markEnded(): void {
    writeFileSync(this.#mark, "", { mode: 0o600 });
  }

  forgetEnded(): void {
    rmSync(this.#mark, { force: true });
  }

  /** Notes what was started. */
  note(pid: number, command: HelperCommand): void {
    this.forgetEnded();
    writeFileSync(join(this.directory, "helper"), JSON.stringify([pid, ...lineOf(command)]), { mode: 0o600 });
  }

  /** The process that was started here; 0 where that was not noted. */
  get pid(): number {
    return Number(this.#noted[0] ?? 0);
  }

  /** Whether it was started by this command. */
  startedBy(command: HelperCommand): boolean {
    return JSON.stringify(this.#noted.slice(1)) === JSON.stringify(lineOf(command));
  }

  /** Whether it was started for jobs, and may write what its disk is based on. */
  get takesJobs(): boolean {
    return this.#noted.includes(JOBS_MONITOR);
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** Beside the directory, which goes with the helper. */
  get #mark(): string {
    return `${this.directory}${ENDED}`;
  }

  get #log(): string {
    return join(this.directory, "log");
  }

  get #noted(): unknown[] {
    try {
      return JSON.parse(readFileSync(join(this.directory, "helper"), "utf8")) as unknown[];
    } catch {
      return [];
    }
  }
}

function lineOf({ program, args }: HelperCommand): string[] {
  return [program, ...args];
}
