/** The numbers of Landlock (linux/landlock.h): what a confined program may do with files, by version of the kernel's part. */

/** LANDLOCK_ACCESS_FS_*. */
const EXECUTE = 1 << 0;
const WRITE_FILE = 1 << 1;
const READ_FILE = 1 << 2;
const READ_DIR = 1 << 3;
const REMOVE_FILE = 1 << 5;
const MAKE_SOCK = 1 << 9;
const REFER = 1 << 13;
const TRUNCATE = 1 << 14;
const IOCTL_DEV = 1 << 15;

/** What a rule may allow beneath a path; of a file only what there is to do with files. */
export const Access = {
  read: READ_FILE | READ_DIR,
  run: EXECUTE | READ_FILE | READ_DIR,
  readDisk: READ_FILE | IOCTL_DEV,
  writeDisk: READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV,
  makeSockets: READ_DIR | MAKE_SOCK | REMOVE_FILE,
} as const;

/** All that a rule for something other than a directory may allow. */
export const FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

/** What to do with a path and everything beneath it is allowed. */
export type Rule = readonly [path: string, access: number];

/** What is forbidden unless a rule allows it: struct landlock_ruleset_attr. */
export interface Handled {
  readonly files: number;
  readonly tcp: number;
  /** Of processes outside. */
  readonly scoped: number;
}

/** All that a version knows, with or without TCP. */
export function handledBy(version: number, network: boolean): Handled {
  const first = REFER - 1;
  const refer = version >= 2 ? REFER : 0;
  const truncate = version >= 3 ? TRUNCATE : 0;
  const ioctl = version >= 5 ? IOCTL_DEV : 0;
  const BIND_AND_CONNECT = 3;
  const ABSTRACT_UNIX_SOCKET_AND_SIGNAL = 3;
  return {
    files: version >= 1 ? first | refer | truncate | ioctl : 0,
    tcp: version >= 4 && !network ? BIND_AND_CONNECT : 0,
    scoped: version >= 6 ? ABSTRACT_UNIX_SOCKET_AND_SIGNAL : 0,
  };
}
