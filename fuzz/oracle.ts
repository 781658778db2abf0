/**
 * What one request deserves, as slowly and plainly as it can be said: from the raw ring entry, with sums in BigInt.
 * It shares nothing with the core. Sources: xen/include/public/io/blkif.h.
 */
import type { SessionHeader } from "../host/session/index.js";

export interface Segment {
  readonly gref: number;
  readonly first: number;
  readonly last: number;
}

export interface Verdict {
  /** The operation that the response echoes. */
  readonly operation: number;
  /** 0 when the request may go on to the disk. */
  readonly status: number;
  /** What it touches then: 512-byte sectors, and the guest's memory in order; none for flushes and discards. */
  readonly sector: number;
  readonly sectors: number;
  readonly segments: readonly Segment[];
}

const OKAY = 0;
const ERROR = -1;
const EOPNOTSUPP = -2;
const READ_ONLY = 1;
const FLUSH = 2;
const BARRIER = 4;
const DISCARD = 8;

/** The 8-byte entries of a table of segments. */
function segmentsAt(bytes: Uint8Array, at: number, count: number): Segment[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at);
  return Array.from({ length: count }, (_, i) => ({
    gref: view.getUint32(i * 8, true),
    first: view.getUint8(i * 8 + 4),
    last: view.getUint8(i * 8 + 5),
  }));
}

/**
 * Judges the entry of a ring. `contentOf` gives an indirect page's content, undefined where it is all zero.
 * `diskSectors` is the size of the disk at the moment. Grants and the disk may still fail the request.
 */
export function judge(
  header: SessionHeader,
  entry: Uint8Array,
  diskSectors: number,
  contentOf: (gref: number) => Uint8Array | undefined,
): Verdict {
  const view = new DataView(entry.buffer, entry.byteOffset, entry.length);
  const body = header.abi === 1 ? 20 : 24;
  const indirect = entry[0] === 6;
  const operation = indirect ? entry[1] : entry[0];
  const bad = (status: number): Verdict => ({ operation, status, sector: 0, sectors: 0, segments: [] });
  const sector = view.getBigUint64(body - 8, true);
  if (entry[0] === 5) return judgeDiscard(header, sector, view.getBigUint64(body, true), diskSectors, bad);
  let segments: Segment[];
  if (indirect) {
    const count = view.getUint16(2, true);
    if (header.maxIndirect === 0) return bad(EOPNOTSUPP);
    if (operation > 1 || count === 0 || count > header.maxIndirect) return bad(ERROR);
    const page = contentOf(view.getUint32(body + 4, true));
    segments = page ? segmentsAt(page, 0, count) : Array(count).fill({ gref: 0, first: 0, last: 0 });
  } else {
    const offered =
      operation < 2 ||
      (operation === 2 && header.features & BARRIER) ||
      (operation === 3 && header.features & FLUSH);
    if (!offered) return bad(EOPNOTSUPP);
    if (entry[1] > 11 || (entry[1] === 0 && operation < 2)) return bad(ERROR);
    segments = segmentsAt(entry, body, entry[1]);
  }
  const units = header.sectorSize / 512;
  const fits = ({ first, last }: Segment) =>
    first <= last && last <= 7 && first % units === 0 && (last + 1) % units === 0;
  if (!segments.every(fits)) return bad(ERROR);
  if (segments.length === 0) return { operation, status: OKAY, sector: 0, sectors: 0, segments };
  if (operation !== 0 && header.features & READ_ONLY) return bad(ERROR);
  const sectors = segments.reduce((sum, { first, last }) => sum + last - first + 1, 0);
  if (sector + BigInt(sectors) > BigInt(diskSectors) || sector % BigInt(units) !== 0n) return bad(ERROR);
  return { operation, status: OKAY, sector: Number(sector), sectors, segments };
}

function judgeDiscard(
  { features, sectorSize }: SessionHeader,
  sector: bigint,
  count: bigint,
  diskSectors: number,
  bad: (status: number) => Verdict,
): Verdict {
  const units = BigInt(sectorSize / 512);
  if (features & READ_ONLY) return bad(ERROR);
  if (!(features & DISCARD)) return bad(EOPNOTSUPP);
  if (sector + count > BigInt(diskSectors) || sector % units !== 0n || count % units !== 0n)
    return bad(ERROR);
  return { operation: 5, status: OKAY, sector: Number(sector), sectors: Number(count), segments: [] };
}

/** The response's status when the disk answered an otherwise good request with this result (0 to 3). */
export function statusOfResult(operation: number, result: number): number {
  if (result === 0) return OKAY;
  const optional = operation === 2 || operation === 3 || operation === 5;
  return optional && result === 3 ? EOPNOTSUPP : ERROR;
}
