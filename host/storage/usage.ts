/** Who else uses a file or block device: for refusing to share it, and for saying with whom. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { soon } from "./calls/answers.js";
import type { FileStats } from "./calls/file-stats.js";
import { Place } from "./calls/place.js";
import { major, minor } from "./geometry.js";

/** How long the files of others are waited for. */
const ANSWER_MS = 250;

/** What fstat tells of an open file: device, inode, and the number of a device node. */
export interface FileIdentity {
  readonly dev: bigint;
  readonly ino: bigint;
  readonly rdev: bigint;
}

/** The loop device that is attached to a file, as "/dev/loop3"; those that cannot write count only if `readersToo`. */
export async function loopDeviceOf({ dev, ino }: FileIdentity, readersToo: boolean): Promise<string | null> {
  for (const name of entries("/sys/block")) {
    const backingFile = name.startsWith("loop")
      ? contents(`/sys/block/${name}/loop/backing_file`).trim()
      : "";
    if (backingFile === "") continue;
    const backing = await statSoon(backingFile);
    if (backing?.dev !== dev || backing.ino !== ino) continue;
    if (readersToo || contents(`/sys/block/${name}/ro`).trim() === "0") return `/dev/${name}`;
  }
  return null;
}

/**
 * Null where it does not answer: it is on other storage then than a file that has just done so, and whoever opens that does not
 * wait for it.
 */
async function statSoon(path: string): Promise<FileStats | null> {
  if (Place.outageAt(path) !== null) return null;
  const stats = Place.of(path)
    .stat()
    .catch(() => null);
  return soon(stats, ANSWER_MS);
}

/** Where a block device is mounted, or null. */
export function mountPointOf({ rdev }: FileIdentity): string | null {
  const number = `${major(rdev)}:${minor(rdev)}`;
  // proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, …
  const line = contents("/proc/self/mountinfo")
    .split("\n")
    .find((line) => line.split(" ")[2] === number);
  return line?.split(" ")[4] ?? null;
}

/** A block device that is built on this one (device mapper, RAID), as "/dev/dm-0", or null. */
export function deviceOn({ rdev }: FileIdentity): string | null {
  const [holder] = entries(`/sys/dev/block/${major(rdev)}:${minor(rdev)}/holders`);
  return holder ? `/dev/${holder}` : null;
}

/** The process that holds a flock on a file; 0 when it cannot be told. */
export function lockHolder({ dev, ino }: FileIdentity): number {
  const hex = (n: number): string => n.toString(16).padStart(2, "0");
  const inode = `${hex(major(dev))}:${hex(minor(dev))}:${ino}`;
  // proc_locks(5): "1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF"
  for (const line of contents("/proc/locks").split("\n")) {
    const fields = line.split(/ +/);
    if (fields[1] === "FLOCK" && fields[5] === inode) return Math.max(0, Number(fields[4]));
  }
  return 0;
}

/** A process that has a path open, other than this one unless `selfToo`; 0 when none can be seen. */
export async function openerOf(path: string, selfToo: boolean): Promise<number> {
  const target = await Place.of(path)
    .call("realpath", path)
    .catch(() => "");
  for (const pid of entries("/proc").map(Number)) {
    if (!(pid > 0) || (pid === process.pid && !selfToo)) continue;
    const directory = `/proc/${pid}/fd`;
    for (const fd of entries(directory)) {
      if (target !== "" && linkTarget(`${directory}/${fd}`) === target) return pid;
    }
  }
  return 0;
}

/** A process as people know it: "process 4711 (qemu-nbd)". */
export function describeProcess(pid: number): string {
  if (pid === process.pid) return `this process (${pid})`;
  const name = contents(`/proc/${pid}/comm`).trim();
  return `process ${pid}${name && ` (${name})`}`;
}

/** Names in a directory; none where it is gone or closed to us. */
function entries(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

/** "" for a link that went away meanwhile. */
function linkTarget(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}

function contents(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
