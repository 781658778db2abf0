/**
 * The memory that is shared with a server: one memfd a disk, so that it is one region to a server that takes few. Each
 * virtqueue has a slice of it: the ring with its requests, then a window for data.
 *
 * The server can write all of it, at any time. Its size is sealed: an access beyond the end of a file that was cut
 * short would kill this process.
 */
import { ftruncateSync } from "node:fs";
import { DATA_WINDOW } from "../../core/windows.js";
import { mapBuffer, unmapBuffer } from "../../platform/libc.js";
import { copyData, removePages, sealedMemory } from "../../platform/sharing.js";
import { DESCRIPTOR_BYTES } from "./abi.js";

/** Servers that use large pages want regions that are made of them. */
const ALIGNMENT = 2 << 20;
/** Where the server finds byte 0, as an address of either kind that the protocol has. Not 0, which may mean "none". */
export const SHARED_BASE = 2 ** 32;

/** A ring's private data window. */
const WINDOW_BYTES = Math.ceil((DATA_WINDOW.end - DATA_WINDOW.start) / ALIGNMENT) * ALIGNMENT;

/** In the control part of a slice; the largest ring has room. */
const MAX_DESCRIPTORS = 1024;
export const MAX_REQUESTS = 256;
/** Data segments of a request that has a table of its own. */
export const TABLE_SEGMENTS = 128;
export const TABLE_BYTES = (TABLE_SEGMENTS + 2) * DESCRIPTOR_BYTES;
export const RECORD_BYTES = 64;
export const Control = {
  descriptors: 0,
  available: MAX_DESCRIPTORS * DESCRIPTOR_BYTES,
  used: 0x6000,
  /** Header, range and status of each request. */
  records: 0x10000,
  /** The tables of indirect descriptors. */
  tables: 0x20000,
} as const;
export const CONTROL_BYTES = ALIGNMENT;
export const SLICE_BYTES = CONTROL_BYTES + WINDOW_BYTES;

/** Where the control part of a queue's slice begins in the memfd. */
export function sliceAt(queue: number): number {
  return queue * SLICE_BYTES;
}

/** A memfd for so many queues, to be closed with node:fs; a page costs nothing until it is touched. */
export function makeArea(queues: number): number {
  return sealedMemory("xbdback-vhost-user", (fd) => ftruncateSync(fd, queues * SLICE_BYTES));
}

export interface Mapping {
  /** Not to be used after `close`. */
  readonly bytes: ArrayBuffer;
  close(): void;
}

/** Maps a part of the memfd where the kernel likes. */
export function mapArea(fd: number, offset: number, length: number): Mapping {
  const { address, bytes } = mapBuffer(fd, offset, length, false);
  return { bytes, close: () => unmapBuffer(address, length) };
}

/** Makes all of a queue's slice zeros, which cost nothing. */
export function clearSlice(fd: number, queue: number): void {
  const { address } = mapBuffer(fd, sliceAt(queue), SLICE_BYTES, false);
  removePages(address, SLICE_BYTES);
  unmapBuffer(address, SLICE_BYTES);
}

/** Copies what is in a queue's window from one memfd to the same place in another. */
export function copyWindow(from: number, to: number, queue: number): void {
  copyData(from, to, sliceAt(queue) + CONTROL_BYTES, WINDOW_BYTES);
}
