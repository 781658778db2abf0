/** The tables that step() returns, in words: native addresses as places in the windows that they point into. */
import * as abi from "../../assembly/abi.js";

/** A made-up native address of linear memory, so that a forgotten base shows. */
export const BASE = 0x7f0000000000n;
/** The frontend's domid. */
export const DOMID = 7;

const STEP_FLAGS = [
  [abi.STEP_COPY, "COPY"],
  [abi.STEP_MAP, "MAP"],
  [abi.STEP_IO, "IO"],
  [abi.STEP_NOTIFY, "NOTIFY"],
  [abi.STEP_MORE, "MORE"],
  [abi.STEP_HALTED, "HALTED"],
] as const;

/** Flags by name, in the order of their bits; "0" for none. */
export function flagNames(flags: number): string {
  const names = STEP_FLAGS.filter(([bit]) => flags & bit).map(([, name]) => name);
  return names.join(" | ") || "0";
}

const OPERATIONS = ["READ", "WRITE", "WRITE_BARRIER", "FLUSH_DISKCACHE", "4", "DISCARD", "INDIRECT"];
const STATUSES = new Map([
  [abi.BLKIF_RSP_OKAY, "OKAY"],
  [abi.BLKIF_RSP_ERROR, "ERROR"],
  [abi.BLKIF_RSP_EOPNOTSUPP, "EOPNOTSUPP"],
]);

/** A response as it lies in the ring. */
export function responseText(view: DataView, at: number): string {
  return responseWords(view.getBigUint64(at, true), view.getUint8(at + 8), view.getInt16(at + 10, true));
}

export function responseWords(id: bigint, operation: number, status: number): string {
  const name = OPERATIONS[operation] ?? operation;
  return `id 0x${id.toString(16)}, ${name}, ${STATUSES.get(status) ?? status}`;
}

/** The place of a native address: which window, which part of it, and how far into that. */
export function place(address: bigint): string {
  const at = Number(address - BASE);
  const within = (start: number, end: number, unit: number, name: string): string | null => {
    if (at < start || at >= end) return null;
    return `${name} ${Math.floor((at - start) / unit)} +${(at - start) % unit}`;
  };
  const segments = abi.MAX_SEGMENTS * abi.SEGMENT_BYTES;
  const found =
    within(abi.SEGMENTS, abi.IOVECS, segments, "segments of slot") ??
    within(abi.DATA, abi.DATA_LARGE, abi.DATA_SMALL_BYTES, "data of slot") ??
    within(abi.DATA_LARGE, abi.SRING, abi.DATA_LARGE_BYTES, "large region") ??
    within(abi.PERSISTENT, abi.MEMORY_BYTES, abi.PAGE, "persistent page");
  if (found === null) throw new Error(`native address 0x${address.toString(16)} is in no window`);
  return found;
}

export interface Copy {
  readonly gref: number;
  /** Bytes into the granted page. */
  readonly offset: number;
  readonly local: bigint;
  readonly bytes: number;
  readonly toGuest: boolean;
}

/** Entry `i` of COPIES. Throws when the entry is not one that gntdev would take. */
export function copyAt(view: DataView, i: number): Copy {
  const at = abi.COPIES + i * abi.COPY_BYTES;
  const flags = view.getUint16(at + abi.COPY_FLAGS, true);
  if (flags !== abi.COPY_SOURCE_GREF && flags !== abi.COPY_DEST_GREF) throw new Error(`copy flags ${flags}`);
  const toGuest = flags === abi.COPY_DEST_GREF;
  const grant = at + (toGuest ? abi.COPY_DEST : abi.COPY_SOURCE);
  const domid = view.getUint16(grant + 6, true);
  if (domid !== DOMID) throw new Error(`a copy names domain ${domid}, not ${DOMID}`);
  const offset = view.getUint16(grant + 4, true);
  const bytes = view.getUint16(at + abi.COPY_LENGTH, true);
  if (offset + bytes > abi.PAGE) throw new Error(`a copy of ${bytes} bytes at ${offset} leaves its page`);
  const local = view.getBigUint64(at + (toGuest ? abi.COPY_SOURCE : abi.COPY_DEST), true);
  return { gref: view.getUint32(grant, true), offset, local, bytes, toGuest };
}

