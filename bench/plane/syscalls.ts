/** System calls of a process and its threads during some work: by perf where it may, by strace otherwise. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

export interface Syscalls {
  readonly total: number;
  readonly enters: number;
}

export type Tool = "perf" | "strace";

/** What strace says when it is attached takes a while; perf says nothing. */
const ATTACH_MS = 300;
const PERF_EVENTS = ["raw_syscalls:sys_enter", "syscalls:sys_enter_io_uring_enter"];

/** The tool that works here; or why none does. */
export function findTool(): { tool: Tool } | { tool: null; reason: string } {
  const events = PERF_EVENTS.flatMap((event) => ["-e", event]);
  if (spawnSync("perf", ["stat", ...events, "true"]).status === 0) return { tool: "perf" };
  if (spawnSync("strace", ["-c", "-f", "-o", "/dev/null", "true"]).status === 0) return { tool: "strace" };
  return {
    tool: null,
    reason: "neither perf (Debian: linux-perf) nor strace (Debian: strace) may count system calls here",
  };
}

function commandOf(tool: Tool, pid: number): [string, string[]] {
  if (tool === "strace") return ["strace", ["-c", "-f", "-q", "-p", String(pid)]];
  return ["perf", ["stat", "-x,", ...PERF_EVENTS.flatMap((event) => ["-e", event]), "-p", String(pid)]];
}

/** perf: "123,,raw_syscalls:sys_enter,…". */
export function parsePerf(text: string): Syscalls {
  const count = (event: string): number => {
    const line = text.split("\n").find((entry) => entry.includes(event)) ?? "";
    return Number(line.split(",")[0]) || 0;
  };
  return { total: count(PERF_EVENTS[0]), enters: count(PERF_EVENTS[1]) };
}

/** strace -c: "% time, seconds, usecs/call, calls, errors, syscall", errors left out where there are none. */
export function parseStrace(text: string): Syscalls {
  let total = 0;
  let enters = 0;
  for (const line of text.split("\n")) {
    const fields = line.trim().split(/\s+/);
    const name = fields.at(-1);
    if (!/^[0-9.]+$/.test(fields[0]) || fields.length < 5 || name === "total") continue;
    total += Number(fields[3]);
    if (name === "io_uring_enter") enters += Number(fields[3]);
  }
  return { total, enters };
}

/** Counts for each process while `work` is under way. */
export async function countSyscalls<T>(
  tool: Tool,
  pids: readonly number[],
  work: () => Promise<T>,
): Promise<{ counts: Syscalls[]; result: T }> {
  const counters = pids.map((pid) => {
    const [program, args] = commandOf(tool, pid);
    const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
    let text = "";
    child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
    });
    return { child: child as ChildProcess, text: () => text };
  });
  await sleep(ATTACH_MS);
  try {
    const result = await work();
    const texts = await Promise.all(counters.map(async ({ child, text }) => finish(child).then(text)));
    return { counts: texts.map(tool === "perf" ? parsePerf : parseStrace), result };
  } finally {
    for (const { child } of counters) child.kill("SIGKILL");
  }
}

async function finish(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return;
  const closed = once(child, "close");
  child.kill("SIGINT");
  await closed;
}
