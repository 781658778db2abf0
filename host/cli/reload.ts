/** Taking the configuration file up again while the daemon runs. */
import { isDeepStrictEqual } from "node:util";
import type { Command } from "commander";
import { configurable, configure, isLive, written } from "./configuration.js";

/**
 * Reads the file again and returns the lines that tell what has changed. Those of the live options that did are
 * assigned to `live`. With a wrong file nothing changes, and the line tells what is wrong.
 */
export function reload(command: Command, live: object, named?: string): string[] {
  const before = { ...command.opts() };
  let file: string | null;
  try {
    file = configure(command, named);
  } catch (error) {
    return [`xbdback: the configuration stays as it is: ${(error as Error).message}`];
  }
  const after = command.opts();
  const lines = [...configurable(command)].flatMap(([key, option]) => {
    const name = option.attributeName();
    if (isDeepStrictEqual(before[name], after[name])) return [];
    if (isLive(option)) Object.assign(live, { [name]: after[name] });
    const when = isLive(option)
      ? "for disks that connect from now on"
      : "takes effect when the daemon is restarted";
    return [`xbdback: ${key} = ${JSON.stringify(written(after[name]))}: ${when}`];
  });
  return [
    `xbdback: read ${file ?? "no configuration file"} again; connected disks stay as they are`,
    ...lines,
  ];
}
