/**
 * Every foreign function that the host calls, and nothing else; but for those for what it shares with a process that is not
 * trusted (sharing.ts).
 *
 * Each wrapper throws a {@link SystemError} that names the call and the errno; none returns -1.
 */
import { constants } from "node:os";
import koffi from "koffi";
import {
  AF_UNIX,
  BLKDISCARD,
  BLKSECDISCARD,
  EFD_CLOEXEC,
  EFD_NONBLOCK,
  F_GETFL,
  F_OFD_GETLK,
  F_OFD_SETLK,
  F_RDLCK,
  F_SETFL,
  F_UNLCK,
  F_WRLCK,
  LANDLOCK_CREATE_RULESET_VERSION,
  LOCK_EX,
  LOCK_NB,
  LOCK_SH,
  LOCK_UN,
  MADV_DONTNEED,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_POPULATE,
  MAP_PRIVATE,
  MAP_SHARED,
  MSG_NOSIGNAL,
  O_DIRECT,
  PROT_READ,
  PROT_WRITE,
  SO_PEERCRED,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOL_SOCKET,
  SYS_io_uring_enter,
  SYS_io_uring_register,
  SYS_io_uring_setup,
  SYS_landlock_create_ruleset,
} from "./numbers.js";

const libc = koffi.load("libc.so.6");

const c = {
  mmap: libc.func("int64 mmap(int64 addr, size_t len, int prot, int flags, int fd, int64 offset)"),
  madvise: libc.func("int madvise(int64 addr, size_t len, int advice)"),
  munmap: libc.func("int munmap(int64 addr, size_t len)"),
  flock: libc.func("int flock(int fd, int operation)"),
  exit: libc.func("void _exit(int status)"),
  mkfifo: libc.func("int mkfifo(const char *path, uint32 mode)"),
  fallocate: libc.func("int fallocate(int fd, int mode, int64 offset, int64 len)"),
  fcntl: libc.func("int fcntl(int fd, int command, void *argument)"),
  fcntlNumber: libc.func("int fcntl(int fd, int command, long argument)"),
  ioctl: libc.func("int ioctl(int fd, ulong request, void *argument)"),
  ioctlRange: libc.func("int ioctl(int fd, ulong request, const uint64 *range)"),
  getpagesize: libc.func("int getpagesize()"),
  memmove: libc.func("void memmove(int64 to, int64 from, size_t length)"),
  read: libc.func("long read(int fd, void *buffer, size_t count)"),
  write: libc.func("long write(int fd, const void *buffer, size_t count)"),
  socket: libc.func("int socket(int domain, int type, int protocol)"),
  sendmsg: libc.func("long sendmsg(int fd, const void *message, int flags)"),
  getsockopt: libc.func(
    "int getsockopt(int fd, int level, int option, _Out_ void *value, _Inout_ uint32 *length)",
  ),
  eventfd: libc.func("int eventfd(uint32 initial, int flags)"),
  landlockCreateRuleset: libc.func("long syscall(long number, void *attributes, size_t size, uint32 flags)"),
  ioUringSetup: libc.func("long syscall(long number, uint32 entries, void *parameters)"),
  ioUringEnter: libc.func(
    "long syscall(long number, int fd, uint32 submit, uint32 complete, uint32 flags, int64 argument, size_t size)",
  ),
  ioUringRegister: libc.func(
    "long syscall(long number, int fd, uint32 operation, void *argument, uint32 count)",
  ),
};

// Of two names for one number the first counts, as with node:fs: EAGAIN, not EWOULDBLOCK.
const ERRNO_NAMES = new Map(
  Object.entries(constants.errno)
    .reverse()
    .map(([name, value]) => [value as number, name]),
);

/** A failed system call: `code` is the errno's name, `errno` its (positive) number, as node:fs errors have them. */
export class SystemError extends Error {
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;

