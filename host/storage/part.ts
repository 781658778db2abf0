/** A part of a scatter list, made in the list's own table. */
import { IOVEC_BYTES, type IoVector } from "./device.js";

export interface Part {
  readonly io: IoVector;
  /** Makes the table what it was. Nobody may use `io` after that. */
  mend(): void;
}

/**
 * `length` bytes from byte `start` on, both within the list, and at least one; fewer where they would be more than so many
 * entries. Only one part may be used at a time.
 */
export function partOf(io: IoVector, start: number, length: number, most = Number.POSITIVE_INFINITY): Part {
  if (start === 0 && length === io.bytes && io.count <= most) return { io, mend() {} };
  const { memory, table, count } = io;
  const entries = new BigUint64Array(memory.memory.buffer, table, count * 2);
  let first = 0;
  let skip = BigInt(start);
  for (; skip >= entries[first * 2 + 1]; first++) skip -= entries[first * 2 + 1];
  let last = first;
  let end = skip + BigInt(length);
  for (; end > entries[last * 2 + 1] && last - first + 1 < most; last++) end -= entries[last * 2 + 1];
  const left = end > entries[last * 2 + 1] ? Number(end - entries[last * 2 + 1]) : 0;
  if (left > 0) end = entries[last * 2 + 1];
  const whole = entries.slice(first * 2, last * 2 + 2);
  entries[last * 2 + 1] = end;
  entries[first * 2] += skip;
  entries[first * 2 + 1] -= skip;
  return {
    io: { memory, table: table + first * IOVEC_BYTES, count: last - first + 1, bytes: length - left },
    mend() {
      entries.set(whole, first * 2);
    },
  };
}
