// The order that the guest may rely on.
//
// Requests run concurrently and coalesce freely, except that a later one waits for an earlier one that it overlaps
// (where either changes the disk), a flush waits for the earlier changes, and a barrier waits for everything and
// everything waits for it. A request that must wait is HELD with the number of requests it waits for.
//
// Finding overlaps must cost nothing when there are none. A request outside the bounds of all that is active, as the
// next of a sequential stream is, conflicts with nothing. Inside them, a table counts, by a hash of the sector, the
// requests (and the changing requests) that are active there; only a hit makes us compare with each active request.
import {
  ACTIVE_SLOTS,
  ACTIVE_WORDS,
  BLKIF_OP_FLUSH_DISKCACHE,
  BLKIF_OP_READ,
  BLKIF_OP_WRITE_BARRIER,
  COUNT_HELD,
  HAZARD_BUCKETS,
  HAZARDS,
} from "./abi";
import { count } from "./counters";
import { ACTIVE, addToReady, enterState, Request, requestAt } from "./request";
import { ADMITTED, HELD, READY } from "./states";

let active: u32 = 0;
let changing: u32 = 0;
let barriers: u32 = 0;
let held: u32 = 0;
/** Requests ever admitted: 64 bits, because one that hangs can see any number of others pass. */
let admitted: u64 = 0;
/** Active requests that span too many buckets to be counted one by one (large discards). */
let wide: u32 = 0;
/** The sectors that requests, and changing ones, touched since none was active; they may be more than is touched now. */
let low: u64 = 0;
let high: u64 = 0;
let changingLow: u64 = 0;
let changingHigh: u64 = 0;

const BUCKET_SHIFT: u64 = 8;
const MAX_BUCKETS: u64 = 16;

/** What a bucket counts for a request that changes the disk, and for one that does not. */
const ONE_CHANGING: u32 = 0x10001;
const ONE: u32 = 1;
const CHANGING_BITS: u32 = 0xffff0000;

export function resetHazards(): void {
  active = changing = barriers = held = wide = 0;
  admitted = 0;
  memory.fill(HAZARDS, 0, HAZARD_BUCKETS * 4);
  memory.fill(ACTIVE_SLOTS, 0, ACTIVE_WORDS * 8);
}

function changes(request: Request): bool {
  return request.operation != BLKIF_OP_READ && request.sectors != 0;
}

function isBarrier(request: Request): bool {
  return request.operation == BLKIF_OP_WRITE_BARRIER;
}

function isFlush(request: Request): bool {
  return request.operation == BLKIF_OP_FLUSH_DISKCACHE;
}

/**
 * `a` has sectors. Both have been checked against the size of the disk, so the sums cannot wrap; one without sectors may
 * hold any number.
 */
function overlap(a: Request, b: Request): bool {
  assert(a.sectors != 0);
  return b.sectors != 0 && a.sector < b.sector + b.sectors && b.sector < a.sector + a.sectors;
}

function mustFollow(later: Request, earlier: Request): bool {
  if (isBarrier(later) || isBarrier(earlier)) return true;
  if (isFlush(later) && changes(earlier)) return true;
  // If `later` has no sectors it is a flush, and `earlier` changes nothing.
  return (changes(later) || changes(earlier)) && overlap(later, earlier);
}

function isWide(request: Request): bool {
  return (
    ((request.sector + request.sectors) >> BUCKET_SHIFT) - (request.sector >> BUCKET_SHIFT) >= MAX_BUCKETS
  );
}

function bucketAt(bucket: u64): u32 {
  return HAZARDS + ((<u32>bucket & (HAZARD_BUCKETS - 1)) << 2);
}

/** Adds `by` to the buckets of a request that is not wide. */
function mark(request: Request, by: u32): void {
  const last = (request.sector + request.sectors - 1) >> BUCKET_SHIFT;
  for (let bucket = request.sector >> BUCKET_SHIFT; bucket <= last; bucket++) {
    const at = bucketAt(bucket);
    store<u32>(at, load<u32>(at) + by);
  }
}

