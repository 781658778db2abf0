/** Session files (docs/session.md): what is in them, written and read. The offsets are in assembly/session/format.ts. */
import * as abi from "../../assembly/abi.js";
import * as format from "../../assembly/session/format.js";

export interface SessionHeader {
  /** ABI_X86_64 or ABI_X86_32. */
  readonly abi: number;
  /** 1, 2, 4, 8 or 16. */
  readonly ringPages: number;
  /** FEATURE_* bits. */
  readonly features: number;
  /** Bytes: 512, 1024, 2048 or 4096. */
  readonly sectorSize: number;
  /** 0, or what the host has spoilt: SPOILT_* and the numbers behind each. */
  readonly spoilt: number;
  readonly maxIndirect: number;
  readonly maxPersistent: number;
  readonly batch: number;
  readonly domid: number;
  /** Bytes that a coalesced I/O may reach. */
  readonly maxIo: number;
  /** 512-byte sectors. */
  readonly sectors: number;
  /** rsp_prod, and how far req_prod is ahead of it, when the session begins. */
  readonly start: number;
  readonly ahead: number;
  /** Segments and bytes that a pass takes up before it ends. */
  readonly passSegments: number;
  readonly passBytes: number;
}

/** See RECORD_* in assembly/session/format.ts. */
export type SessionRecord =
  | { readonly kind: "request"; readonly entry: Uint8Array }
  | { readonly kind: "push" }
  | { readonly kind: "index"; readonly which: number; readonly value: number }
  | { readonly kind: "page"; readonly gref: number; readonly offset: number; readonly bytes: Uint8Array }
  | { readonly kind: "step" }
  | { readonly kind: "complete"; readonly which: number; readonly result: number }
  | { readonly kind: "fault"; readonly distance: number; readonly status: number }
  | { readonly kind: "trim"; readonly now: number }
  | { readonly kind: "resize"; readonly sectors: number }
  | { readonly kind: "batch"; readonly batch: number }
  | { readonly kind: "budget"; readonly segments: number; readonly bytes: number }
  | { readonly kind: "once" }
  | { readonly kind: "ended"; readonly slot: number; readonly result: number }
  | { readonly kind: "grant"; readonly gref: number; readonly status: number };

export interface Session {
  readonly header: SessionHeader;
  readonly records: readonly SessionRecord[];
}

const SECTOR_LIMIT = 2 ** format.SECTOR_BITS;

// ---- Writing ----

