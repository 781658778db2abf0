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

function readRequests(memory: LinearMemory): RequestState[] {
  const { u32 } = memory;
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
    found.push({ number, slot: (number & mask) >>> 0, ...describeRequest(memory, at + abi.JOURNAL_REQUEST) });
  }
  return found.sort((a, b) => a.number - b.number);
}

/** A request as it came from the ring (blkif.h): of an INDIRECT one, what it does. */
function describeRequest({ u8, u32 }: LinearMemory, at: number): Omit<RequestState, "number" | "slot"> {
  const indirect = u8[at] === abi.BLKIF_OP_INDIRECT;
  const code = indirect ? u8[at + 1] : u8[at];
  const sectorAt = at + (u32[abi.CONFIG_ABI >> 2] === abi.ABI_X86_64 ? 16 : 12);
  const flush = code === abi.BLKIF_OP_FLUSH_DISKCACHE;
  return {
    operation: OPERATIONS[code] ?? `op ${code}`,
    sector: flush ? 0 : u32[sectorAt >> 2] + u32[(sectorAt >> 2) + 1] * TWO_TO_32,
    segments: indirect ? u8[at + 2] + u8[at + 3] * 256 : code === abi.BLKIF_OP_DISCARD ? 0 : u8[at + 1],
  };
}
