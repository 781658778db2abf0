/** A transfer in parts that a server takes. */
import type { Limits } from "./store.js";
import type { Segment } from "./virtqueue.js";

/**
 * The segments of a transfer as those of one request or more, each of whole sectors. Segments are multiples of 512 bytes;
 * the limits are such that a request holds a sector, however it is scattered ({@link holdsSector}).
 */
export function cut(
  whole: readonly Segment[],
  { segments, segmentBytes, sectorSize }: Pick<Limits, "segments" | "segmentBytes" | "sectorSize">,
): (readonly Segment[])[] {
  if (whole.length <= segments && longest(whole) <= segmentBytes) return [whole];
  const parts: (readonly Segment[])[] = [];
  let part: Segment[] = [];
  let bytes = 0;
  for (let { address, length: left } of whole) {
    while (left > 0) {
      const length = Math.min(left, segmentBytes);
      part.push({ address, length });
      bytes += length;
      address += length;
      left -= length;
      if (part.length < segments) continue;
      bytes %= sectorSize;
      const rest = takeTail(part, bytes);
      parts.push(part);
      part = rest;
    }
  }
  if (part.length > 0) parts.push(part);
  return parts;
}

function longest(segments: readonly Segment[]): number {
  let most = 0;
  for (const { length } of segments) if (length > most) most = length;
  return most;
}

/** Whether a sector fits into a request when each of its 512 bytes is elsewhere. */
export function holdsSector({ segments, sectorSize }: Pick<Limits, "segments" | "sectorSize">): boolean {
  return segments >= sectorSize / 512;
}

/** Takes the last bytes off a list of segments. */
function takeTail(part: Segment[], bytes: number): Segment[] {
  const tail: Segment[] = [];
  for (let left = bytes; left > 0; ) {
    const { address, length } = part.pop() as Segment;
    const taken = Math.min(length, left);
    if (taken < length) part.push({ address, length: length - taken });
    tail.unshift({ address: address + length - taken, length: taken });
    left -= taken;
  }
  return tail;
}

export function bytesOf(segments: readonly Segment[]): number {
  let bytes = 0;
  for (const { length } of segments) bytes += length;
  return bytes;
}
