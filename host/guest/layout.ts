/**
 * The shared ring and its entries, byte by byte, as a frontend writes and reads them (xen/include/public/io/ring.h,
 * blkif.h). Little endian. Read from the headers independently of the core's own layout, so that one checks the other.
 */
import { type LinearMemory, PAGE_SIZE } from "../core/memory.js";

export const Op = {
  read: 0,
  write: 1,
  writeBarrier: 2,
  flushDiskcache: 3,
  discard: 5,
  indirect: 6,
} as const;

export const Rsp = { okay: 0, error: -1, eopnotsupp: -2 } as const;

/** `flag` of a discard: the old content must be gone for good. */
export const DISCARD_SECURE = 1;

/** Unit of everything that the protocol counts in sectors, whatever the disk's sector size is. */
export const SECTOR = 512;
export const SECTORS_PER_PAGE = PAGE_SIZE / SECTOR;
/** BLKIF_MAX_SEGMENTS_PER_REQUEST. */
export const MAX_SEGMENTS = 11;
/** BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST. */
export const MAX_INDIRECT_PAGES = 8;
export const SEGMENT_BYTES = 8;
export const SEGMENTS_PER_INDIRECT_PAGE = PAGE_SIZE / SEGMENT_BYTES;

/** Offsets in the ring's header (struct blkif_sring). */
export const Sring = { reqProd: 0, reqEvent: 4, rspProd: 8, rspEvent: 12, entries: 64 } as const;

export type Abi = "x86_64" | "x86_32" | "native";

/** Offsets in one ring entry. Byte 0 is the operation, bytes 1, 2 and 3 are named by the writers below. */
export interface Layout {
  /** Bytes from one entry to the next. */
  readonly stride: number;
  readonly id: number;
  readonly sectorNumber: number;
  readonly segments: number;
  readonly discardSectors: number;
  readonly indirectHandle: number;
  readonly indirectRefs: number;
}

/** u64 aligned to 8 bytes: x86_64, and 32- and 64-bit arm, where the name is "native". */
const aligned8: Layout = {
  stride: 112,
  id: 8,
  sectorNumber: 16,
  segments: 24,
  discardSectors: 24,
  indirectHandle: 24,
  indirectRefs: 28,
};

/** u64 aligned to 4 bytes. */
const aligned4: Layout = {
  stride: 108,
  id: 4,
  sectorNumber: 12,
  segments: 20,
  discardSectors: 20,
  indirectHandle: 20,
  indirectRefs: 24,
};

export const LAYOUTS: Readonly<Record<Abi, Layout>> = {
  x86_64: aligned8,
  x86_32: aligned4,
  native: aligned8,
};

/** What `protocol` says in xenstore (io/protocols.h); a frontend of the backend's own ABI may leave the key out. */
export const PROTOCOLS: Readonly<Record<Abi, string | null>> = {
  x86_64: "x86_64-abi",
  x86_32: "x86_32-abi",
  native: null,
};

/** Entries of a ring of that many pages: the largest power of two that fits behind the header. */
export function ringEntries(layout: Layout, pages: number): number {
  const fit = Math.floor((pages * PAGE_SIZE - Sring.entries) / layout.stride);
  return 2 ** Math.floor(Math.log2(fit));
}

function writeU16(m: LinearMemory, at: number, value: number): void {
  m.u8[at] = value;
  m.u8[at + 1] = value >>> 8;
}

/** A u64 in two halves. Every u64 of every ABI is 4-byte aligned. */
export function writeU64(m: LinearMemory, at: number, low: number, high: number): void {
  m.u32[at >>> 2] = low;
  m.u32[(at >>> 2) + 1] = high;
}

/** READ, WRITE, WRITE_BARRIER, FLUSH_DISKCACHE: everything but id, sector number and segments. */
export function writeDirect(
  m: LinearMemory,
  at: number,
  operation: number,
  nrSegments: number,
  handle: number,
): void {
  m.u8[at] = operation;
  m.u8[at + 1] = nrSegments;
  writeU16(m, at + 2, handle);
}

/** DISCARD: everything but id, sector number and number of sectors. */
export function writeDiscard(m: LinearMemory, at: number, flag: number, handle: number): void {
  m.u8[at] = Op.discard;
  m.u8[at + 1] = flag;
  writeU16(m, at + 2, handle);
}

/** INDIRECT: everything but id, sector number and the references of the indirect pages. */
export function writeIndirect(
  m: LinearMemory,
  at: number,
  layout: Layout,
  operation: number,
  nrSegments: number,
  handle: number,
): void {
  m.u8[at] = Op.indirect;
  m.u8[at + 1] = operation;
  writeU16(m, at + 2, nrSegments);
  writeU16(m, at + layout.indirectHandle, handle);
}

/** One segment; first and last are 512-byte sectors of the page, both included. */
export function writeSegment(m: LinearMemory, at: number, ref: number, first: number, last: number): void {
  m.u32[at >>> 2] = ref;
  m.u8[at + 4] = first;
  m.u8[at + 5] = last;
}

/** Offsets in a response, which lies in the entry of its own index: the same in every ABI. */
export const Response = { idLow: 0, idHigh: 4, operation: 8, status: 10 } as const;

/** `status` of the response in this entry (s16). */
export function readStatus(m: LinearMemory, at: number): number {
  const p = at + Response.status;
  return ((m.u8[p] | (m.u8[p + 1] << 8)) << 16) >> 16;
}
