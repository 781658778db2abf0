/** A request's bytes, as they lie in a ring's slot, in words (xen/include/public/io/blkif.h). */
import {
  LAYOUTS,
  MAX_INDIRECT_PAGES,
  MAX_SEGMENTS,
  Op,
  SEGMENT_BYTES,
  SEGMENTS_PER_INDIRECT_PAGE,
} from "../guest/layout.js";

export interface DecodedSegment {
  readonly gref: number;
  /** 512-byte sectors of the page, both included. */
  readonly first: number;
  readonly last: number;
}

export interface DecodedRequest {
  readonly operation: string;
  readonly id: string;
  /** In 512 bytes. */
  readonly sector: string;
  readonly handle: number;
  /** What nr_segments claims; there may be fewer. */
  readonly nrSegments: number;
  readonly segments: DecodedSegment[];
  /** Of an INDIRECT: the pages that its segments lie in. */
  readonly indirectGrefs: number[];
  /** Of a DISCARD. */
  readonly discardSectors: string | null;
  readonly secure: boolean;
  /** What a backend has to refuse in it. */
  readonly faults: string[];
}

const NAMES: Readonly<Record<number, string>> = {
  [Op.read]: "READ",
  [Op.write]: "WRITE",
  [Op.writeBarrier]: "WRITE_BARRIER",
  [Op.flushDiskcache]: "FLUSH_DISKCACHE",
  [Op.discard]: "DISCARD",
  [Op.indirect]: "INDIRECT",
};

/** Decodes a request of a layout; bytes that are missing count as zero. */
export function decodeRequest(bytes: Uint8Array, abi: "x86_64" | "x86_32"): DecodedRequest {
  const layout = LAYOUTS[abi];
  const whole = new Uint8Array(layout.stride);
  whole.set(bytes.subarray(0, layout.stride));
  const view = new DataView(whole.buffer);
  const code = view.getUint8(0);
  const indirect = code === Op.indirect;
  const discard = code === Op.discard;
  const name = (operation: number): string => NAMES[operation] ?? `operation ${operation}`;
  const nrSegments = indirect ? view.getUint16(2, true) : discard ? 0 : view.getUint8(1);
  const segments = Array.from({ length: indirect ? 0 : Math.min(nrSegments, MAX_SEGMENTS) }, (_, i) => {
    const at = layout.segments + i * SEGMENT_BYTES;
    return { gref: view.getUint32(at, true), first: view.getUint8(at + 4), last: view.getUint8(at + 5) };
  });
  const pages = indirect
    ? Math.min(Math.ceil(nrSegments / SEGMENTS_PER_INDIRECT_PAGE), MAX_INDIRECT_PAGES)
    : 0;
  const request = {
    operation: indirect ? `INDIRECT ${name(view.getUint8(1))}` : name(code),
    id: view.getBigUint64(layout.id, true).toString(),
    sector: view.getBigUint64(layout.sectorNumber, true).toString(),
    handle: view.getUint16(indirect ? layout.indirectHandle : 2, true),
    nrSegments,
    segments,
    indirectGrefs: Array.from({ length: pages }, (_, i) => view.getUint32(layout.indirectRefs + i * 4, true)),
    discardSectors: discard ? view.getBigUint64(layout.discardSectors, true).toString() : null,
    secure: discard && (view.getUint8(1) & 1) !== 0,
  };
  return { ...request, faults: faultsOf(request, indirect ? view.getUint8(1) : code, indirect) };
}

function faultsOf(
  { nrSegments, segments }: Pick<DecodedRequest, "nrSegments" | "segments">,
  code: number,
  indirect: boolean,
): string[] {
  const faults: string[] = [];
  if (NAMES[code] === undefined || code === Op.indirect) faults.push(`operation ${code} is not known`);
  if (indirect && code !== Op.read && code !== Op.write) faults.push("only READ and WRITE may be INDIRECT");
  if (!indirect && nrSegments > MAX_SEGMENTS)
    faults.push(`${nrSegments} segments, of ${MAX_SEGMENTS} at most`);
  if (nrSegments === 0 && (code === Op.read || code === Op.write)) faults.push("no segments");
  for (const [i, { first, last }] of segments.entries()) {
    if (first > last || last > 7) faults.push(`segment ${i} has sectors ${first} to ${last} of a page`);
  }
  return faults;
}
