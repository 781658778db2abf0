/**
 * What a block backend does, as slowly and plainly as it can be said: one request after the other, in ring order,
 * sector by sector, sums in BigInt. It shares nothing with the core.
 */
import type { Segment, WireRequest } from "./wire.js";

export interface OracleDisk {
  bytes: Uint8Array;
  /** 512-byte sectors that can be reached. */
  sectors: number;
  /** Sectors where a transfer stops and fails. */
  bad: ReadonlySet<number>;
  sectorSize: number;
  readOnly: boolean;
  flush: boolean;
  barrier: boolean;
  discard: boolean;
  maxIndirect: number;
}

export interface OracleGuest {
  /** The page of a grant, or undefined where there is none. */
  page(gref: number): Uint8Array | undefined;
  writable(gref: number): boolean;
  /** The entries of the request's indirect page. */
  indirectSegments(request: WireRequest): Segment[];
}

const OKAY = 0;
const ERROR = -1;
const EOPNOTSUPP = -2;

export interface Outcome {
  /** The operation that the response echoes. */
  operation: number;
  status: number;
}

/** Carries a request out on `disk` and the guest's pages. */
export function execute(disk: OracleDisk, guest: OracleGuest, request: WireRequest): Outcome {
  const indirect = request.operation === 6;
  const operation = indirect ? (request.inner ?? 0) : request.operation;
  return { operation, status: statusOf(disk, guest, request, operation, indirect) };
}

function statusOf(
  disk: OracleDisk,
  guest: OracleGuest,
  request: WireRequest,
  operation: number,
  indirect: boolean,
): number {
  if (indirect) {
    if (disk.maxIndirect === 0) return EOPNOTSUPP;
    if (operation !== 0 && operation !== 1) return ERROR;
  } else {
    if (![0, 1, 2, 3, 5].includes(operation)) return EOPNOTSUPP;
    if (operation === 2 && !disk.barrier) return EOPNOTSUPP;
    if (operation === 3 && !disk.flush) return EOPNOTSUPP;
    if (operation === 5) return discard(disk, request);
  }
  const segments = segmentsOf(disk, guest, request, operation, indirect);
  if (!segments) return ERROR;
  if (segments.length === 0) return OKAY;
  return transfer(disk, guest, request.sector, segments, operation);
}

function discard(disk: OracleDisk, request: WireRequest): number {
  if (disk.readOnly) return ERROR;
  if (!disk.discard) return EOPNOTSUPP;
  const start = BigInt.asUintN(64, request.sector);
  const count = BigInt.asUintN(64, request.sectors ?? 0n);
  if (start + count > BigInt(disk.sectors)) return ERROR;
  const unit = BigInt(disk.sectorSize / 512);
  if (start % unit !== 0n || count % unit !== 0n) return ERROR;
  for (let s = Number(start); s < Number(start + count); s++) if (disk.bad.has(s)) return ERROR;
  disk.bytes.fill(0, Number(start) * 512, Number(start + count) * 512);
  return OKAY;
}

function segmentsOf(
  disk: OracleDisk,
  guest: OracleGuest,
  request: WireRequest,
  operation: number,
  indirect: boolean,
): Segment[] | null {
  const claimed = request.nrSegments ?? request.segments?.length ?? 0;
  if (!indirect) {
    if (claimed > 11 || (claimed === 0 && operation < 2)) return null;
    const all = request.segments ?? [];
    return Array.from({ length: claimed }, (_, i) => all[i] ?? { gref: 0, first: 0, last: 0 });
  }
  if (claimed === 0 || claimed > disk.maxIndirect) return null;
  const gref = request.indirectGrefs?.[0] ?? 0;
  if (!guest.page(gref)) return null;
  return guest.indirectSegments(request).slice(0, claimed);
}

function transfer(
  disk: OracleDisk,
  guest: OracleGuest,
  sector: bigint,
  segments: Segment[],
  operation: number,
): number {
  const unit = disk.sectorSize / 512;
  for (const { first, last } of segments) {
    if (last > 7 || first > last) return ERROR;
    if (first % unit !== 0 || (last + 1) % unit !== 0) return ERROR;
  }
  const write = operation !== 0;
  if (write && disk.readOnly) return ERROR;
  const start = BigInt.asUintN(64, sector);
  const total = segments.reduce((sum, { first, last }) => sum + BigInt(last) - BigInt(first) + 1n, 0n);
  if (start + total > BigInt(disk.sectors)) return ERROR;
  if (start % BigInt(unit) !== 0n) return ERROR;
  for (const { gref } of segments) {
    if (!guest.page(gref)) return ERROR;
    if (!write && !guest.writable(gref)) return ERROR;
  }
  let at = Number(start) * 512;
  for (const { gref, first, last } of segments) {
    const page = guest.page(gref) as Uint8Array;
    for (let s = first; s <= last; s++, at += 512) {
      if (disk.bad.has(at / 512)) return ERROR;
      if (write) disk.bytes.set(page.subarray(s * 512, s * 512 + 512), at);
      else page.set(disk.bytes.subarray(at, at + 512), s * 512);
    }
  }
  return OKAY;
}
