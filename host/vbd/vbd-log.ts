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

/** What happens to a disk, for programs. */
export type VbdEventName =
  | "attached"
  | "detached"
  | "resumed"
  | "changed"
  | "resized"
  | "refused"
  | "failed"
  | "halted"
  | "migrating"
  | "waiting"
  | "answering";

/** The kinds of lines that tell of an event. */
const EVENTS: Readonly<Record<string, VbdEventName>> = {
  attach: "attached",
  detach: "detached",
  adoption: "resumed",
  change: "changed",
  migration: "migrating",
  snapshot: "changed",
  commit: "changed",
  resize: "resized",
  refusal: "refused",
  open: "refused",
  hold: "refused",
  hotplug: "refused",
  medium: "refused",
  error: "failed",
  halt: "halted",
};

/** Hears of a disk's events. */
export type TellEvent = (vbd: VbdId, event: VbdEventName, message: string) => void;

export class VbdLog {
  readonly #id: VbdId;
  readonly #paced: PacedLog;
  readonly #tell: TellEvent;
  lastError: LastError | null = null;

  constructor(id: VbdId, log: Log, tell: TellEvent = () => {}) {
    this.#id = id;
    this.#tell = tell;
    const prefix = `${vbdName(id)}: `;
    this.#paced = new PacedLog((line, kind, suppressed) => {
      log(line, { vbd: id, level: LEVELS[kind] ?? "info", suppressed });
      if (kind in EVENTS) tell(id, EVENTS[kind], line.startsWith(prefix) ? line.slice(prefix.length) : line);
    });
  }

  /** An event that the log has no line for. */
  tell(event: VbdEventName, message: string): void {
    this.#tell(this.#id, event, printable(message));
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
