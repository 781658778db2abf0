/** How commands get to a daemon, and to the xenstore of its machine. */
import { resolve } from "node:path";
import { ControlError, type ControlRequest, control, controlStream } from "../daemon/control.js";
import { controlSocket } from "../daemon/serve.js";
import { findXen, openXenstore, type Platform } from "../platform/platform.js";
import type { Xenstore } from "../platform/ports.js";
import { NoXenError } from "../platform/xen/find.js";
import { CliError, Exit } from "./errors.js";
import type { Place } from "./options.js";

/** Asks the daemon of a place. Rejects with a {@link CliError} that names the remedy. */
export async function ask<T>(place: Place, request: ControlRequest): Promise<T> {
  try {
    return await control<T>(socketOf(place), request);
  } catch (error) {
    throw explain(place, error);
  }
}

/** As {@link ask}, for what is answered again and again. */
export async function* askOnAndOn<T>(place: Place, request: ControlRequest): AsyncGenerator<T> {
  try {
    yield* controlStream<T>(socketOf(place), request);
  } catch (error) {
    throw explain(place, error);
  }
}

/** Where the daemon of a place is talked to. */
export function socketOf({ directory, kind }: Place): string {
  // Nobody needs to be asked for the domain's number to find the socket.
  const platform: Platform =
    directory === undefined ? { kind: "xen", domid: 0 } : { kind: "loopback", directory, domid: 0 };
  return controlSocket(platform, kind);
}

function explain(place: Place, error: unknown): unknown {
  if (!(error instanceof ControlError)) return error;
  if (error.reason === "not-found") return new CliError(error.message, Exit.notFound);
  if (error.reason === "busy") return new CliError(error.message, Exit.busy);
  if (error.reason !== "unavailable") return new CliError(error.message);
  return new CliError(`${error.message}: ${remedy(place, error)}`);
}

function remedy({ directory, kind }: Place, { code }: ControlError): string {
  if (code === "EACCES" || code === "EPERM") return "run this as the daemon's user, root in dom0";
  // It is there, or was a moment ago.
  if (code !== "ENOENT" && code !== "ECONNREFUSED") {
    return "it is overloaded or out of file descriptors: look at its log and its limits (LimitNOFILE=, `ulimit -n`)";
  }
  const serve = `xbdback serve${directory === undefined ? "" : ` --directory ${directory}`}${kind === "vbd" ? "" : ` --kind ${kind}`}`;
  const other = directory === undefined ? "; a loopback machine is named with --directory" : "";
  return `start it with \`${serve}\`${other}`;
}

/** The machine that a command is for. Rejects with a {@link CliError} when it is Xen's and there is none. */
export async function platformOf(directory: string | undefined): Promise<Platform> {
  // Helpers run in another directory.
  if (directory !== undefined) return { kind: "loopback", directory: resolve(directory), domid: 0 };
  try {
    return await findXen();
  } catch (error) {
    if (!(error instanceof NoXenError)) throw error;
    const remedy = "name a loopback machine with --directory, or try `xbdback demo`";
    throw new CliError(`${error.message}; without Xen, ${remedy}`, Exit.noXen);
  }
}

/** Lets `work` have the xenstore of a machine, with this domain's rights. */
export async function withXenstore<T>(
  platform: Platform,
  work: (xenstore: Xenstore) => Promise<T>,
): Promise<T> {
  const xenstore = await openXenstore(platform);
  try {
    return await work(xenstore);
  } finally {
    xenstore.close();
  }
}
