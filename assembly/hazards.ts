// The order that the guest may rely on.
//
// Requests run concurrently and coalesce freely, except that a later one waits for an earlier one that it overlaps
// (where either changes the disk), a flush waits for the earlier changes, and a barrier waits for everything and
// everything waits for it. A request that must wait is HELD with the number of requests it waits for.
//
// Finding overlaps must cost nothing when there are none: two tables count, by a hash of the sector, the requests
// (and the changing requests) that are active there. Only a hit makes us compare with each active request.
import {
  BLKIF_OP_FLUSH_DISKCACHE,
  BLKIF_OP_READ,
  BLKIF_OP_WRITE_BARRIER,
  COUNT_HELD,
  HAZARD_ANY,
  HAZARD_BUCKETS,
  HAZARD_WRITERS,
} from "./abi";
import { count } from "./counters";
import { ACTIVE, ADMITTED, addToReady, HELD, READY, Request, requestAt } from "./request";

let slots: u32 = 0;
let active: u32 = 0;
let changing: u32 = 0;
let barriers: u32 = 0;
let held: u32 = 0;
/** Requests ever admitted: 64 bits, because one that hangs can see any number of others pass. */
let admitted: u64 = 0;
/** Active requests that span too many buckets to be counted one by one (large discards). */
let wide: u32 = 0;

const BUCKET_SHIFT: u64 = 8;
const MAX_BUCKETS: u64 = 16;

export function resetHazards(entries: u32): void {
  slots = entries;
  active = changing = barriers = held = wide = 0;
  admitted = 0;
  memory.fill(HAZARD_ANY, 0, HAZARD_BUCKETS * 4);
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

/** Both have been checked against the size of the disk, so the sums cannot wrap. */
function overlap(a: Request, b: Request): bool {
  return (
    a.sectors != 0 && b.sectors != 0 && a.sector < b.sector + b.sectors && b.sector < a.sector + a.sectors
  );
}

function mustFollow(later: Request, earlier: Request): bool {
  if (isBarrier(later) || isBarrier(earlier)) return true;
  if (isFlush(later) && changes(earlier)) return true;
  return (changes(later) || changes(earlier)) && overlap(later, earlier);
}

function isWide(request: Request): bool {
  return (
    ((request.sector + request.sectors) >> BUCKET_SHIFT) - (request.sector >> BUCKET_SHIFT) >= MAX_BUCKETS
  );
}

/** Adds `by` to the buckets of a request that is not wide. */
function mark(table: u32, request: Request, by: i32): void {
  const last = (request.sector + request.sectors - 1) >> BUCKET_SHIFT;
  for (let bucket = request.sector >> BUCKET_SHIFT; bucket <= last; bucket++) {
    const at = table + ((<u32>bucket & (HAZARD_BUCKETS - 1)) << 1);
    store<u16>(at, load<u16>(at) + by);
  }
}

function marked(table: u32, request: Request): bool {
  const last = (request.sector + request.sectors - 1) >> BUCKET_SHIFT;
  for (let bucket = request.sector >> BUCKET_SHIFT; bucket <= last; bucket++) {
    if (load<u16>(table + ((<u32>bucket & (HAZARD_BUCKETS - 1)) << 1))) return true;
  }
  return false;
}

/** False only if no active request can conflict. */
function mayConflict(request: Request): bool {
  if (active == 0) return false;
  if (barriers != 0 || isBarrier(request)) return true;
  if (isFlush(request) && changing != 0) return true;
  if (request.sectors == 0) return false;
  if (wide != 0 || isWide(request)) return true;
  return marked(changes(request) ? HAZARD_ANY : HAZARD_WRITERS, request);
}

function note(request: Request, by: i32): void {
  active += by;
  if (isBarrier(request)) barriers += by;
  if (request.sectors == 0) return;
  const writer = changes(request);
  if (writer) changing += by;
  if (isWide(request)) {
    wide += by;
    return;
  }
  mark(HAZARD_ANY, request, by);
  if (writer) mark(HAZARD_WRITERS, request, by);
}

/** Lets a valid request in, in ring order: it becomes ADMITTED or HELD. */
export function admit(slot: u32): void {
  const request = requestAt(slot);
  let waits: u16 = 0;
  if (mayConflict(request)) {
    for (let s: u32 = 0; s < slots; s++) {
      const other = requestAt(s);
      if (other.flags & ACTIVE && mustFollow(request, other)) waits++;
    }
  }
  note(request, 1);
  request.flags |= ACTIVE;
  request.order = ++admitted;
  request.waits = waits;
  request.state = waits ? HELD : ADMITTED;
  if (waits) {
    held++;
    count(COUNT_HELD, 1);
  }
}

/** A request has had its effect (or failed): those that waited for it may become ready. */
export function retire(slot: u32): void {
  const request = requestAt(slot);
  request.flags &= ~ACTIVE;
  note(request, -1);
  if (held == 0) return;
  for (let s: u32 = 0; s < slots; s++) {
    const other = requestAt(s);
    if (other.state != HELD || other.order < request.order || !mustFollow(other, request)) continue;
    if (--other.waits == 0) {
      other.state = READY;
      held--;
      addToReady(s);
    }
  }
}
