// The I/Os that the core asks for: is each one what its requests say, and may it start now?
import {
  BLKIF_OP_WRITE_BARRIER,
  COMPLETIONS,
  CONFIG_FEATURES,
  CONFIG_MAX_IO,
  CONFIG_SECTOR_UNITS,
  FEATURE_DISCARD,
  FEATURE_READ_ONLY,
  IO_DISCARD,
  IO_FLUSH,
  IO_LIST,
  IO_PREFLUSH,
  IO_READ,
  IO_WRITE,
  IOVEC_BYTES,
  IOVECS,
  IOVECS_PER_SLOT,
  JOURNAL_ENTRIES,
  JOURNAL_ENTRY_BYTES,
  JOURNAL_INDEX,
  JOURNAL_REQUEST,
  MAX_SLOTS,
  OUT_IOS,
  PAGE,
  PERSISTENT,
  SEGMENT_BYTES,
} from "../abi";
import { Io, ioAt } from "../coalesce";
import { sectorOffset } from "../layout";
import { dataOf, MAPPED, Request, requestAt, segmentsOf } from "../request";
import { BUSY } from "../states";
import { BAD_IO, BAD_IOVEC, BAD_ORDER, BAD_RANGE } from "./format";
import { BASE, isMappedMemory } from "./grants";
import { readU8, readU16 } from "./input";
import { endLine, field, line } from "./log";
import { UNDERWAY } from "./memory";
import { check } from "./violation";

let underway: u32 = 0;
let completions: u32 = 0;
/** The largest that the disk has been. */
let largest: u64 = 0;
/** Where the comparison of an I/O's iovecs with its requests' memory stands. */
let iovec: u32 = 0;
let iovecEnd: u32 = 0;
let address: u64 = 0;
let left: u64 = 0;

export function beginIos(sectors: u64): void {
  underway = completions = 0;
  largest = sectors;
}

export function noteSize(sectors: u64): void {
  largest = max(largest, sectors);
}

export function isIdle(): bool {
  return underway == 0;
}

export function hasCompletions(): bool {
  return completions != 0;
}

/** How many completions the next call of the core is told of. */
export function takeCompletions(): u32 {
  const n = completions;
  completions = 0;
  return n;
}

export function playComplete(): void {
  const which = readU16();
  const result = readU8() & 3;
  if (underway != 0) completeIo(which % underway, result);
}

/** The core must take no notice where there is no such I/O. As many completions fit as there can be I/Os. */
export function playEnded(): void {
  const slot = readU16();
  const result = readU8() & 3;
  for (let i: u32 = 0; i < underway; i++) {
    if (load<u16>(UNDERWAY + (i << 1)) != slot) continue;
    completeIo(i, result);
    return;
  }
  if (completions + underway < <u32>MAX_SLOTS)
    store<u32>(COMPLETIONS + (completions++ << 2), slot | (result << 16));
}

export function completeIo(position: u32, result: u32): void {
  const at = UNDERWAY + (position << 1);
  store<u32>(COMPLETIONS + (completions++ << 2), <u32>load<u16>(at) | (result << 16));
  underway--;
  memory.copy(at, at + 2, (underway - position) << 1);
}

export function startIos(): void {
  const count = load<u32>(OUT_IOS);
  for (let i: u32 = 0; i < count; i++) {
    const slot = <u32>load<u16>(IO_LIST + (i << 1));
    const io = ioAt(slot);
    logIo(slot, io);
    check(isBusy(slot, io), BAD_IO);
    checkKind(io);
    checkRange(io);
    checkMemory(slot, io);
    for (let j: u32 = 0; j < underway; j++) checkOrder(slot, io, load<u16>(UNDERWAY + (j << 1)));
    store<u16>(UNDERWAY + (underway++ << 1), slot);
  }
}

function tableOf(slot: u32): u32 {
  return IOVECS + slot * (IOVECS_PER_SLOT * IOVEC_BYTES);
}

function logIo(slot: u32, io: Io): void {
  line("io");
  field(slot);
  field(io.operation);
  field(io.flags);
  // A flush has no place on the disk, and its request may hold any number.
  field(io.operation == IO_FLUSH ? 0 : io.sector);
  field(io.sectors);
  field(io.requests);
  for (let i: u32 = 0; i < min<u32>(io.iovecs, IOVECS_PER_SLOT); i++) {
    field(load<u64>(tableOf(slot) + i * IOVEC_BYTES) - BASE);
    field(load<u64>(tableOf(slot) + i * IOVEC_BYTES, 8));
  }
  endLine();
}

/** Every request that it carries is part of an I/O, and none of another one that is under way. */
function isBusy(slot: u32, io: Io): bool {
  for (let i: u32 = 0; i < underway; i++) if (load<u16>(UNDERWAY + (i << 1)) == slot) return false;
  let at = slot;
  for (let i: u32 = 0; i < io.requests; i++) {
    if (requestAt(at).state != BUSY) return false;
    at = requestAt(at).next;
  }
  return io.requests != 0;
}

