// From loaded requests to as few I/Os as their sectors allow.
//
// A request joins the I/O before it when both read or both write and it starts where that one ends, as long as the
// I/O stays within its limits of bytes and iovecs. No two requests that are under way at once conflict (hazards.ts),
// so joining never changes what a reader can see. An I/O is named by the slot of its first request; the requests it
// carries are chained through `next`, in disk order.
import {
  BLKIF_OP_DISCARD,
  BLKIF_OP_FLUSH_DISKCACHE,
  BLKIF_OP_READ,
  BLKIF_OP_WRITE,
  BLKIF_OP_WRITE_BARRIER,
  CONFIG_BASE,
  CONFIG_MAX_IO,
  COUNT_IOS,
  COUNT_MERGED,
  DATA,
  IO_BYTES,
  IO_DISCARD,
  IO_FLUSH,
  IO_FUA,
  IO_LIST,
  IO_PREFLUSH,
  IO_READ,
  IO_SECURE,
  IO_WRITE,
  IOS,
  IOVEC_BYTES,
  IOVECS,
  IOVECS_PER_SLOT,
  MAX_SLOTS,
  MEMORY_BYTES,
  PAGE,
  PERSISTENT,
  SEGMENT_BYTES,
  SEGMENT_FIRST,
  SEGMENT_LAST,
  SEGMENT_PAGE,
} from "./abi";
import { count } from "./counters";
import {
  ALONE,
  dataOf,
  enterState,
  MAPPED,
  Request,
  requestAt,
  SECURE,
  segmentsEnd,
  segmentsOf,
} from "./request";
import { areNeighbours, areWhole } from "./segments";
import { BUSY } from "./states";

@unmanaged
export class Io {
  operation: u8;
  flags: u8;
  iovecs: u16;
  length: u32;
  sector: u64;
  sectors: u64;
  last: u16;
  requests: u16;
}

const NONE: u32 = 0xffff;

/** I/Os put into IO_LIST in this pass. */
export let ios: u32 = 0;
/** The I/O that the next read, or write, of this pass may join; NONE if there is none. `beginPlan` sets them. */
let openRead: u32 = 0;
let openWrite: u32 = 0;
let base: u64 = 0;
let maxBytes: u32 = 0;

export function configureCoalesce(): void {
  base = load<u64>(CONFIG_BASE);
  maxBytes = load<u32>(CONFIG_MAX_IO);
}

export function ioAt(slot: u32): Io {
  return changetype<Io>(IOS + slot * IO_BYTES);
}

export function beginPlan(): void {
  ios = 0;
  openRead = openWrite = NONE;
}

/** Puts a LOADED request into an I/O: an open one, or one of its own. */
export function plan(slot: u32, request: Request): void {
  const operation = request.operation;
  const joins = (operation == BLKIF_OP_READ || operation == BLKIF_OP_WRITE) && !(request.flags & ALONE);
  const open = operation == BLKIF_OP_READ ? openRead : openWrite;
  enterState(request, BUSY);
  if (joins && open != NONE && join(open, slot, request)) return;
  openIo(slot, request);
  if (!joins) return;
  if (operation == BLKIF_OP_READ) openRead = slot;
  else openWrite = slot;
}

function openIo(slot: u32, request: Request): void {
  const io = ioAt(slot);
  io.operation = <u8>operationOf(request);
  io.flags = <u8>flagsOf(request);
  io.sector = request.sector;
  io.sectors = request.sectors;
  io.last = <u16>slot;
  io.requests = 1;
  io.iovecs = 0;
  io.length = 0;
  if (request.segments != 0) {
    io.length = (<u32>request.sectors) << 9;
    io.iovecs = <u16>addIovecs(slot, 0, slot, request);
  }
  assert(ios < <u32>MAX_SLOTS);
  store<u16>(IO_LIST + (ios++ << 1), slot);
  count(COUNT_IOS, 1);
}

