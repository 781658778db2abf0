/** The `process_*` metrics that Prometheus's client libraries have in common, of this process. */
import { readdirSync, readFileSync } from "node:fs";
import type { Family } from "./exposition.js";

const STARTED = Date.now() / 1000 - process.uptime();

export function processFamilies(): Family[] {
  const { user, system } = process.cpuUsage();
  const maximum = openFilesLimit();
  const single = (name: string, help: string, type: "counter" | "gauge", value: number): Family => ({
    name: `process_${name}`,
    help,
    type,
    samples: [{ labels: {}, value }],
  });
  return [
    single(
      "cpu_seconds_total",
      "User and system CPU time of all threads, in seconds.",
      "counter",
      (user + system) / 1e6,
    ),
    single("resident_memory_bytes", "Resident memory in bytes.", "gauge", process.memoryUsage.rss()),
    single("open_fds", "Open file descriptors.", "gauge", readdirSync("/proc/self/fd").length),
    ...(maximum === null ? [] : [single("max_fds", "Limit of open file descriptors.", "gauge", maximum)]),
    single("start_time_seconds", "When the process started, in seconds since the epoch.", "gauge", STARTED),
  ];
}

/** Null where there is none. */
function openFilesLimit(): number | null {
  const soft = /^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"));
  return soft && Number(soft[1]);
}
