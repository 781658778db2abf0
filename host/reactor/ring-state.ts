/**
 * What a ring looks like at one moment, read from its memory by any thread. Nothing is locked, so what is in flight may
 * be a pass older or younger than the indices; every number is one that stood there.
 */
import {
  ABI_X86_64,
  BLKIF_OP_DISCARD,
  BLKIF_OP_FLUSH_DISKCACHE,
  BLKIF_OP_INDIRECT,
  MAX_SLOTS,
} from "../../assembly/abi.js";
import type { RingView } from "../core/ring-view.js";

const OPERATIONS = ["read", "write", "barrier", "flush", "op 4", "discard", "indirect"];
const TWO_TO_32 = 4294967296;

/** The free-running indices of a shared ring; the first four are in the guest's memory. */
export interface RingIndices {
  readonly reqProd: number;
  readonly reqEvent: number;
  readonly rspProd: number;
  readonly rspEvent: number;
  /** Requests taken. */
  readonly reqCons: number;
  /** rsp_prod as we know it. */
  readonly rspProdPvt: number;
}

/** A request that was taken and not yet answered. */
export interface RequestState {
  /** Since the ring was made: of two, the older one has the smaller number. */
  readonly number: number;
  /** Of the ring. */
  readonly slot: number;
  readonly operation: string;
  /** In 512 bytes; 0 for a flush. */
  readonly sector: number;
  readonly segments: number;
}

export interface RingState extends RingIndices {
  /** Our end of its event channel. */
  readonly port: number;
  /** Slots. */
  readonly entries: number;
  /** Oldest first. */
  readonly requests: RequestState[];
}

export function readRing(view: RingView, port: number): RingState {
  const { entries, reqProd, reqEvent, rspProd, rspEvent, reqCons, rspProdPvt } = view;
  return {
    ...{ port, entries, reqProd, reqEvent, rspProd, rspEvent, reqCons, rspProdPvt },
    requests: readRequests(view),
  };
}

function readRequests(view: RingView): RequestState[] {
  if (view.inflight === 0) return [];
  const { taken, layout } = view;
  const mask = view.entries - 1;
  const found: RequestState[] = [];
  for (let slot = 0; slot < MAX_SLOTS; slot++) {
    if (!view.isBusy(slot)) continue;
    const number = view.requestNumber(slot);
    if (number >= taken) continue;
    found.push({ number, slot: (number & mask) >>> 0, ...describeRequest(view.requestBytes(slot), layout) });
  }
  return found.sort((a, b) => a.number - b.number);
}

/** A request as it came from the ring (blkif.h): of an INDIRECT one, what it does. */
function describeRequest(bytes: Uint8Array, layout: number): Omit<RequestState, "number" | "slot"> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const indirect = bytes[0] === BLKIF_OP_INDIRECT;
  const code = bytes[indirect ? 1 : 0];
  const sectorAt = layout === ABI_X86_64 ? 16 : 12;
  const sector = view.getUint32(sectorAt, true) + view.getUint32(sectorAt + 4, true) * TWO_TO_32;
  return {
    operation: OPERATIONS[code] ?? `op ${code}`,
    sector: code === BLKIF_OP_FLUSH_DISKCACHE ? 0 : sector,
    segments: indirect ? view.getUint16(2, true) : code === BLKIF_OP_DISCARD ? 0 : bytes[1],
  };
}
