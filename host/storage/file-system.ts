/** What the file system says of a file beyond its mode: flags that protect it, and files that are not on a disk at all. */
import { readFileSync } from "node:fs";
import { FS_APPEND_FL, FS_IMMUTABLE_FL } from "../platform/numbers.js";
import { Place } from "./calls/place.js";
import { major, minor } from "./geometry.js";

/** The file systems of the kernel's own, by their names in /proc/filesystems. */
const PSEUDO = new Set([
  "proc",
  "sysfs",
  "cgroup2",
  "cgroup",
  "debugfs",
  "tracefs",
  "securityfs",
  "bpf",
  "configfs",
]);

/**
 * Whose files those of a device are, where they are the kernel's answers to questions and no disk; else null. The table of
 * mounts tells; statfs(2) would ask the file system, which may not answer.
 */
export function pseudoFileSystemOf(device: bigint): string | null {
  const number = `${major(device)}:${minor(device)}`;
  // proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, options, … - type source options
  for (const line of readFileSync("/proc/self/mountinfo", "latin1").split("\n")) {
    if (line.split(" ", 3)[2] !== number) continue;
    const type = line.split(" - ")[1]?.split(" ")[0] ?? "";
    return PSEUDO.has(type) ? type : null;
  }
  return null;
}

/** Why even root may not write a file, with the remedy; null where that is not the reason. */
export async function protection(path: string): Promise<string | null> {
  // Where it cannot be told, it is not the reason.
  const flags = await Place.of(path)
    .call("inodeFlags", path)
    .catch(() => 0);
  if (flags & FS_IMMUTABLE_FL) return "immutable; attach it read-only, or `chattr -i` it";
  if (flags & FS_APPEND_FL) return "append-only; attach it read-only, or `chattr -a` it";
  return null;
}