function marked(request: Request, bits: u32): bool {
  const last = (request.sector + request.sectors - 1) >> BUCKET_SHIFT;
  for (let bucket = request.sector >> BUCKET_SHIFT; bucket <= last; bucket++) {
    if (load<u32>(bucketAt(bucket)) & bits) return true;
  }
  return false;
}

/** False only if no active request can conflict. */
function mayConflict(request: Request, writer: bool): bool {
  if (active == 0) return false;
  if (barriers != 0 || isBarrier(request)) return true;
  if (isFlush(request) && changing != 0) return true;
  if (request.sectors == 0 || !(writer || changing != 0)) return false;
  const end = request.sector + request.sectors;
  if (writer ? request.sector >= high || end <= low : request.sector >= changingHigh || end <= changingLow) {
    return false;
  }
  if (wide != 0 || isWide(request)) return true;
  return marked(request, writer ? u32.MAX_VALUE : CHANGING_BITS);
}

function widenBounds(request: Request, writer: bool): void {
  const end = request.sector + request.sectors;
  if (active == 0) {
    low = request.sector;
    high = end;
  } else {
    low = min(low, request.sector);
    high = max(high, end);
  }
  if (!writer) return;
  if (changing == 0) {
    changingLow = request.sector;
    changingHigh = end;
  } else {
    changingLow = min(changingLow, request.sector);
    changingHigh = max(changingHigh, end);
  }
}

function note(request: Request, writer: bool, by: i32): void {
  // Never less than none.
  assert(by > 0 || active != 0);
  active += by;
  if (isBarrier(request)) barriers += by;
  if (request.sectors == 0) return;
  if (writer) changing += by;
  if (isWide(request)) wide += by;
  else mark(request, (writer ? ONE_CHANGING : ONE) * by);
}

function wordOf(slot: u32): u32 {
  return ACTIVE_SLOTS + ((slot >> 6) << 3);
}

function countEarlier(request: Request): u16 {
  let waits: u16 = 0;
  for (let word: u32 = 0; word < <u32>ACTIVE_WORDS; word++) {
    for (let left = load<u64>(ACTIVE_SLOTS + (word << 3)); left != 0; left &= left - 1) {
      if (mustFollow(request, requestAt((word << 6) + <u32>ctz(left)))) waits++;
    }
  }
  return waits;
}

/** Lets a valid request in, in ring order: it becomes ADMITTED or HELD. */
export function admit(slot: u32): void {
  const request = requestAt(slot);
  assert(!(request.flags & ACTIVE));
  const writer = changes(request);
  const waits = mayConflict(request, writer) ? countEarlier(request) : 0;
  if (request.sectors != 0) widenBounds(request, writer);
  note(request, writer, 1);
  const word = wordOf(slot);
  store<u64>(word, load<u64>(word) | ((<u64>1) << (slot & 63)));
  request.flags |= ACTIVE;
  request.order = ++admitted;
  request.waits = waits;
  enterState(request, waits ? HELD : ADMITTED);
  if (waits) {
    held++;
    count(COUNT_HELD, 1);
  }
}

/** A request has had its effect (or failed): those that waited for it may become ready. */
export function retire(slot: u32): void {
  const request = requestAt(slot);
  assert((request.flags & ACTIVE) != 0);
  const word = wordOf(slot);
  store<u64>(word, load<u64>(word) & ~((<u64>1) << (slot & 63)));
  request.flags &= ~ACTIVE;
  note(request, changes(request), -1);
  if (held != 0) releaseHeld(request);
}

function releaseHeld(request: Request): void {
  for (let word: u32 = 0; word < <u32>ACTIVE_WORDS; word++) {
    for (let left = load<u64>(ACTIVE_SLOTS + (word << 3)); left != 0; left &= left - 1) {
      const slot = (word << 6) + <u32>ctz(left);
      const other = requestAt(slot);
      if (other.state != HELD || other.order < request.order || !mustFollow(other, request)) continue;
      assert(other.waits != 0 && held != 0);
      if (--other.waits == 0) {
        enterState(other, READY);
        held--;
        addToReady(slot);
      }
    }
  }
}