/** One line a copy; whole pages of ascending grants, copied one behind the other, are one line. */
export function copyLines(copies: readonly Copy[]): string[] {
  const lines: string[] = [];
  for (let i = 0; i < copies.length; ) {
    const first = copies[i];
    let n = 1;
    while (i + n < copies.length && continues(first, copies[i + n], n)) n++;
    const grant =
      n > 1 ? `grants ${first.gref}-${first.gref + n - 1}` : `grant ${first.gref} +${first.offset}`;
    const bytes = n > 1 ? `${n} pages` : `${first.bytes} bytes`;
    const local = place(first.local);
    lines.push(`  copy ${first.toGuest ? `${local} -> ${grant}` : `${grant} -> ${local}`}, ${bytes}`);
    i += n;
  }
  return lines;
}

function continues(first: Copy, next: Copy, n: number): boolean {
  const whole = (copy: Copy): boolean => copy.bytes === abi.PAGE;
  return (
    whole(first) &&
    whole(next) &&
    next.toGuest === first.toGuest &&
    next.gref === first.gref + n &&
    next.local === first.local + BigInt(n * abi.PAGE)
  );
}

/** One line a map; ascending grants on ascending pages are one line. */
export function mapLines(maps: readonly { gref: number; page: number }[]): string[] {
  const lines: string[] = [];
  for (let i = 0; i < maps.length; ) {
    const { gref, page } = maps[i];
    let n = 1;
    while (maps[i + n]?.gref === gref + n && maps[i + n].page === page + n) n++;
    const one = `  map grant ${gref} -> persistent page ${page}`;
    const run = `  map grants ${gref}-${gref + n - 1} -> persistent pages ${page}-${page + n - 1}`;
    lines.push(n > 1 ? run : one);
    i += n;
  }
  return lines;
}

const IO_OPERATIONS = ["READ", "WRITE", "FLUSH", "DISCARD"];
const IO_FLAGS = [
  [abi.IO_PREFLUSH, " PREFLUSH"],
  [abi.IO_FUA, " FUA"],
  [abi.IO_SECURE, " SECURE"],
] as const;

/** Entry `i` of IO_LIST with its iovecs. Throws when its numbers contradict each other. */
export function ioLines(view: DataView, i: number): string[] {
  const slot = view.getUint16(abi.IO_LIST + i * 2, true);
  const at = abi.IOS + slot * abi.IO_BYTES;
  const operation = view.getUint8(at + abi.IO_OPERATION);
  const flags = view.getUint8(at + abi.IO_FLAGS);
  const names = IO_FLAGS.map(([bit, name]) => (flags & bit ? name : "")).join("");
  const sectors = view.getBigUint64(at + abi.IO_SECTORS, true);
  const requests = view.getUint16(at + abi.IO_REQUESTS, true);
  const range = `, sector ${view.getBigUint64(at + abi.IO_SECTOR, true)}, ${sectors} sectors`;
  const joined = requests > 1 ? `, ${requests} requests` : "";
  const flush = operation === abi.IO_FLUSH;
  const lines = [`  io slot ${slot}: ${IO_OPERATIONS[operation]}${names}${flush ? "" : range}${joined}`];
  let total = 0n;
  for (let v = 0; v < view.getUint16(at + abi.IO_IOVECS, true); v++) {
    const iovec = abi.IOVECS + (slot * abi.IOVECS_PER_SLOT + v) * abi.IOVEC_BYTES;
    const bytes = view.getBigUint64(iovec + 8, true);
    lines.push(`    ${place(view.getBigUint64(iovec, true))}, ${bytes} bytes`);
    total += bytes;
  }
  const transfer = operation === abi.IO_READ || operation === abi.IO_WRITE;
  const length = BigInt(view.getUint32(at + abi.IO_LENGTH, true));
  if (total !== length || length !== (transfer ? sectors * 512n : 0n)) {
    throw new Error(
      `the I/O of slot ${slot}: ${sectors} sectors, length ${length}, iovecs of ${total} bytes`,
    );
  }
  return lines;
}
