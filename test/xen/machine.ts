/** Machines whose `lab` script boots them once, with a scenario in the root disk that prints its checks. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

/** What a `lab base` exits with where Debian 13 cannot be fetched. */
export const NO_DEBIAN = 77;

/**
 * Boots it, with one of the script's commands for that, until its scenario has ended, or so many seconds; what Xen, dom0 and
 * the scenario have printed.
 */
export async function bootLab(
  lab: string,
  cache: string,
  seconds: number,
  command = "qemu",
): Promise<string> {
  const log = join(cache, "console");
  rmSync(log, { force: true });
  const machine = spawn(lab, [command, cache, log], { stdio: ["ignore", "inherit", "inherit"] });
  const ended = once(machine, "exit");
  const read = (): string => readFileSync(log, { encoding: "latin1", flag: "a+" }).replaceAll("\r", "");
  for (let tries = 0; tries < seconds && machine.exitCode === null; tries++) {
    await pause(1000);
    if (read().includes("LAB END")) break;
  }
  machine.kill("SIGKILL");
  await ended;
  return read();
}
