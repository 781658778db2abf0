/**
 * The daemon's log, on stderr: for people on a terminal, else a line of `key=value` (logfmt) or of JSON for each thing
 * that happened. The words of xbdback(4)'s diagnostics are the message, unchanged, in all of them.
 */
import { fstatSync } from "node:fs";
import { printable } from "../vbd/diagnostics.js";
import { type VbdId, vbdName } from "../vbd/name.js";
import type { Log, LogContext } from "../vbd/vbd-log.js";

export const LOG_FORMATS = ["auto", "pretty", "logfmt", "json", "plain"] as const;
export type LogFormat = (typeof LOG_FORMATS)[number];

export const LOG_LEVELS = ["info", "warning", "error"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** syslog's, as sd-daemon(3) writes them before a line. */
const PRIORITIES: Readonly<Record<LogLevel, number>> = { info: 6, warning: 4, error: 3 };

export interface LogOptions {
  /** Whether the stream is the journal's, which takes a priority before each line. */
  readonly journal?: boolean;
  /** The lowest level that is written, asked for each line. Default: info. */
  readonly lowest?: () => LogLevel;
}

/** Whether a descriptor is the stream to the journal that systemd named in JOURNAL_STREAM, and not redirected since. */
export function isJournal(fd = 2, environment: NodeJS.ProcessEnv = process.env): boolean {
  const named = environment["JOURNAL_STREAM"];
  if (!named) return false;
  try {
    const { dev, ino } = fstatSync(fd, { bigint: true });
    return named === `${dev}:${ino}`;
  } catch {
    return false;
  }
}

interface Entry extends LogContext {
  readonly time: Date;
  readonly level: NonNullable<LogContext["level"]>;
  readonly message: string;
}

/** Writes each entry as a line. "auto": pretty on a terminal, else logfmt. "plain" is the message alone. */
export function makeLog(
  format: LogFormat,
  stream: NodeJS.WriteStream = process.stderr,
  { journal = false, lowest = () => "info" }: LogOptions = {},
): Log {
  const chosen = format === "auto" ? (stream.isTTY ? "pretty" : "logfmt") : format;
  const colours = chosen === "pretty" && stream.isTTY && !process.env["NO_COLOR"];
  return (line, context = {}) => {
    const level = context.level ?? "info";
    if (LOG_LEVELS.indexOf(level) < LOG_LEVELS.indexOf(lowest())) return;
    const priority = journal ? `<${PRIORITIES[level]}>` : "";
    // Whoever forgot to make a guest's text harmless is caught here.
    const message = printable(line);
    const entry = {
      time: new Date(),
      ...context,
      level,
      message: shorten(message, context.vbd),
    };
    if (chosen === "plain") stream.write(`${priority}${message}\n`);
    else if (chosen === "json") stream.write(`${priority}${JSON.stringify(fieldsOf(entry))}\n`);
    else if (chosen === "logfmt") stream.write(`${priority}${logfmt(fieldsOf(entry))}\n`);
    else stream.write(`${priority}${pretty(entry, colours)}\n`);
  };
}

/** The message without the name that stands in a field of its own. */
function shorten(message: string, vbd: VbdId | undefined): string {
  const prefixes = ["xbdback: ", ...(vbd ? [`${vbdName(vbd)}: `] : [])];
  const prefix = prefixes.find((one) => message.startsWith(one));
  return prefix ? message.slice(prefix.length) : message;
}

function fieldsOf({ time, level, vbd, domid, suppressed, message }: Entry): Record<string, string | number> {
  return {
    time: time.toISOString(),
    level,
    ...(vbd ? { domid: vbd.domid, devid: vbd.devid } : domid === undefined ? {} : { domid }),
    ...(suppressed ? { suppressed } : {}),
    msg: message,
  };
}

function logfmt(fields: Record<string, string | number>): string {
  return Object.entries(fields)
    .map(([key, value]) => `${key}=${/^[\w:.+-]+$/.test(String(value)) ? value : JSON.stringify(value)}`)
    .join(" ");
}

const COLOURS = { info: "", warning: "\x1b[33m", error: "\x1b[31m" };

function pretty({ time, level, vbd, message }: Entry, colours: boolean): string {
  const clock = time.toTimeString().slice(0, 8);
  const who = (vbd ? vbdName(vbd) : "").padEnd(15);
  const line = `${level.padEnd(7)} ${who} ${message}`;
  return colours && COLOURS[level] ? `${clock} ${COLOURS[level]}${line}\x1b[0m` : `${clock} ${line}`;
}
