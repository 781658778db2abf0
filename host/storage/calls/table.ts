/** The calls that a thread for calls carries out, one after the other, however long each takes. */
import * as fs from "node:fs";
import {
  blockDiscard,
  fallocate,
  ioctl,
  isRangeLocked,
  shareRange,
  tryLock,
  unlock,
} from "../../platform/libc.js";
import { FS_IOC_GETFLAGS } from "../../platform/numbers.js";
import { plainStats } from "./file-stats.js";

const stats = { bigint: true } as const;

export const TABLE = {
  stat: (path: string) => plainStats(fs.statSync(path, stats)),
  fstat: (fd: number) => plainStats(fs.fstatSync(fd, stats)),
  open: fs.openSync as (path: string, flags: number, mode: number) => number,
  close: fs.closeSync as (fd: number) => void,
  realpath: (path: string) => fs.realpathSync(path),
  fallocate,
  read(fd: number, length: number, position: number): Uint8Array {
    const bytes = new Uint8Array(length);
    return bytes.slice(0, fs.readSync(fd, bytes, 0, length, position));
  },
  write: (fd: number, bytes: Uint8Array, position: number) =>
    fs.writeSync(fd, bytes, 0, bytes.byteLength, position < 0 ? null : position),
  flock: tryLock,
  isRangeLocked,
  shareRange,
  unlock,
  blockDiscard,
  sync: (fd: number) => fs.fsyncSync(fd),
  link: (from: string, to: string) => fs.linkSync(from, to),
  unlink: (path: string) => fs.unlinkSync(path),
  /** Of an inode: FS_*_FL. */
  inodeFlags(path: string): number {
    const fd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
    try {
      const value = new Uint32Array(2);
      ioctl(fd, FS_IOC_GETFLAGS, new Uint8Array(value.buffer), "FS_IOC_GETFLAGS");
      return value[0];
    } finally {
      fs.closeSync(fd);
    }
  },
};

export type Table = typeof TABLE;
export type CallName = keyof Table;
export type Arguments<N extends CallName> = Parameters<Table[N]>;
export type Answer<N extends CallName> = ReturnType<Table[N]>;

export interface Order {
  readonly name: CallName;
  readonly args: readonly unknown[];
}

export type Outcome =
  | { readonly value: unknown }
  | { readonly syscall: string; readonly errno: number; readonly what: string };
