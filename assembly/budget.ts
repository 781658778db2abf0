// What a pass may take up: the host's bound on its work, in segments and in bytes.
//
// A request costs its segments, at least one, and their bytes, each time that a pass takes it up: from the ring, where each
// segment counts as a page; after it had waited for another; and when its data, read from the disk, are copied to the
// guest. All that a pass looks up, copies, maps and hands to the disk is within what it has taken up. It takes up the next
// as long as some of both is left, so that any request can be taken up, and exceeds each by less than one request.
import {
  BLKIF_OP_DISCARD,
  CONFIG_PASS_BYTES,
  CONFIG_PASS_SEGMENTS,
  MAX_IO,
  MAX_SEGMENTS,
  OUT_PASS_BYTES,
  OUT_PASS_SEGMENTS,
} from "./abi";
import { Request } from "./request";

// Both numbers are in one, segments in the upper half, so that a request costs one addition and one comparison. What is
// left of a half is negative, by its highest bit, when it is used up; then nothing more is taken from it.
const NEGATIVE: u64 = 0x8000000080000000;
let budget: u64 = 0;
let left: u64 = 0;

export function beginBudget(): void {
  const segments = <u64>load<u32>(CONFIG_PASS_SEGMENTS) - 1;
  budget = left = (segments << 32) | (<u64>load<u32>(CONFIG_PASS_BYTES) - 1);
}

export function mayTakeUp(): bool {
  return (left & NEGATIVE) == 0;
}

/** A request from the ring. How much of their pages its segments name may not be known yet. */
export function takeUpNew(request: Request): void {
  const segments = <u64>request.segments;
  left -= (max<u64>(segments, 1) << 32) | (segments << 12);
}

/** A request that is valid. */
export function takeUpAgain(request: Request): void {
  const bytes = request.operation == BLKIF_OP_DISCARD ? 0 : (<u32>request.sectors) << 9;
  left -= (max<u64>(request.segments, 1) << 32) | bytes;
}

export function publishUse(): void {
  const used = budget - left;
  // By less than one request more than the host allows.
  assert(<u32>(used >> 32) < load<u32>(CONFIG_PASS_SEGMENTS) + <u32>MAX_SEGMENTS);
  assert(<u32>used < load<u32>(CONFIG_PASS_BYTES) + <u32>MAX_IO);
  store<u32>(OUT_PASS_SEGMENTS, <u32>(used >> 32));
  store<u32>(OUT_PASS_BYTES, <u32>used);
}
