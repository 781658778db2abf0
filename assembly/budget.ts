// What a pass may take up: the host's bound on its work, in segments and in bytes.
//
// A request costs its segments, at least one, and the bytes that they name, each time that a pass takes it up: from the
// ring; after it had waited for another; and when its data, read from the disk, are copied to the guest. All that a pass
// looks up, copies, maps and hands to the disk is within what it has taken up. It takes up the next as long as some of
// both is left, so that any request can be taken up, and exceeds each by less than one request.
import {
  BLKIF_OP_DISCARD,
  CONFIG_PASS_BYTES,
  CONFIG_PASS_SEGMENTS,
  OUT_PASS_BYTES,
  OUT_PASS_SEGMENTS,
  PAGE,
} from "./abi";
import { Request } from "./request";

let maxSegments: u32 = 0;
let maxBytes: u32 = 0;
let segments: u32 = 0;
let bytes: u32 = 0;

export function beginBudget(): void {
  maxSegments = load<u32>(CONFIG_PASS_SEGMENTS);
  maxBytes = load<u32>(CONFIG_PASS_BYTES);
  segments = bytes = 0;
}

export function mayTakeUp(): bool {
  return segments < maxSegments && bytes < maxBytes;
}

/** A request from the ring. How much of their pages its segments name is not known yet: all of it. */
export function takeUpNew(request: Request): void {
  segments += max<u32>(request.segments, 1);
  bytes += <u32>request.segments * PAGE;
}

/** Now it is known. */
export function correctBytes(request: Request): void {
  bytes -= <u32>request.segments * PAGE - bytesOf(request);
}

/** A request that is valid. */
export function takeUpAgain(request: Request): void {
  segments += max<u32>(request.segments, 1);
  bytes += bytesOf(request);
}

function bytesOf(request: Request): u32 {
  return request.operation == BLKIF_OP_DISCARD ? 0 : (<u32>request.sectors) << 9;
}

export function publishUse(): void {
  store<u32>(OUT_PASS_SEGMENTS, segments);
  store<u32>(OUT_PASS_BYTES, bytes);
}
