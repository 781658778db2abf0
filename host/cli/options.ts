/** Options and arguments that several commands have, and what they may be. */
import { resolve } from "node:path";
import { type Command, InvalidArgumentError, Option } from "commander";
import { type HttpAddress, parseHttpAddress } from "../daemon/http.js";
import { type MetricsAddress, parseMetricsAddress } from "../metrics/server.js";
import { parseSize } from "../storage/size.js";
import { parseGuestLimit, parseLimits } from "../vbd/limit-defaults.js";
import type { VbdId } from "../vbd/name.js";
import { parseNamedVbd, parseVbdName } from "../vbd/vbd-name.js";
import { NamedVbd } from "./named-vbd.js";

export function integer(low: number, high: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^[0-9]+$/.test(text) || value < low || value > high) {
      throw new InvalidArgumentError(`It is a whole number from ${low} to ${high}.`);
    }
    return value;
  };
}

export function size(text: string): number {
  const bytes = parseSize(text);
  if (bytes === null || bytes < 512 || bytes % 512 !== 0) {
    throw new InvalidArgumentError("It is a size in whole sectors of 512 bytes, like 64M or 1G.");
  }
  return bytes;
}

export function kind(text: string): string {
  if (!/^[A-Za-z0-9_-]{1,32}$/.test(text)) throw new InvalidArgumentError("It is a name like vbd or vbd3.");
  return text;
}

/** The page names guests' disks and is for everybody on this machine, but for nobody elsewhere. */
export function httpAddress(text: string): HttpAddress {
  const address = parseHttpAddress(text);
  if (!address)
    throw new InvalidArgumentError("It is a loopback address and a port: 127.0.0.1:8080 or [::1]:8080.");
  return address;
}

/** The argument ID. */
export function vbdId(text: string): VbdId {
  const id = parseVbdName(text);
  const named = id ? null : parseNamedVbd(text);
  if (named) return new NamedVbd(named.domain, named.devid);
  if (!id)
    throw new InvalidArgumentError(
      "A vbd is named xbdback1i51712, 1/xvda, 1/51712 or, by its guest, web/xvda: see `xbdback list`.",
    );
  return id;
}

export const ID_HELP = "the vbd: xbdback1i51712, 1/xvda, 1/51712 or web/xvda";

/** Which machine, and which of its daemons. */
export interface Place {
  readonly directory?: string;
  readonly kind: string;
}

export interface CommonOptions extends Place {
  readonly json: boolean;
}

/** The loopback machine in place of Xen. */
export function directoryOption(what = "a loopback machine instead of Xen"): Option {
  return new Option("--directory <path>", what).env("XBDBACK_DIRECTORY");
}

/** Modules that disks may be of; each --device names one more. */
export function deviceOption(): Option {
  return new Option("--device <path>", "allow this module as a disk, target=device:PATH; repeatable")
    .argParser((path: string, others: readonly string[]) => [...others, resolve(path)])
    .default([], "none");
}

/** The text itself, once it is known to be right: a reload and --dump-config show what was written. */
export function limitText(text: string): string {
  return checked(text, parseLimits);
}

export function guestLimitTexts(text: string, others: readonly string[]): string[] {
  return [...others, checked(text, parseGuestLimit)];
}

function checked(text: string, parse: (text: string) => unknown): string {
  try {
    parse(text);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
  return text;
}

/** What all commands have that talk to a daemon or its xenstore. */
export function placeOptions(command: Command): Command {
  return command
    .addOption(directoryOption())
    .option("--kind <name>", "directory below backend/ in xenstore that the daemon serves", kind, "vbd")
    .option("--json", "print JSON", false);
}

/** Help that shows commands as they are typed. */
export function examples(command: Command, ...lines: string[]): Command {
  return command.addHelpText(
    "after",
    `\nExample${lines.length > 1 ? "s" : ""}:\n${lines.map((line) => `  ${line}`).join("\n")}`,
  );
}

export function metricsAddress(text: string): MetricsAddress {
  const address = parseMetricsAddress(text);
  if (!address) {
    throw new InvalidArgumentError(
      "It is 127.0.0.1:PORT, [::1]:PORT, or the absolute path of a Unix socket.",
    );
  }
  return address;
}
