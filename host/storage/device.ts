/** What a disk is to the rest of xbdback: capabilities beside operations, and results that are never exceptions. */
import type { LinearMemory } from "../core/memory.js";
import type { Store } from "./raw.js";
import type { VhostStore } from "./vhost-user/store.js";

/** How an operation ended. The core turns these into BLKIF_RSP_*. */
export const Result = {
  /** Done in full. */
  Success: 0,
  /** The device failed it (EIO, ENOSPC, …). */
  Failure: 1,
  /** It would have changed a read-only device. */
  ReadOnly: 2,
  /** The device cannot do this operation at all. */
  Unsupported: 3,
} as const;
export type Result = (typeof Result)[keyof typeof Result];

/** `error` says why, where `result` is not Success. */
export type Done = (result: Result, error?: Error) => void;

/**
 * A scatter list in linear memory: `count` entries of `struct iovec` (u64 native address, u64 length) at byte
 * offset `table` (a multiple of 8), `bytes` in all; at most 1024 entries (IOV_MAX), none of them empty. An engine
 * that talks to the kernel takes the table as it is; others take {@link views}. The table belongs to the device from
 * the call until `done`; the device may change it meanwhile, and leaves it as it was.
 */
export interface IoVector {
  readonly memory: LinearMemory;
  readonly table: number;
  readonly count: number;
  readonly bytes: number;
}

/** A way to a disk that one thread has for itself. */
export interface QueueLease {
  readonly store: VhostStore;
  /** Gives it back; to be called when nothing is under way on it. */
  release(): Promise<void>;
}

/** The storage behind a disk cannot be reached, and what is asked of the disk waits. */
export interface Outage {
  /** For people. */
  readonly reason: string;
  /** Milliseconds since 1970. */
  readonly since: number;
}

export const IOVEC_BYTES = 16;
const TWO_TO_32 = 4294967296;

/** The scatter list as byte views of linear memory. */
export function views({ memory, table, count }: IoVector): Uint8Array[] {
  const list = new Array<Uint8Array>(count);
  for (let i = 0; i < count; i++) {
    const word = (table + i * IOVEC_BYTES) >>> 2;
    const address = memory.u32[word] + memory.u32[word + 1] * TWO_TO_32;
    list[i] = memory.u8.subarray(address - memory.base, address - memory.base + memory.u32[word + 2]);
  }
  return list;
}

/** The part of a scatter list that begins after `offset` bytes and has `length`. */
export function slice(views: readonly Uint8Array[], offset: number, length: number): Uint8Array[] {
  const part: Uint8Array[] = [];
  let start = 0;
  for (const view of views) {
    const from = Math.max(offset - start, 0);
    const to = Math.min(offset + length - start, view.length);
    if (from < to) part.push(view.subarray(from, to));
    start += view.length;
    if (start >= offset + length) break;
  }
  return part;
}

/** A flush of a disk: how it ended, and why where that is not Success. */
export function flush(
  device: Pick<BlockDevice, "flush">,
): Promise<{ result: Result; error: Error | undefined }> {
  return new Promise((resolve) => device.flush((result, error) => resolve({ result, error })));
}

/**
 * A disk. Positions and lengths are bytes and multiples of `sectorSize`; the caller has checked them against
 * `size`. `done` is called exactly once, never before the call returns. Many operations may be under way at once,
 * in any order; `flush` covers the writes whose `done` came before it was called.
 *
 * After a result other than Success, a read's buffer and a write's range hold anything. After `close` was called,
 * every operation fails.
 */
export interface BlockDevice {
  /** For people: a path or URI. */
  readonly name: string;
  /** For people: what carries out the I/O, and how it is; not there where that is this process. */
  readonly through?: string;
  /** Null while its storage can be reached; not there where that is never known. */
  readonly outage?: Outage | null;
  /** Bytes; grows when the store behind it is enlarged (see `refreshSize`). */
  readonly size: number;
  /** Logical sector size in bytes: 512 or 4096 (or between: a CD-ROM's is 2048); always a power of two. */
  readonly sectorSize: number;
  /** Bytes; a power of two, at least `sectorSize`. */
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  /** May turn false while the device is open, when the store turns out not to know how after all. */
  readonly canDiscard: boolean;
  readonly canSecureDiscard: boolean;
  /** Bytes; meaningful when `canDiscard`. */
  readonly discardGranularity: number;
  readonly discardAlignment: number;

  /** What another thread needs to do I/O on the same open store; not there where only this thread can. */
  readonly store?: Store;
  /**
   * A queue for one of so many rings, each of which asks; null where there are not enough, and all are to be served by the
   * thread that has the device. Not there where the disk has no queues.
   */
  takeQueue?(rings: number): Promise<QueueLease | null>;
  /** True where its I/O reaches a ring's private data window, and no page of the guest's: persistent grants are of no use. */
  readonly mapsNoGrants?: boolean;
  /** The paths of what it is based on, where that is known only since it is open: an image's header names its base. */
  readonly bases?: readonly string[];
  /** False where I/O of a dead process that had the same store open may still reach it. */
  readonly fenced?: boolean;
  /** True where all that was written ends with this process. */
  readonly volatile?: boolean;
  /** Errno of a flush that failed, here or for the process before, or 0; not there where flushes do not fail. */
  flushErrno?: number;

  read(position: number, to: IoVector, done: Done): void;
  write(position: number, from: IoVector, done: Done): void;
  /**
   * When it succeeds, every write that was done before it is on stable storage. Once it has failed, written data may
   * be lost whatever later calls say: all writes, discards and flushes fail from then on.
   */
  flush(done: Done): void;
  /** The range may read as anything afterwards; with `secure`, its old content is gone for good. */
  discard(position: number, length: number, secure: boolean, done: Done): void;

  /** Looks at the store's size again; true when it changed. Takes as long as the store does to tell. */
  refreshSize(): Promise<boolean>;
  /**
   * Whether operations may be delayed on purpose, as limit: and delay: do. With false, those that are delayed begin now,
   * and later ones at once. Not there where nothing is delayed.
   */
  setDelays?(enabled: boolean): void;
  /** Waits for operations under way, then lets go of the store and its lock. */
  close(): Promise<void>;
}
