/**
 * What a ring looks like at one moment, read from its memory by any thread. Nothing is locked, so what is in flight may
 * be a pass older or younger than the indices; every number is one that stood there.
 */
import * as abi from "../../assembly/abi.js";
import type { LinearMemory } from "../core/memory.js";

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
}

export interface RingState extends RingIndices {
  /** Our end of its event channel. */
  readonly port: number;
  /** Slots. */
  readonly entries: number;
  /** Oldest first. */
  readonly requests: RequestState[];
}

export function readRing(memory: LinearMemory, port: number): RingState {
  const { u32 } = memory;
  return {
    port,
    entries: u32[abi.CONFIG_ENTRIES >> 2],
    reqProd: u32[abi.SRING_REQ_PROD >> 2],
    reqEvent: u32[abi.SRING_REQ_EVENT >> 2],
    rspProd: u32[abi.SRING_RSP_PROD >> 2],
    rspEvent: u32[abi.SRING_RSP_EVENT >> 2],
    reqCons: u32[abi.OUT_REQ_CONS >> 2],
    rspProdPvt: u32[abi.OUT_RSP_PROD >> 2],
    requests: readRequests(memory),
  };
}

function readRequests({ u8, u32 }: LinearMemory): RequestState[] {
  if (u32[abi.OUT_INFLIGHT >> 2] === 0) return [];
  const u64 = (at: number): number => u32[at >> 2] + u32[(at >> 2) + 1] * TWO_TO_32;
  const taken = u64(abi.JOURNAL_TAKEN);
  const mask = u32[abi.CONFIG_ENTRIES >> 2] - 1;
  const found: RequestState[] = [];
  for (let slot = 0; slot < abi.MAX_SLOTS; slot++) {
    const at = abi.JOURNAL_ENTRIES + slot * abi.JOURNAL_ENTRY_BYTES;
    if (u32[(at + abi.JOURNAL_STATE) >> 2] !== abi.JOURNAL_BUSY) continue;
    const number = u64(at + abi.JOURNAL_INDEX);
    if (number >= taken) continue;
    const code = u8[at + abi.JOURNAL_REQUEST];
    found.push({ number, slot: (number & mask) >>> 0, operation: OPERATIONS[code] ?? `op ${code}` });
  }
  return found.sort((a, b) => a.number - b.number);
}
