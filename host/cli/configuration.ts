/**
 * The configuration file, TOML. A key is the long name of one of the command's options without its dashes, and its
 * value what the option takes; `no-persistent` is `persistent = false`. So each has one check, one default and one
 * description, whichever way it comes. The command line wins, and the environment.
 */
import { readFileSync } from "node:fs";
import type { Command, Option } from "commander";
import { parse, TomlError, type TomlPrimitive } from "smol-toml";
import { formatHttpAddress } from "../daemon/http.js";
import type { MetricsAddress } from "../metrics/server.js";
import { CliError, Exit } from "./errors.js";

export const DEFAULT_FILE = "/etc/xbdback/xbdback.toml";

/** Options about this start of the program, which nobody wants in a file. */
const NOT_IN_FILE = new Set(["config", "dumpConfig", "exitWithParent", "replace"]);

export const FOR_LATER_DISKS = "for disks that connect from now on";
const LIVE = new WeakMap<Option, string>();

/** Marks an option whose new value a reload gives to the disks that connect, or are opened, from then on. */
export function live(option: Option, when = FOR_LATER_DISKS): Option {
  LIVE.set(option, when);
  return option;
}

/** Whether a reload takes the option's new value; others take effect when the daemon is restarted. */
export function isLive(option: Option): boolean {
  return LIVE.has(option);
}

/** What a reload changes with the option's new value. */
export function whenTaken(option: Option): string {
  return LIVE.get(option) ?? "takes effect when the daemon is restarted";
}

/** The options that a file may set, by key. */
export function configurable(command: Command): Map<string, Option> {
  const options = command.options.filter((option) => !NOT_IN_FILE.has(option.attributeName()));
  return new Map(options.map((option) => [(option.long as string).replace(/^--(no-)?/, ""), option]));
}

/**
 * Gives the command's options the values that the file has for them, or else their defaults. `named` is the file of
 * --config, which must be there; {@link DEFAULT_FILE} need not. Throws a CliError that names file, line and key, and
 * then nothing was changed. Returns the file, or null when there is none.
 */
export function configure(command: Command, named?: string): string | null {
  const file = named ?? DEFAULT_FILE;
  const text = readConfiguration(file, named !== undefined);
  apply(command, file, text);
  return text === null ? null : file;
}

/** As {@link configure}, with the text of a file; null for none. */
export function apply(command: Command, file: string, text: string | null): void {
  const values = text === null ? new Map<string, unknown>() : evaluate(command, file, text);
  for (const [key, option] of configurable(command)) {
    const name = option.attributeName();
    const source = command.getOptionValueSource(name);
    if (source === "cli" || source === "env") continue;
    if (values.has(key)) command.setOptionValueWithSource(name, values.get(key), "config");
    else if (source === "config") command.setOptionValueWithSource(name, option.defaultValue, "default");
  }
}

/** Null where there is none and none need be. */
export function readConfiguration(file: string, mustExist: boolean): string | null {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" && !mustExist) return null;
    throw new CliError(`can't read the configuration ${file}: ${code}`, Exit.usage);
  }
}

function evaluate(command: Command, file: string, text: string): Map<string, unknown> {
  const options = configurable(command);
  const values = new Map<string, unknown>();
  for (const [key, value] of Object.entries(parseToml(file, text))) {
    const place = `${file}:${lineOf(text, key)}: ${key}`;
    const option = options.get(key);
    if (option === undefined) {
      throw new CliError(`${place}: unknown key; known are ${[...options.keys()].join(", ")}`, Exit.usage);
    }
    try {
      values.set(key, evaluateOption(option, value));
    } catch (error) {
      throw new CliError(`${place}: ${(error as Error).message}`, Exit.usage);
    }
  }
  return values;
}

function parseToml(file: string, text: string): Record<string, TomlPrimitive> {
  try {
    return parse(text) as Record<string, TomlPrimitive>;
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const [why] = error.message.replace(/^Invalid TOML document: /, "").split("\n");
    throw new CliError(`${file}:${error.line}:${error.column}: ${why}`, Exit.usage);
  }
}

/** Where a key of the top level, or a table, is written; no value that an option takes has a line break in it. */
function lineOf(text: string, key: string): number {
  const written = new RegExp(`^\\s*\\[*\\s*["']?${key.replace(/[^\w-]/g, "\\$&")}["']?\\s*[=.\\]]`);
  return text.split("\n").findIndex((line) => written.test(line)) + 1;
}

/** What the option makes of the value. Throws an Error that says what it takes. */
function evaluateOption(option: Option, value: TomlPrimitive): unknown {
  const isSwitch = !option.required && !option.optional;
  if (isSwitch) {
    if (typeof value === "boolean") return value;
    throw new Error("It is true or false.");
  }
  const { parseArg, defaultValue } = option;
  // An option that may be given again.
  if (Array.isArray(defaultValue) && parseArg) {
    const list = Array.isArray(value) ? value : [value];
    if (!list.every((item) => typeof item === "string"))
      throw new Error("It is a string or a list of strings.");
    return list.reduce((others: unknown, item: string) => parseArg(item, others), defaultValue);
  }
  if (typeof value === "object" || typeof value === "boolean") {
    throw new Error("It is a string or a number.");
  }
  const text = String(value);
  return parseArg ? parseArg(text, undefined) : text;
}

/** A value as it is written. */
export function written(value: unknown): unknown {
  if (typeof value !== "object" || Array.isArray(value)) return value;
  const address = value as MetricsAddress;
  return "path" in address ? address.path : formatHttpAddress(address);
}

const SOURCES: Record<string, string> = { cli: "command line", config: "file", env: "environment" };

/** The configuration that is in force, as a file that says the same, with where each value is from. */
export function dump(command: Command): string {
  const lines: string[] = [];
  for (const [key, option] of configurable(command)) {
    const value = command.getOptionValue(option.attributeName());
    const source = command.getOptionValueSource(option.attributeName()) ?? "default";
    const from = SOURCES[source] ?? source;
    if (value === undefined) lines.push(`# ${key} is not set`);
    // JSON's scalars are TOML's.
    else lines.push(`${key} = ${JSON.stringify(written(value))}  # ${from}`);
  }
  return `${lines.join("\n")}\n`;
}
