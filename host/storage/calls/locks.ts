/** Locks on an open file. Most file systems keep them in memory; some ask a server, which may not answer. */
import { readFileSync } from "node:fs";
import { isRangeLocked, shareRange, tryLock, unlock } from "../../platform/libc.js";
import type { Place } from "./place.js";

/** Those of the kernel's file systems that have no lock operation of their own, by their names in /proc/filesystems. */
const IN_MEMORY = new Set(
  (
    "ext2 ext3 ext4 xfs btrfs bcachefs f2fs zfs jfs nilfs2 reiserfs minix tmpfs ramfs rootfs devtmpfs overlay " +
    "squashfs erofs iso9660 udf vfat msdos exfat ntfs3 hfs hfsplus"
  ).split(" "),
);

export class FileLocks {
  readonly #fd: number;
  readonly #place: Place;
  readonly #inMemory: boolean;

  /** Of an open file at a place. */
  constructor(fd: number, place: Place, inMemory = keepsLocksInMemory(fd)) {
    this.#fd = fd;
    this.#place = place;
    this.#inMemory = inMemory;
  }

  /** flock(2) without waiting for its owner. False when somebody else holds the lock. */
  async tryLock(exclusive: boolean): Promise<boolean> {
    return this.#inMemory ? tryLock(this.#fd, exclusive) : this.#place.call("flock", this.#fd, exclusive);
  }

  /** See the one of libc.ts. */
  async isRangeLocked(start: number, length: number): Promise<boolean> {
    if (this.#inMemory) return isRangeLocked(this.#fd, start, length);
    return this.#place.call("isRangeLocked", this.#fd, start, length);
  }

  /** See the one of libc.ts. */
  async shareRange(start: number, length: number): Promise<void> {
    if (this.#inMemory) shareRange(this.#fd, start, length);
    else await this.#place.call("shareRange", this.#fd, start, length);
  }

  /** Releases all of them, whoever else has the open file. */
  async unlock(): Promise<void> {
    if (this.#inMemory) unlock(this.#fd);
    else await this.#place.call("unlock", this.#fd);
  }
}

/** Told without asking the file system: by the mount that the file was opened through. */
function keepsLocksInMemory(fd: number): boolean {
  try {
    const mount = /^mnt_id:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1"))?.[1];
    // proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, options, … - type source options
    const line = readFileSync("/proc/self/mountinfo", "latin1")
      .split("\n")
      .find((line) => line.startsWith(`${mount} `));
    const type = line?.split(" - ")[1]?.split(" ")[0];
    return type !== undefined && IN_MEMORY.has(type);
  } catch {
    return false;
  }
}