  constructor(syscall: string, errno: number, what = "") {
    const code = ERRNO_NAMES.get(errno) ?? `errno ${errno}`;
    super(`${syscall}${what && ` ${what}`}: ${code}`);
    this.code = code;
    this.errno = errno;
    this.syscall = syscall;
  }
}

/** The result of a system call that sets errno. Throws a {@link SystemError} where it failed. */
export function check(result: number, syscall: string, what?: string): number {
  if (result < 0) throw new SystemError(syscall, koffi.errno(), what);
  return result;
}

/** The native address of a view's first byte. It stays true as long as the buffer lives. */
export function addressOf(view: Uint8Array): number {
  return Number(koffi.address(view));
}

/** Maps `length` bytes of `fd` from `offset` over whatever is at the native address `address`. */
export function mapFixed(
  address: number,
  length: number,
  fd: number,
  offset: number,
  writable: boolean,
): void {
  const protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
  check(c.mmap(address, length, protection, MAP_SHARED | MAP_FIXED, fd, offset), "mmap");
}

/**
 * Puts fresh zero pages over a mapping. Never munmap: that leaves a hole in linear memory, where an access from
 * JavaScript kills the process.
 */
export function mapAnonymous(address: number, length: number): void {
  const flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS;
  check(c.mmap(address, length, PROT_READ | PROT_WRITE, flags, -1, 0), "mmap");
}

/** Gives the pages of private anonymous memory back to the kernel; they read as zeros. Both numbers are a page's multiples. */
export function discardPages(address: number, length: number): void {
  check(c.madvise(address, length, MADV_DONTNEED), "madvise");
}

/** Bytes in a page of this kernel. */
export function pageSize(): number {
  return c.getpagesize();
}

/**
 * memmove(3) between native addresses. A page takes about as long as with `TypedArray.set`, which needs a new view
 * for each call and copies shared memory word by word.
 */
export function copyBytes(to: number, from: number, length: number): void {
  c.memmove(to, from, length);
}

/** flock(2) without waiting. False when somebody else holds the lock. */
export function tryLock(fd: number, exclusive: boolean): boolean {
  if (c.flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) === 0) return true;
  if (koffi.errno() === constants.errno.EWOULDBLOCK) return false;
  throw new SystemError("flock", koffi.errno());
}

/** Releases the flock and all byte-range locks (OFD) of an open file, whoever else has it. A file system without locks has none to release. */
export function unlock(fd: number): void {
  c.flock(fd, LOCK_UN);
  c.fcntl(fd, F_OFD_SETLK, rangeLock(F_UNLCK, 0, 0));
}

/**
 * Ends the process without waiting for its threads, as process.exit() would. A thread that the kernel does not interrupt keeps
 * the process, and its descriptors, until its call returns.
 */
export function exitAtOnce(status: number): never {
  process.emit("exit", status);
  c.exit(status);
  throw new Error("_exit returned");
}

export function makeFifo(path: string, mode = 0o600): void {
  check(c.mkfifo(path, mode), "mkfifo", path);
}

/** fallocate(2) on libuv's thread pool. `done` gets 0 or the errno. */
export function fallocateAsync(
  fd: number,
  mode: number,
  offset: number,
  length: number,
  done: (errno: number) => void,
): void {
  c.fallocate.async(fd, mode, offset, length, errnoOf(done));
}

/** fallocate(2); 0 or the errno. */
export function fallocate(fd: number, mode: number, offset: number, length: number): number {
  return c.fallocate(fd, mode, offset, length) < 0 ? koffi.errno() : 0;
}

/** koffi brings the thread's errno back with the result, for as long as the callback runs. */
function errnoOf(done: (errno: number) => void): (error: Error | null, result: number) => void {
  return (error, result) => done(error ? constants.errno.EIO : result < 0 ? koffi.errno() : 0);
}

/**
 * BLKDISCARD, or BLKSECDISCARD when `secure`: `length` bytes from byte `position`, both multiples of the logical sector size.
 */
