/**
 * Numbers of Linux's C interfaces, by their names in its headers. All but those that Node or a table names by architecture
 * are the same on x86-64 and on arm64: test/platform/numbers.test.ts compares each with the headers of both.
 */
import { constants } from "node:fs";

// mmap(2), madvise(2).
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const MAP_SHARED = 0x01;
export const MAP_PRIVATE = 0x02;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_POPULATE = 0x8000;
export const MADV_DONTNEED = 4;
export const MADV_REMOVE = 9;

// open(2), fcntl(2) and what is like them.
/** The one flag of ours that has another number on arm64. */
export const { O_DIRECT } = constants;
export const O_CLOEXEC = 0x80000;
export const AT_FDCWD = -100;
export const AT_EMPTY_PATH = 0x1000;
export const STATX_BASIC_STATS = 0x7ff;
export const LOCK_SH = 1;
export const LOCK_EX = 2;
export const LOCK_NB = 4;
export const LOCK_UN = 8;
export const F_DUPFD = 0;
export const F_DUPFD_CLOEXEC = 1030;
export const F_GETFL = 3;
export const F_SETFL = 4;
export const F_OFD_GETLK = 36;
export const F_OFD_SETLK = 37;
export const F_RDLCK = 0;
export const F_WRLCK = 1;
export const F_UNLCK = 2;
export const FALLOC_FL_KEEP_SIZE = 1;
export const FALLOC_FL_PUNCH_HOLE = 2;
export const RWF_NOWAIT = 8;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

// memfd_create(2) and its seals, eventfd(2).
export const MFD_CLOEXEC = 1;
export const MFD_ALLOW_SEALING = 2;
export const F_ADD_SEALS = 1033;
export const F_SEAL_SEAL = 1;
export const F_SEAL_SHRINK = 2;
export const F_SEAL_GROW = 4;
export const EFD_NONBLOCK = 0x800;
export const EFD_CLOEXEC = 0x80000;

// Sockets, poll(2).
export const POLLERR = 8;
export const POLLHUP = 0x10;
export const POLLNVAL = 0x20;
export const POLLRDHUP = 0x2000;
export const AF_UNIX = 1;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_CLOEXEC = 0x80000;
export const SOCK_NONBLOCK = 0x800;
export const MSG_DONTWAIT = 0x40;
export const MSG_NOSIGNAL = 0x4000;
export const SOL_SOCKET = 1;
export const SO_PEERCRED = 17;
export const SCM_RIGHTS = 1;

// linux/fs.h.
export const FS_IOC_GETFLAGS = 0x80086601;
export const FS_APPEND_FL = 0x20;
export const FS_IMMUTABLE_FL = 0x10;
export const BLKROGET = 0x125e;
export const BLKSSZGET = 0x1268;
export const BLKDISCARD = 0x1277;
export const BLKPBSZGET = 0x127b;
export const BLKSECDISCARD = 0x127d;
export const BLKGETSIZE64 = 0x80081272;

// System calls without a function in the C library.
export const SYS_io_uring_setup = 425;
export const SYS_io_uring_enter = 426;
export const SYS_io_uring_register = 427;
export const SYS_close_range = 436;
export const SYS_faccessat2 = 439;
export const SYS_landlock_create_ruleset = 444;
export const SYS_landlock_add_rule = 445;
export const SYS_landlock_restrict_self = 446;
export const LANDLOCK_CREATE_RULESET_VERSION = 1;

/** Older system calls, whose numbers each architecture has of its own. */
export const BY_ARCHITECTURE = {
  x64: { SYS_prctl: 157, SYS_capget: 125, SYS_capset: 126, SYS_rt_sigprocmask: 14 },
  arm64: { SYS_prctl: 167, SYS_capget: 90, SYS_capset: 91, SYS_rt_sigprocmask: 135 },
} as const;

export type Architecture = keyof typeof BY_ARCHITECTURE;
