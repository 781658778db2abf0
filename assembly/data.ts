// A request's bytes: between the guest's pages and memory that the disk can reach.
//
// With persistent grants the pages are mapped and the disk reaches them directly. Otherwise the bytes are copied to
// or from the slot's place in the data window, where the segments lie one behind the other. A request goes one way
// or the other as a whole; a grant that cannot be mapped falls back to copying, which then decides.
import {
  BLKIF_OP_READ,
  CONFIG_BASE,
  CONFIG_DOMID,
  CONFIG_FEATURES,
  COPIES,
  COPY_BYTES,
  COPY_DEST,
  COPY_DEST_GREF,
  COPY_FLAGS,
  COPY_LENGTH,
  COPY_OWNERS,
  COPY_SOURCE,
  COPY_SOURCE_GREF,
  COPY_STATUS,
  COUNT_COPIES,
  COUNT_PERSISTENT_HITS,
  FEATURE_PERSISTENT,
  MAX_COPIES,
  SEGMENT_BYTES,
} from "./abi";
import { count } from "./counters";
import { isMapped, leavePage, NO_PAGE, usePage } from "./persistent";
import {
  ADMITTED,
  COPYING,
  dataOf,
  FAULT,
  LOADED,
  MAPPED,
  MAPPING,
  Request,
  releaseLarge,
  requestAt,
  segmentsOf,
  UNMAPPABLE,
} from "./request";

/** Grant copies asked for in this round. */
export let copies: u32 = 0;
let base: u64 = 0;
let domid: u64 = 0;
let persistent: bool = false;

/** The page of a segment, in its private table. */
const SEGMENT_PAGE = 6;

export function configureData(): void {
  base = load<u64>(CONFIG_BASE);
  domid = load<u32>(CONFIG_DOMID);
  persistent = (load<u32>(CONFIG_FEATURES) & FEATURE_PERSISTENT) != 0;
  copies = 0;
}

export function roomForCopies(wanted: u32): bool {
  return copies + wanted <= <u32>MAX_COPIES;
}

/** One entry of struct gntdev_grant_copy_segment; a grant side is {ref, offset, domid} in one u64. */
function addCopy(slot: u32, gref: u32, offset: u32, local: u32, bytes: u32, toGuest: bool): void {
  const at = COPIES + copies * COPY_BYTES;
  const grant = <u64>gref | ((<u64>offset) << 32) | (domid << 48);
  const address = base + local;
  store<u64>(at, toGuest ? address : grant, COPY_SOURCE);
  store<u64>(at, toGuest ? grant : address, COPY_DEST);
  store<u16>(at, bytes, COPY_LENGTH);
  store<u16>(at, toGuest ? COPY_DEST_GREF : COPY_SOURCE_GREF, COPY_FLAGS);
  // A host that forgets to write the status must not make us trust the bytes.
  store<i16>(at, -1, COPY_STATUS);
  store<u16>(COPY_OWNERS + (copies << 1), slot);
  copies++;
}

/** Asks for the private copy of an indirect page's segments, straight into the slot's table. */
export function fetchSegments(slot: u32, segments: u32, gref: u32): void {
  addCopy(slot, gref, 0, segmentsOf(slot), segments * SEGMENT_BYTES, false);
}

/** Asks for the copies of all of a request's segments. The caller has made sure that there is room. */
export function copySegments(slot: u32, toGuest: bool): void {
  const request = requestAt(slot);
  let at = segmentsOf(slot);
  let local = dataOf(slot, request);
  const end = at + <u32>request.segments * SEGMENT_BYTES;
  for (; at < end; at += SEGMENT_BYTES) {
    const first = <u32>load<u8>(at, 4);
    const bytes = (<u32>load<u8>(at, 5) - first + 1) << 9;
    addCopy(slot, load<u32>(at), first << 9, local, bytes, toGuest);
    local += bytes;
  }
}

/** Marks the requests of copies that failed. */
export function settleCopies(): void {
  for (let i: u32 = 0; i < copies; i++) {
    if (load<i16>(COPIES + i * COPY_BYTES, COPY_STATUS) == 0) continue;
    requestAt(load<u16>(COPY_OWNERS + (i << 1))).flags |= FAULT;
  }
  count(COUNT_COPIES, copies);
  copies = 0;
}

/** Finds or asks for the mapped page of every segment. False when there is no room: then none is held. */
function useSegments(slot: u32, request: Request): bool {
  const start = segmentsOf(slot);
  const end = start + <u32>request.segments * SEGMENT_BYTES;
  let mapped: u32 = 0;
  for (let at = start; at < end; at += SEGMENT_BYTES) {
    const page = usePage(load<u32>(at));
    if (page == NO_PAGE) {
      for (let back = start; back < at; back += SEGMENT_BYTES) leavePage(load<u16>(back, SEGMENT_PAGE));
      return false;
    }
    store<u16>(at, page, SEGMENT_PAGE);
    if (isMapped(page)) mapped++;
  }
  count(COUNT_PERSISTENT_HITS, mapped);
  return true;
}

/** Lets go of a request's mapped pages. */
export function leaveSegments(slot: u32, request: Request): void {
  if (!(request.flags & MAPPED)) return;
  request.flags &= ~MAPPED;
  let at = segmentsOf(slot);
  const end = at + <u32>request.segments * SEGMENT_BYTES;
  for (; at < end; at += SEGMENT_BYTES) leavePage(load<u16>(at, SEGMENT_PAGE));
}

function allMapped(slot: u32, request: Request): bool {
  let at = segmentsOf(slot);
  const end = at + <u32>request.segments * SEGMENT_BYTES;
  for (; at < end; at += SEGMENT_BYTES) if (!isMapped(load<u16>(at, SEGMENT_PAGE))) return false;
  return true;
}

/** An ADMITTED request becomes MAPPING, COPYING or LOADED; it stays as it is when the copy table is full. */
export function placeData(slot: u32, request: Request): void {
  if (request.segments == 0) {
    request.state = LOADED;
    return;
  }
  if (persistent && !(request.flags & UNMAPPABLE) && useSegments(slot, request)) {
    request.flags |= MAPPED;
    request.state = MAPPING;
    settleMapping(slot, request, false);
    return;
  }
  copyIn(slot, request);
}

function copyIn(slot: u32, request: Request): void {
  if (request.operation == BLKIF_OP_READ) {
    request.state = LOADED;
    return;
  }
  if (!roomForCopies(request.segments)) return;
  copySegments(slot, false);
  request.state = COPYING;
}

/** A MAPPING request goes on if its pages are mapped, and falls back to copying once the host has `answered`. */
export function settleMapping(slot: u32, request: Request, answered: bool): void {
  if (allMapped(slot, request)) {
    releaseLarge(request);
    request.state = LOADED;
  } else if (answered) {
    leaveSegments(slot, request);
    request.flags |= UNMAPPABLE;
    request.state = ADMITTED;
    copyIn(slot, request);
  }
}
