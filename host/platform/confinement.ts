/**
 * Foreign functions by which a process gives up rights for good and becomes another program: Landlock, capabilities,
 * execve. A process that is about to become a helper calls them, and loads little else: so they are not in libc.ts.
 */
import { closeSync, constants, openSync } from "node:fs";
import { getSystemErrorName } from "node:util";
import koffi from "koffi";

const libc = koffi.load("libc.so.6");

const c = {
  prctl: libc.func("int prctl(int option, ulong a, ulong b, ulong c, ulong d)"),
  capget: libc.func("int capget(const void *header, _Out_ void *data)"),
  capset: libc.func("int capset(const void *header, const void *data)"),
  faccessat: libc.func("int faccessat(int directory, const char *path, int mode, int flags)"),
  fcntl: libc.func("int fcntl(int fd, int command, long argument)"),
  signal: libc.func("int64 signal(int number, int64 handler)"),
  execve: libc.func("int execve(const char *path, const char **argv, const char **environment)"),
  createRuleset: libc.func("long syscall(long number, const void *attributes, size_t size, uint32 flags)"),
  addRule: libc.func(
    "long syscall(long number, int ruleset, int type, const void *attributes, uint32 flags)",
  ),
  restrictSelf: libc.func("long syscall(long number, int ruleset, uint32 flags)"),
};

function check(result: number, call: string): number {
  if (result < 0) throw new Error(`${call}: ${getSystemErrorName(-koffi.errno())}`);
  return result;
}

/** The same on all platforms. */
const SYS_landlock_create_ruleset = 444;
const SYS_landlock_add_rule = 445;
const SYS_landlock_restrict_self = 446;
const LANDLOCK_CREATE_RULESET_VERSION = 1;
const LANDLOCK_RULE_PATH_BENEATH = 1;

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
const BIND_AND_CONNECT_TCP = 3n;
const SCOPE_ABSTRACT_UNIX_SOCKET_AND_SIGNAL = 3n;

/** What a rule may allow beneath a path; of a file only what there is to do with files. */
export const Access = {
  read: READ_FILE | READ_DIR,
  run: EXECUTE | READ_FILE | READ_DIR,
  readDisk: READ_FILE | IOCTL_DEV,
  writeDisk: READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV,
  makeSockets: READ_DIR | MAKE_SOCK | REMOVE_FILE,
} as const;

const FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

/** Landlock's version here; 0 where the kernel has none, or it is not enabled. */
export function landlockVersion(): number {
  const version = c.createRuleset(SYS_landlock_create_ruleset, null, 0, LANDLOCK_CREATE_RULESET_VERSION);
  return Math.max(version, 0);
}

/** Everything to do with files that a version knows, and so forbids unless a rule allows it. */
function handledBy(version: number): number {
  const since1 = REFER - 1;
  return since1 | (version >= 2 ? REFER : 0) | (version >= 3 ? TRUNCATE : 0) | (version >= 5 ? IOCTL_DEV : 0);
}

export type Rule = readonly [path: string, access: number];

/**
 * Forbids this thread, and what it becomes, all files but those of the rules. Paths that are not there are left out. Without
 * `network` no TCP either; never signals, and abstract sockets, of processes outside: as far as the version knows these.
 */
export function confine(version: number, rules: readonly Rule[], network: boolean): void {
  const handled = handledBy(version);
  // struct landlock_ruleset_attr: u64 handled_access_fs, u64 handled_access_net, u64 scoped.
  const attributes = new BigUint64Array([
    BigInt(handled),
    version >= 4 && !network ? BIND_AND_CONNECT_TCP : 0n,
    version >= 6 ? SCOPE_ABSTRACT_UNIX_SOCKET_AND_SIGNAL : 0n,
  ]);
  const size = version >= 6 ? 24 : version >= 4 ? 16 : 8;
  const ruleset = check(
    c.createRuleset(SYS_landlock_create_ruleset, attributes, size, 0),
    "landlock_create_ruleset",
  );
  for (const [path, access] of rules) allow(ruleset, path, access & handled);
  check(c.restrictSelf(SYS_landlock_restrict_self, ruleset, 0), "landlock_restrict_self");
  closeSync(ruleset);
}

const O_PATH = 0o10000000;

