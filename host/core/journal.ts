/** The file behind a ring's journal: the pages from JOURNAL to JOURNAL_END of its memory (docs/restart.md has the table). */
import * as abi from "../../assembly/abi.js";

export const JOURNAL_BYTES = abi.JOURNAL_END - abi.JOURNAL;

/** Bytes of the file that {@link readJournalHeader} needs. */
export const JOURNAL_HEADER_BYTES = abi.JOURNAL_CHECKED_END - abi.JOURNAL;

/** Where in the file the host's fields lie, which every release keeps where they are; the core leaves them alone. */
export const JournalField = {
  /** JOURNAL_IDENTITY_BYTES. */
  identity: abi.JOURNAL_IDENTITY - abi.JOURNAL,
  /** u32: the errno of an fdatasync that failed for the process before, or 0. */
  flushErrno: abi.JOURNAL_HOST - abi.JOURNAL,
  /** f64: when the ring was handed over, in milliseconds of the monotonic clock; 0: its process was killed. */
  handedOver: abi.JOURNAL_HOST - abi.JOURNAL + 8,
  /** u32: 1 when all that was sent to the ring's disk is answered, and the disk closed; 0 while it is served, and after a kill. */
  settled: abi.JOURNAL_HOST - abi.JOURNAL + 16,
} as const;

/** What is on a file before it is mapped. */
export interface JournalHeader {
  /** False in a file that no core has begun: nothing was ever in flight. */
  readonly begun: boolean;
  /** The layout's version. */
  readonly format: number;
  /** The checksum is right; what is below means nothing otherwise. */
  readonly intact: boolean;
  /** What tells its ring from others. */
  readonly identity: Uint8Array;
}

/** `bytes` are the first of the file. */
export function readJournalHeader(bytes: Uint8Array): JournalHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, JOURNAL_HEADER_BYTES);
  const word = (at: number): number => view.getUint32(at - abi.JOURNAL, true);
  // FNV-1a, word by word, as the core makes it.
  let checksum = 0x811c9dc5;
  for (let at = abi.JOURNAL_CHECKED; at < abi.JOURNAL_CHECKED_END; at += 4)
    checksum = Math.imul(checksum ^ word(at), 0x01000193);
  return {
    begun:
      word(abi.JOURNAL_MAGIC) === abi.JOURNAL_MAGIC_LOW &&
      word(abi.JOURNAL_MAGIC + 4) === abi.JOURNAL_MAGIC_HIGH,
    format: word(abi.JOURNAL_FORMAT),
    intact: word(abi.JOURNAL_CHECKSUM) === checksum >>> 0,
    identity: bytes.subarray(JournalField.identity, JOURNAL_HEADER_BYTES),
  };
}
