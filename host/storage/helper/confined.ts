/** How a program is started that opens what others made: by the launcher, which confines it. */

import { constants } from "node:os";
import { FOR_FILES, handledBy } from "../../platform/landlock.js";
import { landlockVersion } from "../../platform/libc.js";
import { type Architecture, BY_ARCHITECTURE } from "../../platform/numbers.js";
import { OWN_VARIABLES } from "../../platform/service-variables.js";
import { CONNECTION_FD, findProgram } from "./command.js";
import { LAUNCHER } from "./launcher.js";
import { type Reach, rulesFor } from "./reach.js";

export interface Confined {
  readonly program: string;
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
}

const { SIGHUP, SIGTERM } = constants.signals;

export interface HowToConfine {
  readonly perl?: string | null;
  /** When its parent ends it gets SIGHUP, and SIGTERM is blocked. Default: it gets SIGTERM. */
  readonly byHangup?: boolean;
  /** It gets nothing when its parent ends. */
  readonly outlives?: boolean;
  /** Its standard input is a connection, which it is to have as {@link CONNECTION_FD}. */
  readonly takesConnection?: boolean;
}

/** The command that runs a program confined to its reach, in the C locale. The process stays the same. */
export function confined(
  program: string,
  args: readonly string[],
  reach: Reach,
  {
    perl = findProgram("perl"),
    byHangup = false,
    outlives = false,
    takesConnection = false,
  }: HowToConfine = {},
): Confined {
  const env: NodeJS.ProcessEnv = { ...process.env, LC_ALL: "C" };
  for (const name of [...OWN_VARIABLES, "PERL5OPT", "PERL5LIB"]) delete env[name];
  if (perl === null) return { program, args, env };
  const { files, tcp, scoped } = handledBy(landlockVersion(), reach.remote);
  const rules = rulesFor(program, reach);
  const needed = [...reach.files, ...reach.configuration.map((path) => ({ path, writable: false }))];
  const R_OK = 4;
  const W_OK = 2;
  const { SYS_prctl, SYS_capget, SYS_capset, SYS_rt_sigprocmask } =
    BY_ARCHITECTURE[process.arch as Architecture];
  const orders = [
    ...[process.pid, SYS_prctl, SYS_capget, SYS_capset, SYS_rt_sigprocmask],
    ...[
      outlives ? 0 : byHangup ? SIGHUP : SIGTERM,
      byHangup ? SIGTERM : 0,
      takesConnection ? CONNECTION_FD : 0,
    ],
    ...[files, tcp, scoped, FOR_FILES],
    ...[rules.length, ...rules.flatMap(([path, access]) => [access, path])],
    ...[needed.length, ...needed.flatMap(({ path, writable }) => [writable ? R_OK | W_OK : R_OK, path])],
  ];
  return { program: perl, args: ["-e", LAUNCHER, ...orders.map(String), program, ...args], env };
}

/** Why helpers are not confined to their files on this machine; null where they are. */
export function unconfined(perl = findProgram("perl")): string | null {
  if (landlockVersion() === 0)
    return "this kernel has no Landlock, which needs Linux 5.13 or later, and `landlock` in its parameter lsm=";
  return perl === null ? "perl is not installed: `apt install perl-base`" : null;
}
