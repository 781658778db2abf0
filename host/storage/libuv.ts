/** The engine that works everywhere: node:fs and koffi calls on libuv's thread pool, which all disks share. */
import { close, fdatasync, open, readv, writev } from "node:fs";
import { fallocateAsync } from "../platform/libc.js";
import { discardBlocks } from "./calls/discard.js";
import { views } from "./device.js";
import type { IoEngine } from "./engine.js";

/** node:fs gives errnos negative. */
const errnoOf = (error: NodeJS.ErrnoException | null): number => (error ? -error.errno! : 0);

/** It has no state, so one serves all devices of a thread. */
export const libuvEngine: IoEngine = {
  name: "libuv",

  readv(fd, position, to, done) {
    readv(fd, views(to), position, (error, bytes) => done(errnoOf(error), bytes));
  },

  writev(fd, position, from, done) {
    writev(fd, views(from), position, (error, bytes) => done(errnoOf(error), bytes));
  },

  fdatasync(fd, done) {
    fdatasync(fd, (error) => done(errnoOf(error)));
  },

  openFile(path, flags, done) {
    open(path, flags, (error, fd) => done(errnoOf(error), fd));
  },

  closeFile(fd, done) {
    close(fd, (error) => done(errnoOf(error)));
  },

  fallocate: fallocateAsync,
  blockDiscard: discardBlocks,
  soon: queueMicrotask,
  close() {},
};
