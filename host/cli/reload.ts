/** Taking the configuration file up again while the daemon runs. */
import { isDeepStrictEqual } from "node:util";
import type { Command } from "commander";
import { configurable, configure, isLive, whenTaken, written } from "./configuration.js";

export interface Reloaded {
  readonly lines: readonly string[];
  /** What is wrong with the file; null when it was taken. */
  readonly refused: string | null;
}

/**
 * Reads the file again and returns the lines that tell what has changed. Those of the live options that did are
 * assigned to `live`. With a wrong file nothing changes, and the line tells what is wrong.
 */
export function reload(command: Command, live: object, named?: string): Reloaded {
  const before = { ...command.opts() };
  let file: string | null;
  try {
    file = configure(command, named);
  } catch (error) {
    const refused = (error as Error).message;
    return { refused, lines: [`xbdback: the configuration stays as it is: ${refused}`] };
  }
  const after = command.opts();
  const lines = [...configurable(command)].flatMap(([key, option]) => {
    const name = option.attributeName();
    if (isDeepStrictEqual(before[name], after[name])) return [];
    if (isLive(option)) Object.assign(live, { [name]: after[name] });
    const value = after[name] === undefined ? "is not set" : `= ${JSON.stringify(written(after[name]))}`;
    return [`xbdback: ${key} ${value}: ${whenTaken(option)}`];
  });
  const read = `xbdback: read ${file ?? "no configuration file"} again; connected disks stay as they are`;
  return { refused: null, lines: [read, ...lines] };
}
