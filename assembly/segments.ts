// Passes over a request's segments, in their private copy: four at a time where there is SIMD, one at a time elsewhere. What
// goes one at a time is what is meant, the other has to come to the same (test/session/players.test.ts compares them).
import {
  MAX_DIRECT_SEGMENTS,
  MAX_SEGMENTS,
  PAGE,
  SEGMENT_BYTES,
  SEGMENT_FIRST,
  SEGMENT_LAST,
  SEGMENT_PAGE,
} from "./abi";
import { Request, segmentsEnd, segmentsOf } from "./request";

/** Sectors of a page; first_sect and last_sect are below it. */
const PAGE_SECTORS = PAGE >> 9;
const FOUR = 4 * SEGMENT_BYTES;

/**
 * Copies the segments of a plain request, of which there may be 11, to the slot's table. More than one: all of them,
 * without a loop, whose turns would cost more than the copying.
 */
export function copyDirect(slot: u32, from: u32, segments: u32): void {
  assert(segments <= <u32>MAX_DIRECT_SEGMENTS);
  const to = segmentsOf(slot);
  store<u64>(to, load<u64>(from));
  if (segments <= 1) return;
  copy80(to + 8, from + 8);
}

function copy80(to: u32, from: u32): void {
  copy16(to, from);
  copy16(to + 16, from + 16);
  copy16(to + 32, from + 32);
  copy16(to + 48, from + 48);
  copy16(to + 64, from + 64);
}

export function copy16(to: u32, from: u32): void {
  if (ASC_FEATURE_SIMD) v128.store(to, v128.load(from));
  else {
    store<u64>(to, load<u64>(from));
    store<u64>(to, load<u64>(from, 8), 8);
  }
}

/** The second half of four segments: first_sect and last_sect, and the page of the persistent window, in 32 bits each. */
function secondHalves(at: u32): v128 {
  return v128.shuffle<i32>(v128.load(at), v128.load(at, 16), 1, 3, 5, 7);
}

/** Sums and checks the slot's segments: 0 if one is bad, else the sectors of all. At most 256 * 8, so no overflow. */
export function sumSegments(slot: u32, request: Request, alignment: u32): u32 {
  const at = segmentsOf(slot);
  if (ASC_FEATURE_SIMD && request.segments > 1) return sumByFours(at, request.segments, alignment);
  return sumByOnes(at, segmentsEnd(slot, request), alignment);
}

/** Without branches: a difference is negative, or a bit set that must be clear, if a segment is bad. */
function sumByOnes(at: u32, end: u32, alignment: u32): u32 {
  let total: u32 = 0;
  let negative: i32 = 0;
  let unaligned: u32 = 0;
  for (let segment = at; segment < end; segment += SEGMENT_BYTES) {
    const first = <i32>load<u8>(segment, SEGMENT_FIRST);
    const last = <i32>load<u8>(segment, SEGMENT_LAST);
    negative |= (PAGE_SECTORS - 1 - last) | (last - first);
    unaligned |= first | (last + 1);
    total += last - first + 1;
  }
  return negative < 0 || (unaligned & alignment) != 0 ? 0 : total;
}

/**
 * As sumByOnes. What is the same for all segments is only looked at in the end: a bit that any of them has set, and
 * one that any has clear. Shifts rather than masks, because V8 makes a constant anew in every turn.
 */
function sumByFours(at: u32, segments: u32, alignment: u32): u32 {
  assert(segments != 0 && segments <= <u32>MAX_SEGMENTS);
  const last = at + ((segments - 1) & ~3) * SEGMENT_BYTES;
  let any = i32x4.splat(0);
  let all = i32x4.splat(-1);
  let negatives = i32x4.splat(0);
  let totals = i32x4.splat(0);
  for (; at < last; at += FOUR) {
    const four = secondHalves(at);
    const difference = lastsLessFirsts(four);
    any = v128.or(any, four);
    all = v128.and(all, four);
    negatives = v128.or(negatives, difference);
    totals = i32x4.add(totals, difference);
  }
  // The last one to four; what lies behind them counts as nothing.
  const there = i32x4.lt_u(i32x4(0, 1, 2, 3), i32x4.splat(((segments - 1) & 3) + 1));
  const four = v128.and(secondHalves(last), there);
  const difference = lastsLessFirsts(four);
  any = v128.or(any, four);
  all = v128.and(all, v128.or(four, v128.not(there)));
  negatives = v128.or(negatives, difference);
  totals = i32x4.add(totals, difference);
  const beyond = (PAGE_SECTORS - 1) ^ 255;
  const clear = v128.and(any, i32x4.splat(beyond | (beyond << 8) | alignment));
  const set = v128.andnot(i32x4.splat(alignment << 8), all);
  if (v128.any_true(v128.or(clear, set)) || i32x4.bitmask(negatives)) return 0;
  totals = i32x4.add(totals, v128.shuffle<i32>(totals, totals, 2, 3, 0, 1));
  return i32x4.extract_lane(totals, 0) + i32x4.extract_lane(totals, 1) + segments;
}

function lastsLessFirsts(four: v128): v128 {
  return i32x4.sub(i32x4.shr_u(i32x4.shl(four, 16), 24), i32x4.shr_u(i32x4.shl(four, 24), 24));
}

/** Whether every segment of a valid request is a whole page. */
export function areWhole(request: Request): bool {
  return <u32>request.sectors == <u32>request.segments * PAGE_SECTORS;
}

/** Whether whole segments lie on pages of the persistent window that are neighbours, in their order. */
export function areNeighbours(at: u32, segments: u32): bool {
  assert(segments != 0);
  return ASC_FEATURE_SIMD && segments >= 4
    ? areNeighboursByFours(at, segments)
    : areNeighboursByOnes(at, segments);
}

function areNeighboursByOnes(at: u32, segments: u32): bool {
  const past = at + segments * SEGMENT_BYTES;
  for (; at + SEGMENT_BYTES < past; at += SEGMENT_BYTES) {
    if (load<u16>(at, SEGMENT_PAGE) + 1 != load<u16>(at + SEGMENT_BYTES, SEGMENT_PAGE)) return false;
  }
  return true;
}

function areNeighboursByFours(at: u32, segments: u32): bool {
  // Where four pages are neighbours, the halves that hold their numbers differ by 1, 2 and 3 from the first.
  const from = i32x4.splat(load<u32>(at, 4));
  const last = segments - 4;
  let differences = i32x4.splat(0);
  for (let i: u32 = 0; ; i = min(i + 4, last)) {
    const expected = i32x4.add(i32x4(0, 1 << 16, 2 << 16, 3 << 16), i32x4.splat(i << 16));
    differences = v128.or(
      differences,
      v128.xor(i32x4.sub(secondHalves(at + i * SEGMENT_BYTES), from), expected),
    );
    if (i == last) break;
  }
  return !v128.any_true(differences);
}
