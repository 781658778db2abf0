/** Taking the configuration file up again while the daemon runs. */
import { isDeepStrictEqual } from "node:util";
import type { Command } from "commander";
import { configurable, configure, written } from "./configuration.js";

/** Options whose new values hold for disks that connect, or are opened, from then on. */
export const LIVE = [
  "maxQueues",
  "maxRingPageOrder",
  "maxIndirectSegments",
  "persistent",
  "cache",
  "nbdReconnect",
] as const;

/**
 * Reads the file again and returns the lines that tell what has changed. Those options of {@link LIVE} that did are
 * assigned to `live`. With a file that is wrong nothing changes, and the line says what is.
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
    const isLive = (LIVE as readonly string[]).includes(name);
    if (isLive) Object.assign(live, { [name]: after[name] });
    const when = isLive
      ? "for disks that connect from now on"
      : "takes effect when the daemon is started anew";
    return [`xbdback: ${key} = ${JSON.stringify(written(after[name]))}: ${when}`];
  });
  return [
    `xbdback: read ${file ?? "no configuration file"} again; connected disks stay as they are`,
    ...lines,
  ];
}
