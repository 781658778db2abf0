/** The lines of one vbd, paced and under its name; it remembers the last one that tells of an error. */
import { PacedLog, printable } from "./diagnostics.js";
import { type VbdId, vbdName } from "./name.js";

/** What a line is about, where it is about something. */
export interface LogContext {
  readonly vbd?: VbdId;
  readonly domid?: number;
  /** Default: info. */
  readonly level?: "info" | "warning" | "error";
  /** Lines like it in the last second that were not written. */
  readonly suppressed?: number;
}

/** A line for the operator. */
export type Log = (line: string, context?: LogContext) => void;

export interface LastError {
  readonly message: string;
  /** Milliseconds since 1970. */
  readonly time: number;
}

/** What kinds of lines tell of something wrong, and whether it is over by itself. */
const LEVELS: Readonly<Record<string, "warning" | "error">> = {
  error: "error",
  halt: "error",
  refusal: "error",
  open: "error",
  hold: "error",
  hotplug: "error",
  medium: "error",
  trouble: "warning",
  warning: "warning",
};

export class VbdLog {
  readonly #id: VbdId;
  readonly #paced: PacedLog;
  lastError: LastError | null = null;

  constructor(id: VbdId, log: Log) {
    this.#id = id;
    this.#paced = new PacedLog((line, kind, suppressed) =>
      log(line, { vbd: id, level: LEVELS[kind] ?? "info", suppressed }),
    );
  }

  /** A line under the vbd's name. There must be few kinds, and none of a guest's making. */
  say(kind: string, line: string): void {
    this.#add(kind, line, `${vbdName(this.#id)}: ${line}`);
  }

  /** A diagnostic of xbdback(4), as it is. */
  diagnose(kind: string, line: string): void {
    this.#add(kind, line, line);
  }

  /** Says now what waits. */
  flush(): void {
    this.#paced.flush();
  }

  #add(kind: string, message: string, line: string): void {
    if (kind in LEVELS && kind !== "warning") {
      this.lastError = { message: printable(message), time: Date.now() };
    }
    this.#paced.say(kind, line);
  }
}
