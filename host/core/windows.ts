/**
 * What lies where in a ring's linear memory, for a host that maps, shares or gives back parts of it: byte offsets, from and
 * up to. `assembly/abi.ts` draws the map; nothing outside this folder does arithmetic with it.
 */
import * as abi from "../../assembly/abi.js";

/** Bytes in linear memory: from, and up to. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

/** Data of requests that are copied: private to the process, and never read by the guest. */
export const DATA_WINDOW: Range = { start: abi.DATA, end: abi.SRING };
/** Pages of the guest's that stay mapped. */
export const PERSISTENT_WINDOW: Range = { start: abi.PERSISTENT, end: abi.MEMORY_BYTES };
/** Segments, iovecs and copies: each pass writes what it reads there, for requests that stay in flight or end with it. */
export const SCRATCH_TABLES: Range = { start: abi.SEGMENTS, end: abi.MAPS };
/** What a successor goes on with. */
export const JOURNAL: Range = { start: abi.JOURNAL, end: abi.JOURNAL_END };
/** Where the shared ring's first page is mapped. */
export const SHARED_RING = abi.SRING;
/** Bytes that are the host's, for whatever it counts. */
export const HOST_AREA: Range = { start: abi.HOST, end: abi.HOST + 1024 };

/** The whole range lies in the other. */
export function isWithin({ start, end }: Range, at: number, length: number): boolean {
  return at >= start && at + length <= end;
}

/** Where a page of the persistent window is mapped. */
export function persistentPageAt(page: number): number {
  return abi.PERSISTENT + page * abi.PAGE;
}

/** Where entry `i` of the table of grant copies lies, as gntdev reads it. */
export function copyEntryAt(i: number): number {
  return abi.COPIES + i * abi.COPY_BYTES;
}

/** The data of the request in a slot, unless they need a large region. */
export function smallRegion(slot: number): Range {
  return regionAt(abi.DATA, slot, abi.DATA_SMALL_BYTES);
}

/** One of the MAX_LARGE regions for requests of more than 44 KiB. */
export function largeRegion(index: number): Range {
  return regionAt(abi.DATA_LARGE, index, abi.DATA_LARGE_BYTES);
}

function regionAt(window: number, index: number, bytes: number): Range {
  return { start: window + index * bytes, end: window + (index + 1) * bytes };
}

/** Whether a copy's memory is the slot's small region, or within one of the large ones. */
export function isDataOf(slot: number, at: number, length: number): boolean {
  if (isWithin(smallRegion(slot), at, length)) return true;
  if (at < abi.DATA_LARGE || at + length > abi.SRING) return false;
  return ((at - abi.DATA_LARGE) % abi.DATA_LARGE_BYTES) + length <= abi.DATA_LARGE_BYTES;
}

/** Bytes that a ring of so many pages may come to use: its tables, a small region for each slot, and large ones. */
export function memoryOfRing(pages: number, large: number = abi.MAX_LARGE): number {
  const slots = pages * 32;
  return abi.DATA + slots * abi.DATA_SMALL_BYTES + Math.min(large, slots) * abi.DATA_LARGE_BYTES;
}
