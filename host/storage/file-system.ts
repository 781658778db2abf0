/** What the file system says of a file beyond its mode: flags that protect it, and files that are not on a disk at all. */
import { closeSync, constants as flags, open } from "node:fs";
import { statfs } from "node:fs/promises";
import { promisify } from "node:util";
import { FS_IOC_GETFLAGS, ioctl } from "../platform/libc.js";

const openFile = promisify(open);

const FS_APPEND_FL = 0x20;
const FS_IMMUTABLE_FL = 0x10;

/** The file systems of the kernel's own, by their f_type in statfs(2) (linux/magic.h). */
const PSEUDO = new Map<number, string>([
  [0x9fa0, "proc"],
  [0x62656572, "sysfs"],
  [0x63677270, "cgroup2"],
  [0x0027e0eb, "cgroup"],
  [0x64626720, "debugfs"],
  [0x74726163, "tracefs"],
  [0x73636673, "securityfs"],
  [0xcafe4a11, "bpf"],
  [0x62656570, "configfs"],
]);

/** Whose file it is, where it is the kernel's answer to a question and no disk; else null. */
export async function pseudoFileSystemOf(path: string): Promise<string | null> {
  return PSEUDO.get((await statfs(path)).type) ?? null;
}

/** Why even root may not write a file, with the remedy; null where that is not the reason. */
export async function protection(path: string): Promise<string | null> {
  let fd = -1;
  try {
    fd = await openFile(path, flags.O_RDONLY | flags.O_NONBLOCK);
    const value = new Uint32Array(2);
    ioctl(fd, FS_IOC_GETFLAGS, new Uint8Array(value.buffer), "FS_IOC_GETFLAGS");
    if (value[0] & FS_IMMUTABLE_FL) return "immutable; attach it read-only, or `chattr -i` it";
    if (value[0] & FS_APPEND_FL) return "append-only; attach it read-only, or `chattr -a` it";
  } catch {
    // Not to be told here.
  } finally {
    if (fd >= 0) closeSync(fd);
  }
  return null;
}
