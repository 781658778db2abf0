/** The lines of one vbd, paced and under its name; it remembers the last one that tells of an error. */
import { PacedLog, printable } from "./diagnostics.js";

export interface LastError {
  readonly message: string;
  /** Milliseconds since 1970. */
  readonly time: number;
}

/** Kinds of lines that tell of something wrong. */
const ERRORS: readonly string[] = ["error", "halt", "refusal", "open", "trouble"];

export class VbdLog {
  readonly #name: string;
  readonly #paced: PacedLog;
  lastError: LastError | null = null;

  constructor(name: string, log: (line: string) => void) {
    this.#name = name;
    this.#paced = new PacedLog(log);
  }

  /** A line under the vbd's name. There must be few kinds, and none of a guest's making. */
  say(kind: string, line: string): void {
    if (ERRORS.includes(kind)) this.lastError = { message: printable(line), time: Date.now() };
    this.#paced.say(kind, `${this.#name}: ${line}`);
  }

  /** A diagnostic of xbdback(4), as it is. */
  diagnose(kind: string, line: string): void {
    if (ERRORS.includes(kind)) this.lastError = { message: printable(line), time: Date.now() };
    this.#paced.say(kind, line);
  }

  /** Says now what waits. */
  flush(): void {
    this.#paced.flush();
  }
}
