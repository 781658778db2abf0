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
  COPY_LENGTH,
  COPY_OWNERS,
  COPY_SOURCE,
  COPY_SOURCE_GREF,
  COPY_STATUS,
  COUNT_COPIES,
  FEATURE_PERSISTENT,
  MAX_COPIES,
  MAX_SEGMENTS,
  PAGE,
  SEGMENT_BYTES,
  SEGMENT_FIRST,
  SEGMENT_LAST,
} from "./abi";
import { count } from "./counters";
import { ALL_MAPPED, areMapped, leavePages, NO_ROOM, usePages } from "./persistent";
import {
  dataOf,
  enterState,
  FAULT,
  MAPPED,
  Request,
  releaseLarge,
  requestAt,
  segmentsEnd,
  segmentsOf,
  UNMAPPABLE,
} from "./request";
import { areWhole } from "./segments";
import { ADMITTED, COPYING, LOADED, MAPPING } from "./states";

/** Grant copies asked for in this round. */
export let copies: u32 = 0;
let base: u64 = 0;
/** The frontend's domid, where a grant side has it. */
let domid: u64 = 0;
/** Status -1, where the last u64 of a copy has it. */
const UNANSWERED: u64 = 0xffff00000000;
let persistent: bool = false;

export function configureData(): void {
  base = load<u64>(CONFIG_BASE);
  domid = (<u64>load<u32>(CONFIG_DOMID)) << 48;
  persistent = (load<u32>(CONFIG_FEATURES) & FEATURE_PERSISTENT) != 0;
  copies = 0;
}

export function roomForCopies(wanted: u32): bool {
  return copies + wanted <= <u32>MAX_COPIES;
}

/** The last u64 of a copy: length, flags, and a status that says no, lest a host that writes none makes us trust it. */
function lengthAndFlags(bytes: u32, flags: u32): u64 {
  return UNANSWERED | <u64>((flags << 16) | bytes);
}

/** Asks for the private copy of an indirect page's segments, straight into the slot's table. */
export function fetchSegments(slot: u32, segments: u32, gref: u32): void {
  assert(roomForCopies(1) && segments <= <u32>MAX_SEGMENTS);
  const at = COPIES + copies * COPY_BYTES;
  store<u64>(at, <u64>gref | domid, COPY_SOURCE);
  store<u64>(at, base + segmentsOf(slot), COPY_DEST);
  store<u64>(at, lengthAndFlags(segments * SEGMENT_BYTES, COPY_SOURCE_GREF), COPY_LENGTH);
  store<u16>(COPY_OWNERS + (copies << 1), slot);
  copies++;
}

/** Asks for the copies of all of a request's segments. The caller has made sure that there is room. */
export function copySegments(slot: u32, toGuest: bool): void {
  const request = requestAt(slot);
  assert(roomForCopies(request.segments) && !(request.flags & MAPPED));
  const done = ASC_FEATURE_SIMD && areWhole(request) ? copyByTwos(slot, request, toGuest) : 0;
  copyByOnes(slot, request, toGuest, done);
  copies += request.segments;
}

/** From segment `done` on; those before it are whole pages. */
function copyByOnes(slot: u32, request: Request, toGuest: bool, done: u32): void {
  // The sides of a struct gntdev_grant_copy_segment; a grant side is {ref, offset, domid} in one u64.
  const grantSide: u32 = toGuest ? COPY_DEST : COPY_SOURCE;
  const localSide: u32 = toGuest ? COPY_SOURCE : COPY_DEST;
  const flags = toGuest ? COPY_DEST_GREF : COPY_SOURCE_GREF;
  const end = segmentsEnd(slot, request);
  let local = base + dataOf(slot, request) + done * PAGE;
  let at = COPIES + (copies + done) * COPY_BYTES;
  let owner = COPY_OWNERS + ((copies + done) << 1);
  for (let segment = segmentsOf(slot) + done * SEGMENT_BYTES; segment < end; segment += SEGMENT_BYTES) {
    const first = <u32>load<u8>(segment, SEGMENT_FIRST);
    const bytes = (<u32>load<u8>(segment, SEGMENT_LAST) - first + 1) << 9;
    // The offset, first_sect * 512, begins at bit 32.
    store<u64>(at + grantSide, <u64>load<u32>(segment) | ((<u64>first) << 41) | domid);
    store<u64>(at + localSide, local);
    store<u64>(at, lengthAndFlags(bytes, flags), COPY_LENGTH);
    store<u16>(owner, slot);
    local += bytes;
    at += COPY_BYTES;
    owner += 2;
  }
  // One behind the other, from the first byte to the last.
  assert(local == base + dataOf(slot, request) + (request.sectors << 9));
}

