/** Ring entries as a guest writes them: the published structures, read for a second time (facts: blkif.h, ring.h). */

export type Layout = "x86_64" | "x86_32";

export interface Segment {
  gref: number;
  first: number;
  last: number;
}

/** A request of any kind; `raw` fields may be as wrong as a hostile guest likes. */
export interface WireRequest {
  operation: number;
  id: bigint;
  sector: bigint;
  /** READ, WRITE, BARRIER, FLUSH: the segments in the entry; nrSegments may lie about their number. */
  segments?: Segment[];
  nrSegments?: number;
  /** DISCARD. */
  sectors?: bigint;
  flag?: number;
  /** INDIRECT. */
  inner?: number;
  indirectGrefs?: number[];
}

export const strideOf = (layout: Layout): number => (layout === "x86_64" ? 112 : 108);

/** The bytes of an entry, `filler` where the structure has nothing. */
export function encodeRequest(layout: Layout, request: WireRequest, filler = 0): Uint8Array {
  const wide = layout === "x86_64";
  const bytes = new Uint8Array(strideOf(layout)).fill(filler);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, request.operation);
  view.setBigUint64(wide ? 8 : 4, BigInt.asUintN(64, request.id), true);
  view.setBigUint64(wide ? 16 : 12, BigInt.asUintN(64, request.sector), true);
  if (request.operation === 5) {
    view.setUint8(1, request.flag ?? 0);
    view.setBigUint64(wide ? 24 : 20, BigInt.asUintN(64, request.sectors ?? 0n), true);
  } else if (request.operation === 6) {
    view.setUint8(1, request.inner ?? 0);
    view.setUint16(2, request.nrSegments ?? 0, true);
    (request.indirectGrefs ?? []).forEach((gref, i) => {
      view.setUint32((wide ? 28 : 24) + i * 4, gref, true);
    });
  } else {
    const segments = request.segments ?? [];
    view.setUint8(1, request.nrSegments ?? segments.length);
    segments.slice(0, 11).forEach((segment, i) => {
      encodeSegment(view, (wide ? 24 : 20) + i * 8, segment);
    });
  }
  return bytes;
}

export function encodeSegment(view: DataView, at: number, { gref, first, last }: Segment): void {
  view.setUint32(at, gref, true);
  view.setUint8(at + 4, first);
  view.setUint8(at + 5, last);
}

export interface WireResponse {
  id: bigint;
  operation: number;
  status: number;
}

export function decodeResponse(view: DataView, at: number): WireResponse {
  return {
    id: view.getBigUint64(at, true),
    operation: view.getUint8(at + 8),
    status: view.getInt16(at + 10, true),
  };
}
