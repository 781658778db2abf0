/** How a program is started that opens what others made: by the launcher, which confines it. */
import { fileURLToPath } from "node:url";
import { landlockVersion } from "../../platform/confinement.js";
import { OWN_VARIABLES } from "../../platform/service-variables.js";
import type { Reach } from "./reach.js";

/** The launcher's first argument, as JSON; then comes the program's command line, since an argument has 128 KiB at most. */
export interface Orders {
  /** The process with which it ends. */
  readonly parent: number;
  readonly reach: Reach;
}

const LAUNCHER = fileURLToPath(new URL("./launcher.js", import.meta.url));

export interface Confined {
  readonly program: string;
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
}

/** The command that runs a program confined to its reach, in the C locale. The process stays the same. */
export function confined(program: string, args: readonly string[], reach: Reach): Confined {
  const orders: Orders = { parent: process.pid, reach };
  const env: NodeJS.ProcessEnv = { ...process.env, LC_ALL: "C" };
  // NODE_OPTIONS are the daemon's, whose debugger and loaders are not for the launcher.
  for (const name of [...OWN_VARIABLES, "NODE_OPTIONS"]) delete env[name];
  return { program: process.execPath, args: [LAUNCHER, JSON.stringify(orders), program, ...args], env };
}

/** Why helpers are not confined to their files on this machine; null where they are. */
export function unconfined(): string | null {
  if (landlockVersion() > 0) return null;
  return "this kernel has no Landlock, which needs Linux 5.13 or later, and `landlock` in its parameter lsm=";
}
