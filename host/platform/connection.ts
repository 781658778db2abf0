/** The foreign functions for a connected socket that another process uses, and of which this one has a copy to see it break. */
import koffi from "koffi";
import { check, type Poll, pollDisconnect } from "./libc.js";
import { F_DUPFD_CLOEXEC, O_CLOEXEC, POLLERR, POLLHUP, POLLNVAL, POLLRDHUP } from "./numbers.js";

const SHUT_RDWR = 2;

const libc = koffi.load("libc.so.6");

const c = {
  fcntl: libc.func("int fcntl(int fd, int command, long argument)"),
  shutdown: libc.func("int shutdown(int fd, int how)"),
  dup3: libc.func("int dup3(int from, int to, int flags)"),
  poll: libc.func("int poll(void *descriptors, ulong count, int timeout)"),
};

/** Another descriptor of the same open file. To be closed with node:fs. */
export function copyOf(fd: number): number {
  return check(c.fcntl(fd, F_DUPFD_CLOEXEC, 0), "fcntl F_DUPFD_CLOEXEC");
}

/** Makes a descriptor one of another open file, in one step: threads that know its number never see it closed. */
export function redirect(fd: number, to: number): void {
  check(c.dup3(to, fd, O_CLOEXEC), "dup3");
}

/** Ends a connection for all who have it. One that has ended already stays so. */
export function cutOff(fd: number): void {
  c.shutdown(fd, SHUT_RDWR);
}

/** Whether a connection has ended, at either end. Reads nothing of it. */
export function isHungUp(fd: number): boolean {
  // struct pollfd; of its own, as several threads are here.
  const entry = new Int16Array(4);
  new Int32Array(entry.buffer)[0] = fd;
  entry[2] = POLLRDHUP;
  check(c.poll(entry, 1, 0), "poll");
  return (entry[3] & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) !== 0;
}

/** Calls `ended` on the event loop when a connection ends, perhaps more than once. */
export function pollHangUp(fd: number, ended: () => void): Poll {
  return pollDisconnect(fd, () => {
    if (isHungUp(fd)) ended();
  });
}
