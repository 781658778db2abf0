/** What the contestants are given: ring entries as a guest writes them, in spans of at most a ring (512 entries). */
import * as abi from "../../assembly/abi.js";
import { encodeRequest, encodeSegment, type Segment, type WireRequest } from "../../test/core/wire.js";

export const ENTRIES = abi.MAX_SLOTS;
export const ENTRY_BYTES = 112;
export const TABLE_BYTES = abi.MAX_SEGMENTS * abi.SEGMENT_BYTES;
export const DISK_SECTORS = 1 << 27;
/** Between the places that scattered requests go to: no multiple of it is near a power of two, so hashes spread. */
const SCATTER_SECTORS = 162024;
/** A made-up native address of linear memory. */
export const BASE = 0x7f0000000000;
/** Requests in a span of indirect ones: samples are to be shorter than the time slices of a machine that is shared. */
const INDIRECT_SPAN = 64;
/** Distinct grants that the measured shapes use: all stay mapped. */
const GRANTS = 1024;

export interface Shape {
  readonly segments: number;
  readonly contiguous: boolean;
  readonly batch: number;
  readonly persistent: boolean;
}

export interface Scenario {
  readonly name: string;
  readonly features: number;
  readonly batch: number;
  /** Some grants and I/Os fail (see `Host`). */
  readonly faults: boolean;
  /** Indirect pages: the one behind gref g is number g % tables. */
  readonly tables: Uint8Array[];
  /** Ring entries. The first span is run once, to map the grants; the rest are what is measured. */
  readonly spans: Uint8Array[];
}

export function shapes(): Shape[] {
  const list: Shape[] = [];
  for (const persistent of [true, false])
    for (const batch of [32, 1])
      for (const contiguous of [true, false])
        for (const segments of [1, 11, 32, 256]) list.push({ segments, contiguous, batch, persistent });
  return list;
}

function entries(requests: WireRequest[]): Uint8Array {
  const bytes = new Uint8Array(requests.length * ENTRY_BYTES);
  requests.forEach((request, i) => {
    bytes.set(encodeRequest("x86_64", request), i * ENTRY_BYTES);
  });
  return bytes;
}

function table(segments: Segment[]): Uint8Array {
  const bytes = new Uint8Array(TABLE_BYTES);
  const view = new DataView(bytes.buffer);
  segments.forEach((segment, i) => {
    encodeSegment(view, i * abi.SEGMENT_BYTES, segment);
  });
  return bytes;
}

const whole = (gref: number): Segment => ({ gref, first: 0, last: 7 });

/** Reads every grant once, in ascending order, so that page n of the window is grant n. */
function mapAll(): Uint8Array {
  const requests: WireRequest[] = [];
  for (let gref = 0; gref < GRANTS; gref += abi.MAX_DIRECT_SEGMENTS) {
    const count = Math.min(abi.MAX_DIRECT_SEGMENTS, GRANTS - gref);
    const segments = Array.from({ length: count }, (_, i) => whole(gref + i));
    requests.push({ operation: abi.BLKIF_OP_READ, id: BigInt(gref), sector: BigInt(gref * 8), segments });
  }
  return entries(requests);
}

/**
 * A span of reads, then a span of writes, all of one shape. Contiguous: each request starts on the disk where the one
 * before it ends, and its pages are neighbours. Scattered: neither. The requests of an indirect shape share one page
 * of segments, so that the table is in its place before the core asks for it and copying it is not measured.
 */
