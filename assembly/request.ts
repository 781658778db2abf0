// A decoded request, 64 bytes a slot, and the lists of slots. Only the core reads or writes these.
import {
  CONFIG_MAX_LARGE,
  DATA,
  DATA_LARGE,
  DATA_LARGE_BYTES,
  DATA_SMALL_BYTES,
  FREE_LARGE,
  FREE_SLOTS,
  MAX_DIRECT_SEGMENTS,
  MAX_LARGE,
  MAX_SEGMENTS,
  MAX_SLOTS,
  PASS_LIST,
  READY_LIST,
  REQUEST_BYTES,
  REQUESTS,
  SEGMENT_BYTES,
  SEGMENTS,
} from "./abi";
import { mayTakeUp, takeUpAgain } from "./budget";
import { ADMITTED, FREE, mayFollow, READY, TAKEN } from "./states";

// Flags.
/** Its pages are mapped persistently; otherwise its data lies in the data window. */
export const MAPPED: u8 = 1;
/** A grant operation for it failed. */
export const FAULT: u8 = 2;
/** It was in a coalesced I/O that failed: it goes alone this time. */
export const ALONE: u8 = 4;
/** It counts in the hazard tables. */
export const ACTIVE: u8 = 8;
export const INDIRECT: u8 = 16;
export const SECURE: u8 = 32;
/** It owns one of the large data regions. */
export const LARGE: u8 = 64;
/** A grant of it could not be mapped: copy. */
export const UNMAPPABLE: u8 = 128;

@unmanaged
export class Request {
  state: u8;
  /** BLKIF_OP_*: the inner one for an INDIRECT. This is what the response echoes. */
  operation: u8;
  flags: u8;
  /** Index of its large data region. */
  large: u8;
  segments: u16;
  /** The next slot in the same I/O. */
  next: u16;
  id: u64;
  sector: u64;
  /** 512-byte sectors that it reads, writes or discards. */
  sectors: u64;
  /** Its place in the order in which requests were admitted: which of two is older. */
  order: u64;
  /** Earlier requests that it still waits for. */
  waits: u16;
  status: i16;
}

/** The only place where a request's state changes. */
export function enterState(request: Request, state: u8): void {
  assert(mayFollow(request.state, state));
  request.state = state;
}

export function requestAt(slot: u32): Request {
  assert(slot < <u32>MAX_SLOTS);
  return changetype<Request>(REQUESTS + slot * REQUEST_BYTES);
}

export function segmentsOf(slot: u32): u32 {
  assert(slot < <u32>MAX_SLOTS);
  return SEGMENTS + slot * (MAX_SEGMENTS * SEGMENT_BYTES);
}

export function segmentsEnd(slot: u32, request: Request): u32 {
  assert(<u32>request.segments <= <u32>MAX_SEGMENTS);
  return segmentsOf(slot) + <u32>request.segments * SEGMENT_BYTES;
}

// ---- Lists ----

export let freeSlots: u32 = 0;
export let passLength: u32 = 0;
export let readyLength: u32 = 0;
export let freeLarge: u32 = 0;

export function resetRequests(entries: u32): void {
  memory.fill(REQUESTS, 0, MAX_SLOTS * REQUEST_BYTES);
  // The last to be freed is the first to be taken again: its data is still in the processor's cache.
  for (let i: u32 = 0; i < entries; i++) store<u16>(FREE_SLOTS + (i << 1), entries - 1 - i);
  for (let i = 0; i < MAX_LARGE; i++) store<u16>(FREE_LARGE + (i << 1), i);
  freeSlots = entries;
  const most = load<u32>(CONFIG_MAX_LARGE);
  freeLarge = min<u32>(most == 0 ? MAX_LARGE : most, entries);
  passLength = 0;
  readyLength = 0;
}

/** Takes the `count` slots of a list out of the free ones. */
export function claimSlots(list: u32, count: u32): void {
  for (let i: u32 = 0; i < count; i++) enterState(requestAt(load<u16>(list + (i << 1))), TAKEN);
  let free: u32 = 0;
  for (let i: u32 = 0; i < freeSlots; i++) {
    const slot = load<u16>(FREE_SLOTS + (i << 1));
    if (requestAt(slot).state == FREE) store<u16>(FREE_SLOTS + (free++ << 1), slot);
  }
  assert(freeSlots - free == count);
  freeSlots = free;
}

/** The ring has no more requests than there are slots, which `overflows` has made sure of. */
export function takeSlot(): u32 {
  assert(freeSlots != 0);
  return load<u16>(FREE_SLOTS + (--freeSlots << 1));
}

export function freeSlot(slot: u32): void {
  assert(freeSlots < <u32>MAX_SLOTS && requestAt(slot).state == FREE);
  store<u16>(FREE_SLOTS + (freeSlots++ << 1), slot);
}

export function addToPass(slot: u32): void {
  assert(passLength < <u32>MAX_SLOTS);
  store<u16>(PASS_LIST + (passLength++ << 1), slot);
}

export function inPass(i: u32): u32 {
  assert(i < passLength);
  return load<u16>(PASS_LIST + (i << 1));
}

export function endPass(): void {
  passLength = 0;
}

/** The next passes take these up, in this order, before they look at the ring. */
export function addToReady(slot: u32): void {
  assert(readyLength < <u32>MAX_SLOTS);
  store<u16>(READY_LIST + (readyLength++ << 1), slot);
}

export function readyToPass(): void {
  let i: u32 = 0;
  for (; i < readyLength && mayTakeUp(); i++) {
    const slot = load<u16>(READY_LIST + (i << 1));
    const request = requestAt(slot);
    takeUpAgain(request);
    if (request.state == READY) enterState(request, ADMITTED);
    addToPass(slot);
  }
  readyLength -= i;
  if (readyLength != 0) memory.copy(READY_LIST, READY_LIST + (i << 1), readyLength << 1);
}

// ---- Data window ----

export function takeLarge(request: Request): void {
  assert(freeLarge != 0 && !(request.flags & LARGE));
  request.large = <u8>load<u16>(FREE_LARGE + (--freeLarge << 1));
  request.flags |= LARGE;
}

export function releaseLarge(request: Request): void {
  if (!(request.flags & LARGE)) return;
  assert(freeLarge < <u32>MAX_LARGE);
  request.flags &= ~LARGE;
  store<u16>(FREE_LARGE + (freeLarge++ << 1), request.large);
}

/** Where the private copy of its data lies: its segments one behind the other, so that they are one buffer. */
export function dataOf(slot: u32, request: Request): u32 {
  assert(<u32>request.segments <= <u32>MAX_DIRECT_SEGMENTS || (request.flags & LARGE) != 0);
  if (request.flags & LARGE) return DATA_LARGE + <u32>request.large * DATA_LARGE_BYTES;
  return DATA + slot * DATA_SMALL_BYTES;
}