export function encodeHeader(header: SessionHeader): Uint8Array {
  const bytes = new Uint8Array(format.HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(format.HEADER_MAGIC, format.MAGIC, true);
  view.setUint16(format.HEADER_VERSION, format.FORMAT_VERSION, true);
  view.setUint8(format.HEADER_LAYOUT, header.abi);
  view.setUint8(format.HEADER_RING_ORDER, Math.log2(header.ringPages));
  view.setUint16(format.HEADER_FEATURES, header.features, true);
  view.setUint8(format.HEADER_SECTOR_ORDER, Math.log2(header.sectorSize / 512));
  view.setUint8(format.HEADER_SPOILT, header.spoilt);
  view.setUint16(format.HEADER_MAX_INDIRECT, header.maxIndirect, true);
  view.setUint16(format.HEADER_MAX_PERSISTENT, header.maxPersistent, true);
  view.setUint16(format.HEADER_BATCH, header.batch, true);
  view.setUint16(format.HEADER_DOMID, header.domid, true);
  view.setUint32(format.HEADER_MAX_IO, header.maxIo, true);
  view.setBigUint64(format.HEADER_SECTORS, BigInt(header.sectors), true);
  view.setUint32(format.HEADER_START, header.start, true);
  view.setUint32(format.HEADER_AHEAD, header.ahead, true);
  view.setUint32(format.HEADER_PASS_SEGMENTS, header.passSegments - 1, true);
  view.setUint32(format.HEADER_PASS_BYTES, header.passBytes - 1, true);
  return bytes;
}

const littleEndian = (value: number, bytes: number): number[] =>
  Array.from({ length: bytes }, (_, i) => Math.floor(value / 256 ** i) & 255);

/** Byte strings, one behind the other. */
export function join(parts: readonly ArrayLike<number>[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

export function encodeRecord(record: SessionRecord): ArrayLike<number> {
  switch (record.kind) {
    case "request":
      return join([Uint8Array.of(format.RECORD_REQUEST, record.entry.length), record.entry]);
    case "push":
      return [format.RECORD_PUSH];
    case "index":
      return [format.RECORD_INDEX, record.which, ...littleEndian(record.value, 4)];
    case "page": {
      const { gref, offset, bytes } = record;
      const place = [littleEndian(gref, 4), littleEndian(offset, 2), littleEndian(bytes.length, 2)];
      return join([[format.RECORD_PAGE], ...place, bytes]);
    }
    case "step":
      return [format.RECORD_STEP];
    case "complete":
      return [format.RECORD_COMPLETE, ...littleEndian(record.which, 2), record.result];
    case "fault": {
      const status = littleEndian(record.status & 0xffff, 2);
      return [format.RECORD_FAULT, ...littleEndian(record.distance, 2), ...status];
    }
    case "trim":
      return [format.RECORD_TRIM, ...littleEndian(record.now, 4)];
    case "resize":
      return [format.RECORD_RESIZE, ...littleEndian(record.sectors, 8)];
    case "batch":
      return [format.RECORD_BATCH, ...littleEndian(record.batch, 2)];
    case "budget": {
      const bytes = littleEndian(record.bytes - 1, 4);
      return [format.RECORD_BUDGET, ...littleEndian(record.segments - 1, 4), ...bytes];
    }
    case "once":
      return [format.RECORD_ONCE];
    case "ended":
      return [format.RECORD_ENDED, ...littleEndian(record.slot, 2), record.result];
    case "grant": {
      const status = littleEndian(record.status & 0xffff, 2);
      return [format.RECORD_GRANT, ...littleEndian(record.gref, 4), ...status];
    }
  }
}

/** The bytes of a session. Fields must be in the ranges that format.ts gives; then reading them gives the same. */
export function encodeSession({ header, records }: Session): Uint8Array {
  return join([encodeHeader(header), ...records.map(encodeRecord)]);
}

// ---- Reading ----

/** Reads from front to back; behind the end everything is zero. */
class Cursor {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get atEnd(): boolean {
    return this.#at >= this.#bytes.length;
  }

  u8(): number {
    return this.atEnd ? 0 : this.#bytes[this.#at++];
  }

  u16(): number {
    return this.u8() + this.u8() * 0x100;
  }

  u32(): number {
    return this.u16() + this.u16() * 0x10000;
  }

  i16(): number {
    return (this.u16() << 16) >> 16;
  }

  /** A u64 of which the bits of a sector number count. */
  sectors(): number {
    return (this.u32() + this.u32() * 2 ** 32) % SECTOR_LIMIT;
  }

  take(length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    bytes.set(this.#bytes.subarray(this.#at, this.#at + length));
    this.#at += length;
    return bytes;
  }
}

function decodeHeader(cursor: Cursor): SessionHeader {
  cursor.take(format.HEADER_LAYOUT);
  const layout = cursor.u8() & 1;
  const ringPages = 1 << (cursor.u8() % 5);
  const features = cursor.u16() & 63;
  const sectorSize = 512 << (cursor.u8() & 3);
  const spoilt = cursor.u8() % format.SPOILT_KINDS;
  return {
    abi: layout,
    ringPages,
    features,
    sectorSize,
    spoilt,
    maxIndirect: cursor.u16() % (abi.MAX_SEGMENTS + 1),
    maxPersistent: cursor.u16() % (abi.MAX_PERSISTENT + 1),
    batch: cursor.u16() % (abi.MAX_SLOTS + 1),
    domid: cursor.u16() & 0x7fff,
    maxIo: Math.max(cursor.u32() % (abi.MAX_IO + 1), abi.PAGE),
    sectors: cursor.sectors(),
    start: cursor.u32(),
    ahead: cursor.u32(),
    passSegments: (cursor.u32() % abi.MAX_PASS_SEGMENTS) + 1,
    passBytes: (cursor.u32() % abi.MAX_PASS_BYTES) + 1,
  };
}

function decodeRecord(cursor: Cursor): SessionRecord {
  switch (cursor.u8() % format.RECORD_TYPES) {
    case format.RECORD_REQUEST:
      return { kind: "request", entry: cursor.take(cursor.u8() % (format.MAX_ENTRY_BYTES + 1)) };
    case format.RECORD_PUSH:
      return { kind: "push" };
    case format.RECORD_INDEX:
      return { kind: "index", which: cursor.u8() & 3, value: cursor.u32() };
    case format.RECORD_PAGE: {
      const gref = cursor.u32();
      const offset = cursor.u16() % abi.PAGE;
      return { kind: "page", gref, offset, bytes: cursor.take(Math.min(cursor.u16(), abi.PAGE - offset)) };
    }
    case format.RECORD_STEP:
      return { kind: "step" };
    case format.RECORD_COMPLETE:
      return { kind: "complete", which: cursor.u16(), result: cursor.u8() & 3 };
    case format.RECORD_FAULT: {
      const distance = cursor.u16();
      return { kind: "fault", distance, status: cursor.i16() || -1 };
    }
    case format.RECORD_TRIM:
      return { kind: "trim", now: cursor.u32() };
    case format.RECORD_RESIZE:
      return { kind: "resize", sectors: cursor.sectors() };
    case format.RECORD_BUDGET: {
      const segments = (cursor.u32() % abi.MAX_PASS_SEGMENTS) + 1;
      return { kind: "budget", segments, bytes: (cursor.u32() % abi.MAX_PASS_BYTES) + 1 };
    }
    case format.RECORD_ONCE:
      return { kind: "once" };
    case format.RECORD_ENDED:
      return { kind: "ended", slot: cursor.u16(), result: cursor.u8() & 3 };
    case format.RECORD_GRANT:
      return { kind: "grant", gref: cursor.u32(), status: cursor.i16() };
    default:
      return { kind: "batch", batch: cursor.u16() % (abi.MAX_SLOTS + 1) };
  }
}

/** The session that any bytes are. */
export function decodeSession(bytes: Uint8Array): Session {
  const cursor = new Cursor(bytes);
  const header = decodeHeader(cursor);
  const records: SessionRecord[] = [];
  while (!cursor.atEnd) records.push(decodeRecord(cursor));
  return { header, records };
}

/** The session in a file of that `name`. Throws an Error that says so when it is something else. */
export function readSession(name: string, bytes: Uint8Array): Session {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < format.HEADER_BYTES || view.getUint32(format.HEADER_MAGIC, true) !== format.MAGIC) {
    throw new Error(`${name} is not a session file: it does not begin with a session's header`);
  }
  const version = view.getUint16(format.HEADER_VERSION, true);
  if (version !== format.FORMAT_VERSION) {
    throw new Error(`${name} has format version ${version}, this program reads ${format.FORMAT_VERSION}`);
  }
  return decodeSession(bytes);
}
