/**
 * How many pages of guests this process may map. Each may come to be a mapping of its own, with another one behind it, and a
 * process has no more of them than vm.max_map_count: at the last one nothing can be unmapped any more, for a piece of a mapping
 * cannot go without splitting it, and V8 ends the process, for want of memory as it thinks. So it must never come to that.
 */
import { readFileSync } from "node:fs";

/** For everything else: Node's own, threads, journals, rings' memories. */
const RESERVE = 4096;
/** Linux's default. */
const DEFAULT_MAX_MAP_COUNT = 65530;

export function mappablePages(): number {
  let most = DEFAULT_MAX_MAP_COUNT;
  try {
    most = Number(readFileSync("/proc/sys/vm/max_map_count", "latin1")) || most;
  } catch {
    // Whoever hides it has hardly changed it.
  }
  return Math.max(0, Math.floor((most - RESERVE) / 2));
}