export function scenarioOf(shape: Shape): Scenario {
  const { segments, contiguous } = shape;
  const gref = (i: number): number => (contiguous ? i : i * 389) % GRANTS;
  const sector = (i: number): bigint =>
    BigInt(contiguous ? i * segments * 8 : ((i * 37) % ENTRIES) * SCATTER_SECTORS);
  const request = (operation: number, i: number): WireRequest => {
    const common = { id: BigInt(i), sector: sector(i) };
    if (segments > abi.MAX_DIRECT_SEGMENTS)
      return {
        ...common,
        operation: abi.BLKIF_OP_INDIRECT,
        inner: operation,
        nrSegments: segments,
        indirectGrefs: [5000],
      };
    const list = Array.from({ length: segments }, (_, k) => whole(gref(i * segments + k)));
    return { ...common, operation, segments: list };
  };
  const span = (operation: number): Uint8Array =>
    entries(
      Array.from({ length: segments > abi.MAX_DIRECT_SEGMENTS ? INDIRECT_SPAN : ENTRIES }, (_, i) =>
        request(operation, i),
      ),
    );
  return {
    name: nameOf(shape),
    features: shape.persistent ? abi.FEATURE_PERSISTENT : 0,
    batch: shape.batch,
    faults: false,
    tables: [table(Array.from({ length: segments }, (_, k) => whole(gref(k))))],
    spans: [mapAll(), span(abi.BLKIF_OP_READ), span(abi.BLKIF_OP_WRITE)],
  };
}

export function nameOf({ segments, contiguous, batch, persistent }: Shape): string {
  return `${persistent ? "persistent" : "copy"}/${segments}/${contiguous ? "contiguous" : "scattered"}/batch${batch}`;
}

/** Numbers that look random and are the same in every run (Knuth's MMIX generator, the upper half). */
function random(seed: number): (below: number) => number {
  let state = BigInt(seed);
  return (below) => {
    state = BigInt.asUintN(64, state * 6364136223846793005n + 1442695040888963407n);
    return Number(state >> 33n) % below;
  };
}

/** Every kind of request, right and wrong, that overlap and fail: only to compare the contestants' answers. */
export function mixture(persistent: boolean, seed: number): Scenario {
  const below = random(seed);
  const segment = (): Segment => {
    const first = below(8);
    return { gref: below(1500), first, last: below(40) === 0 ? below(256) : first + below(8 - first) };
  };
  const list = (length: number): Segment[] => Array.from({ length }, segment);
  const sector = (): bigint => {
    if (below(40) === 0) return BigInt.asUintN(64, -BigInt(1 + below(9)));
    return BigInt(below(30) === 0 ? DISK_SECTORS - below(20) : below(20000));
  };
  const request = (i: number): WireRequest => {
    const kind = below(20);
    const common = { id: (BigInt(below(1 << 30)) << 32n) | BigInt(i), sector: sector() };
    if (kind < 12) return { ...common, operation: kind & 1, segments: list(1 + below(11)) };
    if (kind < 16)
      return {
        ...common,
        operation: abi.BLKIF_OP_INDIRECT,
        inner: below(15) === 0 ? below(8) : kind & 1,
        nrSegments: below(15) === 0 ? below(65536) : 1 + below(256),
        indirectGrefs: [below(1500)],
      };
    // An empty flush's sector number is rubbish that reaches the table of I/Os; JavaScript is exact up to 2^53.
    if (kind < 18)
      return {
        ...common,
        sector: BigInt.asUintN(53, common.sector),
        operation: 2 + (kind & 1),
        segments: list(below(4)),
      };
    if (kind === 18)
      return { ...common, operation: abi.BLKIF_OP_DISCARD, flag: below(2), sectors: BigInt(below(6000)) };
    return { ...common, operation: below(256), nrSegments: below(256) };
  };
  const span = (length: number): Uint8Array => entries(Array.from({ length }, (_, i) => request(i)));
  return {
    name: `mixture ${seed}, ${persistent ? "persistent" : "copy"}`,
    features:
      abi.FEATURE_FLUSH |
      abi.FEATURE_BARRIER |
      abi.FEATURE_DISCARD |
      (persistent ? abi.FEATURE_PERSISTENT : 0),
    batch: 32,
    faults: true,
    tables: Array.from({ length: 23 }, () => table(list(abi.MAX_SEGMENTS))),
    spans: [mapAll(), span(ENTRIES), span(ENTRIES), span(ENTRIES - 77)],
  };
}
