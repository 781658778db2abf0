/** What the statements of a vector's blocks say, for those who play them and those who turn them into something else. */
import * as abi from "../../assembly/abi.js";
import type { RingConfig } from "../../host/core/blkif.js";
import { DOMID } from "./describe.js";
import { type Block, hexBytes, type Statement, statements } from "./document.js";

/** What entries hold that nobody has written. */
export const FILLER = 0xa5;

// ---- config ----

export interface VectorConfig extends Required<Omit<RingConfig, "hashKey" | "maxLarge">> {
  /** The log is to have the bytes of responses. */
  readonly showBytes: boolean;
}

export const DEFAULT_CONFIG: VectorConfig = {
  abi: abi.ABI_X86_64,
  ringPages: 1,
  features: abi.FEATURE_FLUSH | abi.FEATURE_BARRIER | abi.FEATURE_DISCARD,
  domid: DOMID,
  sectors: 4096,
  sectorSize: 512,
  maxIndirect: 256,
  maxIo: abi.MAX_IO,
  batch: 64,
  maxPersistent: 1056,
  passSegments: abi.MAX_PASS_SEGMENTS,
  passBytes: abi.MAX_PASS_BYTES,
  showBytes: false,
};

export const FEATURES: Readonly<Record<string, number>> = {
  "read-only": abi.FEATURE_READ_ONLY,
  flush: abi.FEATURE_FLUSH,
  barrier: abi.FEATURE_BARRIER,
  discard: abi.FEATURE_DISCARD,
  "secure-discard": abi.FEATURE_SECURE_DISCARD,
  persistent: abi.FEATURE_PERSISTENT,
};

const ABIS: Readonly<Record<string, number>> = { x86_64: abi.ABI_X86_64, x86_32: abi.ABI_X86_32 };

/** Keys whose value is a number, and the field that each sets. */
export const NUMBERS = {
  "ring-pages": "ringPages",
  sectors: "sectors",
  "sector-size": "sectorSize",
  "max-indirect": "maxIndirect",
  "max-io": "maxIo",
  batch: "batch",
  "max-persistent": "maxPersistent",
  "pass-segments": "passSegments",
  "pass-bytes": "passBytes",
} as const;

function cannotRead({ words, line }: Statement): Error {
  return new Error(`line ${line}: can't read "${words.join(" ")}"`);
}

/** `config` with what a config block changes. Throws an Error that names the line which nobody can read. */
export function readConfig(block: Block, config: VectorConfig): VectorConfig {
  let result = config;
  for (const statement of statements(block)) {
    const [key, ...values] = statement.words;
    if (key === "abi") result = { ...result, abi: ABIS[values[0]] ?? Number(values[0]) };
    else if (key in NUMBERS)
      result = { ...result, [NUMBERS[key as keyof typeof NUMBERS]]: Number(values[0]) };
    else if (key === "features" && values.every((name) => name in FEATURES || name === "none"))
      result = { ...result, features: values.reduce((bits, name) => bits | (FEATURES[name] ?? 0), 0) };
    else if (key === "show" && values[0] === "response-bytes") result = { ...result, showBytes: true };
    else throw cannotRead(statement);
  }
  return result;
}

export function strideOf(config: VectorConfig): number {
  return config.abi === abi.ABI_X86_32 ? 108 : 112;
}

// ---- ring ----

/** The indices in the order in which they lie in the ring's header, 4 bytes each. */
export const INDICES = ["req_prod", "req_event", "rsp_prod", "rsp_event"] as const;

export type RingWrite =
  /** Whole entries of the same bytes, by their free-running indices. */
  | { readonly kind: "entries"; readonly first: number; readonly last: number; readonly bytes: Uint8Array }
  | { readonly kind: "index"; readonly which: number; readonly value: number };

