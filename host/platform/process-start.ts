/** Tells a process from a later one of the same number. */
import { readFileSync } from "node:fs";

/** When a process began, by the kernel's ticks. Null when it has ended. */
export function startOf(pid: number): string | null {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return null;
  }
  // The second field may hold anything, in brackets.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const [state] = fields;
  return state === "Z" || state === "X" ? null : fields[19];
}
