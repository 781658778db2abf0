/**
 * The foreign functions by which memory, events and descriptors are shared with a process that is not trusted. None of them
 * ever waits, whatever that process does to an open file that it has, too: it may clear O_NONBLOCK there at any moment.
 */
import { closeSync, readSync, writeSync } from "node:fs";
import { constants } from "node:os";
import koffi from "koffi";
import { addressOf, check, SystemError, sendMessage } from "./libc.js";
import {
  AF_UNIX,
  EFD_CLOEXEC,
  F_ADD_SEALS,
  F_SEAL_GROW,
  F_SEAL_SEAL,
  F_SEAL_SHRINK,
  MADV_REMOVE,
  MFD_ALLOW_SEALING,
  MFD_CLOEXEC,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  RWF_NOWAIT,
  SCM_RIGHTS,
  SEEK_DATA,
  SEEK_HOLE,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
} from "./numbers.js";

const libc = koffi.load("libc.so.6");

const c = {
  memfdCreate: libc.func("int memfd_create(const char *name, uint32 flags)"),
  fcntl: libc.func("int fcntl(int fd, int command, long argument)"),
  lseek: libc.func("int64 lseek(int fd, int64 offset, int whence)"),
  madvise: libc.func("int madvise(int64 addr, size_t len, int advice)"),
  socketpair: libc.func("int socketpair(int domain, int type, int protocol, _Out_ int *pair)"),
  send: libc.func("long send(int fd, const void *buffer, size_t length, int flags)"),
  preadv2: libc.func("long preadv2(int fd, const void *vectors, int count, int64 offset, int flags)"),
  eventfd: libc.func("int eventfd(uint32 initial, int flags)"),
};

/** Memory as a file, whose size is what `setSize` makes of it and stays so: memfd_create(2). To be closed with node:fs. */
export function sealedMemory(name: string, setSize: (fd: number) => void): number {
  const fd = check(c.memfdCreate(name, MFD_CLOEXEC | MFD_ALLOW_SEALING), "memfd_create");
  try {
    setSize(fd);
    check(c.fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW), "fcntl F_ADD_SEALS");
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Gives pages of a mapped memory file back to the kernel, for all who have it mapped; they read as zeros. */
export function removePages(address: number, length: number): void {
  check(c.madvise(address, length, MADV_REMOVE), "madvise");
}

const COPY_BYTES = 1 << 20;

/** Copies a range of a memory file to the same place in another, but no pages that nobody has touched. */
export function copyData(from: number, to: number, start: number, length: number): void {
  const buffer = Buffer.allocUnsafe(COPY_BYTES);
  const end = start + length;
  for (let at = start; ; ) {
    const data = Number(c.lseek(from, at, SEEK_DATA));
    // ENXIO: there are none from here on.
    if (data < 0 || data >= end) return;
    at = Math.min(check(Number(c.lseek(from, data, SEEK_HOLE)), "lseek"), end);
    for (let done = data; done < at; ) {
      const bytes = readSync(from, buffer, 0, Math.min(COPY_BYTES, at - done), done);
      done += writeSync(to, buffer, 0, bytes, done);
    }
  }
}

/** Two Unix stream sockets that are connected to each other. To be closed with node:fs, or by who takes them over. */
export function socketPair(): [number, number] {
  const pair = [0, 0];
  check(c.socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), "socketpair");
  return [pair[0], pair[1]];
}

/** An eventfd of which a read waits: what io_uring wants. To be closed with node:fs. */
export function waitingEventFd(): number {
  return check(c.eventfd(0, EFD_CLOEXEC), "eventfd");
}

const word = new Uint8Array(new BigUint64Array([1n]).buffer);

/** Makes the other end of a socket pair readable. Where it is full, or closed, that end knows already. */
export function ring(fd: number): void {
  c.send(fd, word, word.byteLength, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/** struct iovec, then the 8 bytes that are read; with a buffer of its own, as a small array's bytes may move. */
const drain = new BigUint64Array(new ArrayBuffer(24));
// It is named below, too, and so is there as long as this module.
drain[0] = BigInt(addressOf(new Uint8Array(drain.buffer)) + 16);
drain[1] = 8n;

/** Empties an eventfd, if it is one that can be emptied now. */
export function drainEventFd(fd: number): void {
  c.preadv2(fd, drain, 1, -1, RWF_NOWAIT);
}

/** struct msghdr, struct iovec, struct cmsghdr and its descriptors, one behind the other. */
const VECTOR = 56;
const CONTROL = VECTOR + 16;
const CONTROL_HEADER = 16;

/**
 * Sends bytes, at least one, to a connected stream socket, and descriptors of the same open files with them. Throws a
 * SystemError, also where there is no room for all of it.
 */
export function sendWithDescriptors(fd: number, bytes: Uint8Array, descriptors: readonly number[]): void {
  const length = CONTROL_HEADER + 4 * descriptors.length;
  const space = descriptors.length === 0 ? 0 : Math.ceil(length / 8) * 8;
  const memory = Buffer.concat([Buffer.alloc(CONTROL + space), bytes]);
  const start = addressOf(memory);
  const set = (offset: number, value: number): void => void memory.writeBigUInt64LE(BigInt(value), offset);
  set(16, start + VECTOR);
  set(24, 1);
  set(VECTOR, start + CONTROL + space);
  set(VECTOR + 8, bytes.byteLength);
  if (descriptors.length > 0) {
    set(32, start + CONTROL);
    set(40, space);
    set(CONTROL, length);
    memory.writeInt32LE(SOL_SOCKET, CONTROL + 8);
    memory.writeInt32LE(SCM_RIGHTS, CONTROL + 12);
    for (const [i, descriptor] of descriptors.entries())
      memory.writeInt32LE(descriptor, CONTROL + CONTROL_HEADER + 4 * i);
  }
  const sent = sendMessage(fd, memory, "the server", MSG_DONTWAIT);
  if (sent !== bytes.byteLength) throw new SystemError("sendmsg", constants.errno.EAGAIN, "the server");
}