export function blockDiscard(fd: number, secure: boolean, position: number, length: number): void {
  const name = secure ? "BLKSECDISCARD" : "BLKDISCARD";
  check(c.ioctlRange(fd, secure ? BLKSECDISCARD : BLKDISCARD, [position, length]), "ioctl", name);
}

function statusFlags(fd: number): number {
  return check(c.fcntlNumber(fd, F_GETFL, 0), "fcntl F_GETFL");
}

/** Whether an open file has O_DIRECT. */
export function isDirect(fd: number): boolean {
  return (statusFlags(fd) & O_DIRECT) !== 0;
}

/** Sets or clears O_DIRECT on an open file. */
export function setDirect(fd: number, direct: boolean): void {
  const flags = statusFlags(fd);
  check(c.fcntlNumber(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT), "fcntl F_SETFL");
}

/**
 * True when another open file holds a byte-range lock (fcntl's, classic or OFD) on any of these bytes. On a network file
 * system the server is asked, and may not answer.
 */
export function isRangeLocked(fd: number, start: number, length: number): boolean {
  const lock = rangeLock(F_WRLCK, start, length);
  check(c.fcntl(fd, F_OFD_GETLK, lock), "fcntl F_OFD_GETLK");
  return new Int16Array(lock.buffer)[0] !== F_UNLCK;
}

/** Takes a shared lock on these bytes for the open file, which keeps it until its last use has ended. */
export function shareRange(fd: number, start: number, length: number): void {
  check(c.fcntl(fd, F_OFD_SETLK, rangeLock(F_RDLCK, start, length)), "fcntl F_OFD_SETLK");
}

/** struct flock: s16 l_type @0, s16 l_whence @2, s64 l_start @8, s64 l_len @16, s32 l_pid @24. */
function rangeLock(type: number, start: number, length: number): Uint8Array {
  const lock = new DataView(new ArrayBuffer(32));
  lock.setInt16(0, type, true);
  lock.setBigInt64(8, BigInt(start), true);
  lock.setBigInt64(16, BigInt(length), true);
  return new Uint8Array(lock.buffer);
}

/** ioctl(2) with a pointer argument; returns its (non-negative) result. */
export function ioctl(fd: number, request: number, argument: Uint8Array | null, name: string): number {
  return check(c.ioctl(fd, request, argument), "ioctl", name);
}

/** read(2); 0 when a non-blocking descriptor has nothing. */
export function readNonBlocking(fd: number, buffer: Uint8Array): number {
  const n = c.read(fd, buffer, buffer.byteLength);
  if (n >= 0) return n;
  if (koffi.errno() === constants.errno.EAGAIN) return 0;
  throw new SystemError("read", koffi.errno());
}

/** write(2); false when a non-blocking descriptor is full. */
export function writeNonBlocking(fd: number, buffer: Uint8Array): boolean {
  if (c.write(fd, buffer, buffer.byteLength) >= 0) return true;
  if (koffi.errno() === constants.errno.EAGAIN) return false;
  throw new SystemError("write", koffi.errno());
}

/** A Unix datagram socket, to be closed with node:fs. */
export function datagramSocket(): number {
  return check(c.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
}

/** sendmsg(2); `message` is a struct msghdr, and `to` names the receiver for people. The bytes that were sent. */
export function sendMessage(fd: number, message: Uint8Array, to: string, flags = 0): number {
  return check(c.sendmsg(fd, message, MSG_NOSIGNAL | flags), "sendmsg", to);
}

/** Who is at the other end of a connected Unix socket, as of the time of connect(2). */
export function peerOf(fd: number): { pid: number; uid: number; gid: number } {
  const ucred = new Int32Array(3);
  check(c.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ucred, [ucred.byteLength]), "getsockopt SO_PEERCRED");
  const [pid, uid, gid] = new Uint32Array(ucred.buffer);
  return { pid, uid, gid };
}