function allow(ruleset: number, path: string, access: number): void {
  let fd: number;
  let directory = true;
  try {
    try {
      fd = openSync(path, O_PATH | constants.O_DIRECTORY);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOTDIR") throw error;
      directory = false;
      fd = openSync(path, O_PATH);
    }
  } catch {
    return;
  }
  // struct landlock_path_beneath_attr, packed: u64 allowed_access, s32 parent_fd.
  const attributes = Buffer.alloc(12);
  attributes.writeBigUInt64LE(BigInt(directory ? access : access & FOR_FILES));
  attributes.writeInt32LE(fd, 8);
  try {
    check(
      c.addRule(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, attributes, 0),
      `landlock_add_rule ${path}`,
    );
  } finally {
    closeSync(fd);
  }
}

const PR_SET_PDEATHSIG = 1;
const PR_CAPBSET_READ = 23;
const PR_CAPBSET_DROP = 24;
const PR_SET_NO_NEW_PRIVS = 38;
const PR_CAP_AMBIENT = 47;
const PR_CAP_AMBIENT_LOWER = 3;

/** Sends this process SIGTERM when `parent` ends. False if that has ended already. */
export function endWithParent(parent: number): boolean {
  const SIGTERM = 15;
  check(c.prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0), "prctl PR_SET_PDEATHSIG");
  return process.ppid === parent;
}

export function forbidNewPrivileges(): void {
  check(c.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl PR_SET_NO_NEW_PRIVS");
}

const CAP_DAC_OVERRIDE = 1;
const CAP_DAC_READ_SEARCH = 2;
const CAP_SETPCAP = 8;
/** Those to files, which are the only ones that a program may keep. */
const TO_FILES = [CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH];

/** struct __user_cap_header_struct: u32 version, s32 pid; 0 is this thread. */
const CAP_HEADER = new Uint32Array([0x20080522, 0]);

/** Two of struct __user_cap_data_struct: u32 effective, permitted, inheritable; the first has capabilities 0 to 31. */
function capabilities(): Uint32Array {
  const data = new Uint32Array(6);
  check(c.capget(CAP_HEADER, data), "capget");
  return data;
}

const AT_FDCWD = -100;
const AT_EACCESS = 0x200;

/** Whether this user can do that with every one of these files, and needs no capability for it. */
export function canAccess(files: readonly { path: string; writable: boolean }[]): boolean {
  const R_OK = 4;
  const W_OK = 2;
  const root = process.getuid?.() === 0;
  const before = capabilities();
  // For a user other than root, access(2) looks at no capabilities. For root it looks at those permitted.
  if (
    root &&
    c.capset(
      CAP_HEADER,
      Uint32Array.from(before, (set, i) => (i % 3 === 0 ? 0 : set)),
    ) < 0
  ) {
    return false;
  }
  try {
    return files.every(
      ({ path, writable }) =>
        c.faccessat(AT_FDCWD, path, writable ? R_OK | W_OK : R_OK, root ? AT_EACCESS : 0) === 0,
    );
  } finally {
    if (root) check(c.capset(CAP_HEADER, before), "capset");
  }
}

/** Gives up all capabilities for the program that this process becomes, or all but those to files. */
export function dropCapabilities(keepThoseToFiles: boolean): void {
  const [effective] = capabilities();
  const mayDrop = ((effective >> CAP_SETPCAP) & 1) === 1;
  for (let capability = 0; c.prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++) {
    if (keepThoseToFiles && TO_FILES.includes(capability)) continue;
    c.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, capability, 0, 0);
    if (mayDrop) check(c.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "prctl PR_CAPBSET_DROP");
  }
  // Root's program gets what is inheritable. Where a filter forbids this call, we are not root.
  const kept = keepThoseToFiles ? TO_FILES.reduce((bits, capability) => bits | (1 << capability), 0) : 0;
  const data = capabilities();
  data[2] &= kept;
  data[5] = 0;
  c.capset(CAP_HEADER, data);
}

/** Becomes another program, with this process's environment and standard streams. */
export function become(path: string, args: readonly string[]): never {
  const [SIGPIPE, SIG_DFL, F_SETFD] = [13, 0, 2];
  // Node ignores the signal, which would be inherited, and has all descriptors closed, standard streams as well.
  c.signal(SIGPIPE, SIG_DFL);
  for (const fd of [0, 1, 2]) check(c.fcntl(fd, F_SETFD, 0), `fcntl ${fd}`);
  const environment = Object.entries(process.env).map(([name, value]) => `${name}=${value}`);
  c.execve(path, [...args, null], [...environment, null]);
  throw new Error(`execve ${path}: ${getSystemErrorName(-koffi.errno())}`);
}