/** As copyByOnes, where all segments are whole pages: how many it has done, all but one at most. */
function copyByTwos(slot: u32, request: Request, toGuest: bool): u32 {
  const segments = <u32>request.segments & ~1;
  // Two grant sides, two local sides, and one word that is the same for all.
  const constant = lengthAndFlags(PAGE, toGuest ? COPY_DEST_GREF : COPY_SOURCE_GREF);
  const owners = slot | (slot << 16);
  const domids = i64x2.splat(domid);
  const end = segmentsOf(slot) + segments * SEGMENT_BYTES;
  let locals = i64x2.add(i64x2.splat(base + dataOf(slot, request)), i64x2(0, PAGE));
  let at = COPIES + copies * COPY_BYTES;
  let owner = COPY_OWNERS + (copies << 1);
  for (let segment = segmentsOf(slot); segment < end; segment += 2 * SEGMENT_BYTES) {
    const grants = v128.or(i64x2.shr_u(i64x2.shl(v128.load(segment), 32), 32), domids);
    const sources = toGuest ? locals : grants;
    const destinations = toGuest ? grants : locals;
    v128.store(at, v128.shuffle<i64>(sources, destinations, 0, 2));
    store<u64>(at, constant, COPY_LENGTH);
    v128.store(at, v128.shuffle<i64>(sources, destinations, 1, 3), COPY_BYTES);
    store<u64>(at, constant, COPY_BYTES + COPY_LENGTH);
    store<u32>(owner, owners);
    locals = i64x2.add(locals, i64x2.splat(2 * PAGE));
    at += 2 * COPY_BYTES;
    owner += 4;
  }
  return segments;
}

function statusOf(copy: u32): u32 {
  return load<u16>(COPIES + copy * COPY_BYTES, COPY_STATUS);
}

/** Marks the requests of copies that failed. */
export function settleCopies(): void {
  assert(copies <= <u32>MAX_COPIES);
  // Mostly none has: four statuses cost one branch.
  let i: u32 = 0;
  for (; i + 4 <= copies; i += 4) {
    if (statusOf(i) | statusOf(i + 1) | statusOf(i + 2) | statusOf(i + 3)) markFaults(i, i + 4);
  }
  markFaults(i, copies);
  count(COUNT_COPIES, copies);
  copies = 0;
}

function markFaults(from: u32, to: u32): void {
  for (let i = from; i < to; i++) {
    if (statusOf(i)) requestAt(load<u16>(COPY_OWNERS + (i << 1))).flags |= FAULT;
  }
}

/** Lets go of a request's mapped pages. */
export function leaveSegments(slot: u32, request: Request): void {
  if (!(request.flags & MAPPED)) return;
  request.flags &= ~MAPPED;
  leavePages(segmentsOf(slot), segmentsEnd(slot, request));
}

/** An ADMITTED request becomes MAPPING, COPYING or LOADED; it stays as it is when the copy table is full. */
export function placeData(slot: u32, request: Request): void {
  assert(!(request.flags & MAPPED));
  if (request.segments == 0) {
    enterState(request, LOADED);
    return;
  }
  const found =
    persistent && !(request.flags & UNMAPPABLE)
      ? usePages(segmentsOf(slot), segmentsEnd(slot, request))
      : NO_ROOM;
  if (found == NO_ROOM) {
    copyIn(slot, request);
    return;
  }
  request.flags |= MAPPED;
  enterState(request, MAPPING);
  if (found == ALL_MAPPED) mapped(request);
}

function copyIn(slot: u32, request: Request): void {
  if (request.operation == BLKIF_OP_READ) {
    enterState(request, LOADED);
    return;
  }
  if (!roomForCopies(request.segments)) return;
  copySegments(slot, false);
  enterState(request, COPYING);
}

function mapped(request: Request): void {
  assert((request.flags & MAPPED) != 0);
  releaseLarge(request);
  enterState(request, LOADED);
}

/** The host has answered: a MAPPING request goes on if its pages are mapped, and otherwise falls back to copying. */
export function settleMapping(slot: u32, request: Request): void {
  if (areMapped(segmentsOf(slot), segmentsEnd(slot, request))) {
    mapped(request);
    return;
  }
  leaveSegments(slot, request);
  request.flags |= UNMAPPABLE;
  enterState(request, ADMITTED);
  copyIn(slot, request);
}