function changesDisk(io: Io): bool {
  return io.operation == IO_WRITE || io.operation == IO_DISCARD;
}

function checkKind(io: Io): void {
  const features = load<u32>(CONFIG_FEATURES);
  check(io.operation <= <u8>IO_DISCARD, BAD_IO);
  check(io.flags == 0 || changesDisk(io), BAD_IO);
  if (features & FEATURE_READ_ONLY) check(!changesDisk(io), BAD_IO);
  if (io.operation == IO_DISCARD) check((features & FEATURE_DISCARD) != 0, BAD_IO);
}

function checkRange(io: Io): void {
  if (io.operation == IO_FLUSH) return;
  const units: u64 = load<u32>(CONFIG_SECTOR_UNITS);
  check(io.sectors != 0 && io.sector <= largest && io.sectors <= largest - io.sector, BAD_RANGE);
  check(((io.sector | io.sectors) & (units - 1)) == 0, BAD_RANGE);
}

/** The iovecs are the memory of the requests, one behind the other, as their ring entries place them on the disk. */
function checkMemory(slot: u32, io: Io): void {
  if (io.operation != IO_READ && io.operation != IO_WRITE) {
    check(io.iovecs == 0 && io.length == 0 && io.requests == 1, BAD_IOVEC);
    return;
  }
  check(io.iovecs != 0 && io.iovecs <= <u16>IOVECS_PER_SLOT && <u64>io.length == io.sectors << 9, BAD_IOVEC);
  check(io.requests == 1 || io.length <= load<u32>(CONFIG_MAX_IO), BAD_IOVEC);
  iovec = tableOf(slot);
  iovecEnd = iovec + <u32>io.iovecs * IOVEC_BYTES;
  left = 0;
  let sector = io.sector;
  let at = slot;
  for (let i: u32 = 0; i < io.requests; i++) {
    const request = requestAt(at);
    const entry = JOURNAL_ENTRIES + at * JOURNAL_ENTRY_BYTES + JOURNAL_REQUEST;
    check(load<u64>(entry + sectorOffset) == sector, BAD_RANGE);
    walkRequest(at, request);
    sector += request.sectors;
    at = request.next;
  }
  check(sector == io.sector + io.sectors && left == 0 && iovec == iovecEnd, BAD_IOVEC);
}

function walkRequest(slot: u32, request: Request): void {
  if (!(request.flags & MAPPED)) {
    walk(dataOf(slot, request), request.sectors << 9);
    return;
  }
  for (let i: u32 = 0; i < request.segments; i++) {
    const segment = segmentsOf(slot) + i * SEGMENT_BYTES;
    const first = <u64>load<u8>(segment, 4);
    const at = <u64>(PERSISTENT + <u32>load<u16>(segment, 6) * PAGE) + (first << 9);
    const bytes = (<u64>load<u8>(segment, 5) - first + 1) << 9;
    check(isMappedMemory(at, bytes, PERSISTENT), BAD_IOVEC);
    walk(at, bytes);
  }
}

/** The next `bytes` of the iovecs must be these. */
function walk(expected: u64, bytes: u64): void {
  while (bytes != 0) {
    if (left == 0) {
      check(iovec < iovecEnd, BAD_IOVEC);
      address = load<u64>(iovec) - BASE;
      left = load<u64>(iovec, 8);
      iovec += IOVEC_BYTES;
    }
    const part = min(left, bytes);
    check(part != 0 && address == expected, BAD_IOVEC);
    address += part;
    expected += part;
    left -= part;
    bytes -= part;
  }
}

function indexOf(slot: u32): u32 {
  return load<u32>(JOURNAL_ENTRIES + slot * JOURNAL_ENTRY_BYTES, JOURNAL_INDEX);
}

function isBarrier(slot: u32): bool {
  return requestAt(slot).operation == BLKIF_OP_WRITE_BARRIER;
}

/** Two I/Os may be under way together unless they overlap and one changes the disk, or one bars or flushes. */
function checkOrder(slot: u32, io: Io, otherSlot: u32): void {
  const other = ioAt(otherSlot);
  check(!isBarrier(slot) && !isBarrier(otherSlot), BAD_ORDER);
  const apart = io.sector + io.sectors <= other.sector || other.sector + other.sectors <= io.sector;
  const harmless = !changesDisk(io) && !changesDisk(other);
  check(harmless || apart || io.operation == IO_FLUSH || other.operation == IO_FLUSH, BAD_ORDER);
  if (io.operation != IO_FLUSH && !(io.flags & IO_PREFLUSH)) return;
  if (!changesDisk(other)) return;
  for (let i: u32 = 0; i < other.requests; i++) {
    check(<i32>(indexOf(slot) - indexOf(otherSlot)) < 0, BAD_ORDER);
    otherSlot = requestAt(otherSlot).next;
  }
}
