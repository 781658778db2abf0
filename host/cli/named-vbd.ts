/** Vbds whose guest is called by its name: "web/xvda". */
import type { Command } from "commander";
import { findDomain } from "../toolstack/domains.js";
import { quote } from "../vbd/diagnostics.js";
import type { VbdId } from "../vbd/name.js";
import { platformOf, withXenstore } from "./daemon.js";
import { CliError, Exit } from "./errors.js";

/** Stands for its vbd from the parsing of the command line to {@link resolveNames}. */
export class NamedVbd implements VbdId {
  readonly domain: string;
  readonly domid = -1;
  readonly devid: number;

  constructor(domain: string, devid: number) {
    this.domain = domain;
    this.devid = devid;
  }
}

/** Puts vbds in the place of names among a command's arguments. Rejects with a {@link CliError} for an unknown guest. */
export async function resolveNames(command: Command): Promise<void> {
  for (const [i, argument] of command.processedArgs.entries()) {
    if (argument instanceof NamedVbd) command.processedArgs[i] = await resolve(argument, command);
  }
}

async function resolve({ domain, devid }: NamedVbd, command: Command): Promise<VbdId> {
  const platform = await platformOf(command.opts<{ directory?: string }>().directory);
  const domid = await withXenstore(platform, (xenstore) => findDomain(xenstore, domain));
  if (domid === null)
    throw new CliError(
      `domain does not exist: ${quote(domain)}: \`xl list\` shows those that run`,
      Exit.notFound,
    );
  return { domid, devid };
}
