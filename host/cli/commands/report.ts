/** `xbdback report`: what somebody who looks into a fault asks for first. */
import { spawnSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { availableParallelism, machine, release, totalmem } from "node:os";
import { Command } from "commander";
import { VERSION } from "../../daemon/version.js";
import type { Xenstore } from "../../platform/ports.js";
import { backendOf } from "../../toolstack/vbd.js";
import type { VbdStatus } from "../../vbd/status.js";
import { DEFAULT_FILE } from "../configuration.js";
import { ask, platformOf, withXenstore } from "../daemon.js";
import { type CommonOptions, examples, placeOptions } from "../options.js";
import { withoutSecrets } from "../secrets.js";
import type { DaemonStatus } from "./status.js";

const LOG_LINES = 1000;
/** A guest may write as much below its directory as xenstored's quota allows. */
const MOST_KEYS = 2000;

export function reportCommand(): Command {
  const command = placeOptions(
    new Command("report")
      .summary("gather what a bug report needs, as JSON")
      .description(
        "Versions, the daemon's state and configuration, all vbds with their rings and their keys in xenstore, and the last\n" +
          `${LOG_LINES} lines of the log or the journal. What cannot be had is said in its place. Passwords in URIs, and the values\n` +
          "of keys that are named like a secret, are left out; read it before you send it.",
      ),
  );
  return examples(command, "xbdback report > report.json").action(report);
}

async function report(options: CommonOptions): Promise<void> {
  const daemon = await orWhy(ask<DaemonStatus>(options, { command: "version" }));
  const list = await orWhy(ask<{ vbds: VbdStatus[] }>(options, { command: "list" }));
  const vbds = "vbds" in list ? list.vbds : [];
  const gathered = {
    time: new Date().toISOString(),
    versions: versions(),
    daemon,
    process: "pid" in daemon ? processOf(daemon.pid) : null,
    vbds: "vbds" in list ? await shown(vbds, options) : list,
    xenstore: await orWhy(keysOf(vbds, options)),
    configuration: contents(DEFAULT_FILE),
    // A loopback machine's daemon is nobody's unit.
    log: logOf("pid" in daemon ? daemon.pid : null, options.directory === undefined),
  };
  process.stdout.write(`${JSON.stringify(withoutSecrets(gathered), null, 2)}\n`);
}

/** In the place of what cannot be had. */
interface Missing {
  readonly error: string;
}

async function orWhy<T>(wanted: Promise<T>): Promise<T | Missing> {
  return wanted.catch(({ message }: Error) => ({ error: message }));
}

/** Null where it cannot be read. */
function contents(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
}

function versions(): object {
  const xen = ["major", "minor", "extra"].map((part) => contents(`/sys/hypervisor/version/${part}`)?.trim());
  const [major, minor, extra = ""] = xen;
  return {
    xbdback: VERSION,
    node: process.version,
    linux: release(),
    architecture: machine(),
    xen: major === undefined ? null : `${major}.${minor}${extra}`,
    system: /^PRETTY_NAME="?([^"\n]*)/m.exec(contents("/etc/os-release") ?? "")?.[1] ?? null,
    processors: availableParallelism(),
    memory: totalmem(),
    kernelArguments: contents("/proc/cmdline")?.trim() ?? null,
  };
}

/** What the kernel says of the daemon's process. */
function processOf(pid: number): object {
  const of = (file: string): string[] | null => contents(`/proc/${pid}/${file}`)?.trim().split("\n") ?? null;
  return { status: of("status"), limits: of("limits"), control: of("cgroup") };
}

async function shown(vbds: readonly VbdStatus[], options: CommonOptions): Promise<unknown[]> {
  return Promise.all(vbds.map(({ name }) => orWhy(ask(options, { command: "show", vbd: name }))));
}

/** All keys of both ends, by their paths. */
async function keysOf(vbds: readonly VbdStatus[], { directory }: CommonOptions): Promise<object> {
  const platform = await platformOf(directory);
  return withXenstore(platform, async (xenstore) => {
    const keys: Record<string, string | null> = {};
    for (const { domid, devid, kind } of vbds) {
      const backend = backendOf({ backendDomid: platform.domid, domid, devid, kind });
      await addKeys(xenstore, backend, keys);
      await addKeys(xenstore, `/local/domain/${domid}/device/vbd/${devid}`, keys);
    }
    return keys;
  });
}

async function addKeys(xenstore: Xenstore, path: string, keys: Record<string, string | null>): Promise<void> {
  if (Object.keys(keys).length >= MOST_KEYS) return;
  const value = await xenstore.read(path).catch(({ message }: Error) => `(${message})`);
  if (value !== "") keys[path] = value;
  for (const child of (await xenstore.directory(path).catch(() => null)) ?? [])
    await addKeys(xenstore, `${path}/${child}`, keys);
}

/** The last lines of the file that a daemon's log goes to, or else of the unit's journal; null where it goes elsewhere. */
export function logOf(pid: number | null, isUnit: boolean): readonly string[] | null {
  const text = (pid === null ? null : errorFileOf(pid)) ?? (isUnit ? journal() : null);
  return text?.trimEnd().split("\n").slice(-LOG_LINES) ?? null;
}

function errorFileOf(pid: number): string | null {
  const path = `/proc/${pid}/fd/2`;
  return statSync(path, { throwIfNoEntry: false })?.isFile() ? contents(path) : null;
}

function journal(): string | null {
  const wanted = ["--unit=xbdback", `--lines=${LOG_LINES}`, "--no-pager"];
  return spawnSync("journalctl", wanted, { encoding: "utf8", maxBuffer: 1 << 26 }).stdout ?? null;
}
