/** What /proc and other people's programs tell and do about a process. */
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";

/** USER_HZ on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;
const UTIME = 11;
const STIME = 12;

/** User and system time of a process and all of its threads, those that have ended too. */
export function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  // The second field is a name in brackets and may hold anything.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[UTIME]) + Number(fields[STIME])) / TICKS_PER_SECOND;
}

export interface MemoryUse {
  /** Bytes of pages that are there. */
  readonly rss: number;
  /** The same, with pages that are shared counted by parts. */
  readonly pss: number;
}

export function memoryUse(pid: number): MemoryUse {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "latin1");
  const bytes = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(rollup)?.[1]) * 1024;
  return { rss: bytes("Rss"), pss: bytes("Pss") };
}

/** Lets all threads of a process run only on these CPUs ("0", or "0-3"). */
export function pin(pid: number, cpus: string): void {
  execFileSync("taskset", ["--all-tasks", "--cpu-list", "--pid", cpus, String(pid)], { stdio: "ignore" });
}

/** The first line of what a program says about its version; null where it is not installed. */
export function versionOf(program: string): string | null {
  const { error, stdout } = spawnSync(program, ["--version"], { encoding: "utf8" });
  return error ? null : stdout.split("\n")[0];
}