/** A counter that wakes whoever polls it: eventfd(2), non-blocking. To be closed with node:fs. */
export function eventFd(): number {
  return check(c.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd");
}

const one = new Uint8Array(new BigUint64Array([1n]).buffer);

/** Makes an eventfd readable. */
export function signalEventFd(fd: number): void {
  writeNonBlocking(fd, one);
}

/** Landlock's version here; 0 where the kernel has none, or it is not enabled. */
export function landlockVersion(): number {
  const version = c.landlockCreateRuleset(
    SYS_landlock_create_ruleset,
    null,
    0,
    LANDLOCK_CREATE_RULESET_VERSION,
  );
  return Math.max(version, 0);
}

/** io_uring_setup(2): the ring's descriptor. `parameters` is a struct io_uring_params, which the kernel completes. */
export function ioUringSetup(entries: number, parameters: Uint8Array): number {
  return check(c.ioUringSetup(SYS_io_uring_setup, entries, parameters), "io_uring_setup");
}

/**
 * io_uring_enter(2). `argument` is the native address of a struct io_uring_getevents_arg of `size` bytes. Returns what
 * the kernel does, or the errno as a negative number: the caller meets EINTR, ETIME and EBUSY in the course of its work.
 */
export function ioUringEnter(
  fd: number,
  submit: number,
  complete: number,
  flags: number,
  argument: number,
  size: number,
): number {
  const result = c.ioUringEnter(SYS_io_uring_enter, fd, submit, complete, flags, argument, size);
  return result < 0 ? -koffi.errno() : result;
}

/** io_uring_register(2). */
export function ioUringRegister(
  fd: number,
  operation: number,
  argument: Uint8Array | null,
  count: number,
): number {
  const result = c.ioUringRegister(SYS_io_uring_register, fd, operation, argument, count);
  return check(result, "io_uring_register");
}

/**
 * Maps `length` bytes of `fd` from `offset` where the kernel likes, for good: the bytes as an ArrayBuffer, which must
 * not be used after {@link unmapBuffer}. With `populate`, all pages are there from the start.
 */
export function mapBuffer(
  fd: number,
  offset: number,
  length: number,
  populate = true,
): { address: number; bytes: ArrayBuffer } {
  const flags = MAP_SHARED | (populate ? MAP_POPULATE : 0);
  const address = check(c.mmap(0, length, PROT_READ | PROT_WRITE, flags, fd, offset), "mmap");
  return { address, bytes: koffi.view(address, length) };
}

/**
 * `length` bytes at a native address as an ArrayBuffer that is not shared, so that V8 copies them as fast as the CPU can.
 * Whoever owns the memory must keep it for as long as the buffer is used.
 */
export function viewBytes(address: number, length: number): ArrayBuffer {
  return koffi.view(address, length);
}

export function unmapBuffer(address: number, length: number): void {
  check(c.munmap(address, length), "munmap");
}

export interface Poll {
  close(): void;
}

function nothing(): void {}

/** koffi stops a poll whose handle is garbage: callers need not know. */
const polls = new Set<Poll>();

/** Calls `ready` on the event loop whenever `fd` has something to read. Keeps the process alive until closed. */
export function pollReadable(fd: number, ready: () => void): Poll {
  return poll(fd, { readable: true }, ready, true);
}

/** Calls `ended` on the event loop when the other end of a connection has gone, perhaps more than once. */
export function pollDisconnect(fd: number, ended: () => void): Poll {
  return poll(fd, { disconnect: true }, ended, false);
}

function poll(
  fd: number,
  events: { readable?: boolean; disconnect?: boolean },
  happened: () => void,
  keepsAlive: boolean,
): Poll {
  const handle = koffi.node.poll(fd, events, () => {
    happened();
    // Node 26 runs no promise's continuation after a callback of koffi's poll; after an immediate's it does.
    setImmediate(nothing);
  });
  if (!keepsAlive) handle.unref();
  const poll: Poll = {
    close() {
      polls.delete(poll);
      handle.close();
    },
  };
  polls.add(poll);
  return poll;
}