/** What a ring block writes, in order. Throws an Error that names the line which nobody can read. */
export function readRing(block: Block, stride: number): RingWrite[] {
  const writes: RingWrite[] = [];
  let entry: Uint8Array | null = null;
  let offset = 0;
  for (const statement of statements(block)) {
    const [key, value] = statement.words;
    const bytes = hexBytes(statement.words);
    const which = (INDICES as readonly string[]).indexOf(key);
    if (key === "request") {
      const [first, last = first] = value.split("-").map(Number);
      entry = new Uint8Array(stride).fill(FILLER);
      offset = 0;
      writes.push({ kind: "entries", first, last, bytes: entry });
    } else if (which >= 0) writes.push({ kind: "index", which, value: Number(value) });
    else if (bytes && entry && offset + bytes.length <= stride) {
      entry.set(bytes, offset);
      offset += bytes.length;
    } else throw cannotRead(statement);
  }
  return writes;
}

// ---- page ----

/** The page of a grant, and how many of its bytes the block gives. */
export function readPage(block: Block): { gref: number; bytes: Uint8Array; length: number } {
  const bytes = new Uint8Array(abi.PAGE);
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const statement of statements(block)) {
    const run = /^(\d+) segments: grants (\d+)-(\d+), sectors (\d+)-(\d+)$/.exec(statement.words.join(" "));
    const some = hexBytes(statement.words);
    if (run) {
      const [count, from, to, first, last] = run.slice(1).map(Number);
      if (to - from + 1 !== count) throw new Error(`line ${statement.line}: that is not ${count} grants`);
      for (let gref = from; gref <= to; gref++, at += abi.SEGMENT_BYTES) {
        view.setUint32(at, gref, true);
        bytes.set([first, last], at + abi.SEGMENT_FIRST);
      }
    } else if (some) {
      bytes.set(some, at);
      at += some.length;
    } else throw cannotRead(statement);
  }
  return { gref: Number(block.argument), bytes, length: at };
}

// ---- host ----

const RESULTS: Readonly<Record<string, number>> = {
  success: abi.IO_RESULT_SUCCESS,
  failure: abi.IO_RESULT_FAILURE,
  "read-only": abi.IO_RESULT_READ_ONLY,
  unsupported: abi.IO_RESULT_UNSUPPORTED,
};

/** What the host does of a grant's status: a GNTST code, or a word. */
export type GrantStatus = number | "forgotten" | "read-only" | "unmappable";

export type HostAct =
  | { readonly kind: "attach" | "counters" | "finish" }
  | { readonly kind: "step"; readonly once: boolean }
  | { readonly kind: "complete"; readonly slot: number; readonly result: number }
  | { readonly kind: "grant"; readonly gref: number; readonly status: GrantStatus }
  | { readonly kind: "budget"; readonly segments: number; readonly bytes: number }
  | { readonly kind: "sectors" | "batch" | "trim" | "bad-sector"; readonly value: number };

const WORDS: readonly string[] = ["forgotten", "read-only", "unmappable"];

function readAct({ words: [verb, ...words] }: Statement): HostAct | null {
  if (verb === "attach" || verb === "counters" || verb === "finish") return { kind: verb };
  if (verb === "step" && (words.length === 0 || words[0] === "once"))
    return { kind: "step", once: words[0] === "once" };
  if (verb === "complete" && words[1] in RESULTS)
    return { kind: "complete", slot: Number(words[0]), result: RESULTS[words[1]] };
  if (verb === "grant" && words[1] === "status") {
    const status = WORDS.includes(words[2]) ? (words[2] as GrantStatus) : Number(words[2]);
    return { kind: "grant", gref: Number(words[0]), status };
  }
  if (verb === "budget") return { kind: verb, segments: Number(words[0]), bytes: Number(words[1]) };
  if (verb === "sectors" || verb === "batch" || verb === "trim" || verb === "bad-sector")
    return { kind: verb, value: Number(words[0]) };
  return null;
}

/** What a host block does, in order. Throws an Error that names the line which nobody can read. */
export function readHost(block: Block): HostAct[] {
  return statements(block).map((statement) => {
    const act = readAct(statement);
    if (!act) throw cannotRead(statement);
    return act;
  });
}