function operationOf(request: Request): i32 {
  if (request.operation == BLKIF_OP_READ) return IO_READ;
  if (request.operation == BLKIF_OP_DISCARD) return IO_DISCARD;
  return request.segments ? IO_WRITE : IO_FLUSH;
}

/** A flush or barrier with data is a write behind a flush; a barrier's is durable when it completes. */
function flagsOf(request: Request): i32 {
  if (request.operation == BLKIF_OP_DISCARD) return request.flags & SECURE ? IO_SECURE : 0;
  if (request.segments == 0) return 0;
  if (request.operation == BLKIF_OP_FLUSH_DISKCACHE) return IO_PREFLUSH;
  return request.operation == BLKIF_OP_WRITE_BARRIER ? IO_PREFLUSH | IO_FUA : 0;
}

function join(lead: u32, slot: u32, request: Request): bool {
  assert(lead != slot);
  const io = ioAt(lead);
  const bytes = (<u32>request.sectors) << 9;
  if (io.sector + io.sectors != request.sector || io.length + bytes > maxBytes) return false;
  // Counted at its worst, one iovec a segment, rather than built and taken back.
  const needed: u32 = request.flags & MAPPED ? request.segments : 1;
  if (<u32>io.iovecs + needed > <u32>IOVECS_PER_SLOT) return false;
  io.iovecs = <u16>addIovecs(lead, io.iovecs, slot, request);
  io.length += bytes;
  io.sectors += request.sectors;
  // Only the first request's slot names the I/O: a completion of another's has nothing to end.
  ioAt(slot).requests = 0;
  requestAt(io.last).next = <u16>slot;
  io.last = <u16>slot;
  io.requests++;
  count(COUNT_MERGED, 1);
  return true;
}

/** Where a request's memory begins if it is one piece, as it mostly is; else 0. */
function runOf(slot: u32, request: Request): u64 {
  if (!(request.flags & MAPPED)) return base + dataOf(slot, request);
  const segments = segmentsOf(slot);
  if (!areWhole(request) || !areNeighbours(segments, request.segments)) return 0;
  return base + PERSISTENT + <u32>load<u16>(segments, SEGMENT_PAGE) * PAGE;
}

/** Appends a request's memory to the iovecs of an I/O that has `used` of them; returns how many it has then. */
function addIovecs(lead: u32, used: u32, slot: u32, request: Request): u32 {
  const table = IOVECS + lead * (IOVECS_PER_SLOT * IOVEC_BYTES);
  // The last iovec, which grows as long as memory is contiguous; before the first there is an empty one nowhere.
  let last = table + used * IOVEC_BYTES - IOVEC_BYTES;
  let start: u64 = 0;
  let end: u64 = 0;
  if (used != 0) {
    start = load<u64>(last);
    end = start + load<u64>(last, 8);
  }
  const run = runOf(slot, request);
  if (run != 0) {
    if (run != end) {
      last += IOVEC_BYTES;
      start = end = run;
    }
    end += request.sectors << 9;
  } else {
    const pages = base + PERSISTENT;
    const past = segmentsEnd(slot, request);
    for (let at = segmentsOf(slot); at < past; at += SEGMENT_BYTES) {
      const first = <u32>load<u8>(at, SEGMENT_FIRST);
      const bytes = (<u32>load<u8>(at, SEGMENT_LAST) - first + 1) << 9;
      const address = pages + (<u32>load<u16>(at, SEGMENT_PAGE) * PAGE + (first << 9));
      if (address != end) {
        if (end != 0) writeIovec(last, start, end);
        last += IOVEC_BYTES;
        start = end = address;
      }
      end += bytes;
    }
  }
  writeIovec(last, start, end);
  assert(last < table + IOVECS_PER_SLOT * IOVEC_BYTES);
  return (last + IOVEC_BYTES - table) / IOVEC_BYTES;
}

function writeIovec(at: u32, start: u64, end: u64): void {
  // Of nothing that the core trusts: the data window, or the guest's pages.
  assert(start >= base + DATA && end > start && end <= base + MEMORY_BYTES);
  store<u64>(at, start);
  store<u64>(at, end - start, 8);
}
