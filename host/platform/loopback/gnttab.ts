/**
 * A guest's grant table in Xen's version 1: 8 bytes an entry, {u16 flags, u16 domid, u32 frame}
 * (xen/include/public/grant_table.h). The guest writes it; the users of its grants set GTF_reading and
 * GTF_writing in it. Flags and domid change together, as one 32-bit word.
 */
import { Gntst } from "../ports.js";

const GNTTAB_FRAMES = 64;
export const GNTTAB_ENTRIES = (GNTTAB_FRAMES * 4096) / 8;
export const GNTTAB_BYTES = GNTTAB_FRAMES * 4096;
/** The toolstack's (console, xenstore, …): a guest's own grants begin after them. */
export const RESERVED_ENTRIES = 8;

export const Gtf = {
  permitAccess: 1,
  typeMask: 3,
  readOnly: 1 << 2,
  reading: 1 << 3,
  writing: 1 << 4,
  subPage: 1 << 8,
} as const;

const WORDS_PER_ENTRY = 2;
/** As often as Xen tries before it calls an entry unstable: a guest must not be able to hold us here. */
const TRIES = 5;

/**
 * Marks an entry as in use by `domid`, as Xen does it for version 1. `mapping`: for a map, as opposed to a copy
 * (sub-page grants cannot be mapped). `pinned`: the entry is in use by the same domain already, so its type and
 * domid were checked then. Returns a GNTST_*.
 */
export function markUsed(
  entries: Int32Array,
  ref: number,
  domid: number,
  writable: boolean,
  mapping: boolean,
  pinned: boolean,
): number {
  const at = ref * WORDS_PER_ENTRY;
  const checked = mapping ? Gtf.typeMask | Gtf.subPage : Gtf.typeMask;
  const marks = writable ? Gtf.reading | Gtf.writing : Gtf.reading;
  let word = entries[at];
  for (let tries = 0; tries < TRIES; tries++) {
    const wrong = (word & checked) !== Gtf.permitAccess || word >>> 16 !== domid;
    if (!pinned && wrong) return Gntst.generalError;
    if (writable && word & Gtf.readOnly) return Gntst.generalError;
    const found = Atomics.compareExchange(entries, at, word, word | marks);
    if (found === word) return Gntst.okay;
    word = found;
  }
  return Gntst.generalError;
}

/** Takes GTF_reading and/or GTF_writing off an entry. */
export function clearUsed(entries: Int32Array, ref: number, marks: number): void {
  if (marks !== 0) Atomics.and(entries, ref * WORDS_PER_ENTRY, ~marks);
}

/** The frame of an entry, as the guest has it now. */
export function frameOf(entries: Int32Array, ref: number): number {
  return Atomics.load(entries, ref * WORDS_PER_ENTRY + 1) >>> 0;
}

/** Guest: lets `domid` use a frame. Whoever sees the flags sees the frame. */
export function writeEntry(
  entries: Int32Array,
  ref: number,
  domid: number,
  frame: number,
  flags: number,
): void {
  Atomics.store(entries, ref * WORDS_PER_ENTRY + 1, frame);
  Atomics.store(entries, ref * WORDS_PER_ENTRY, (domid << 16) | flags);
}

/** Guest: takes an entry back. False, and nothing done, while it is in use. */
export function revokeEntry(entries: Int32Array, ref: number): boolean {
  const at = ref * WORDS_PER_ENTRY;
  for (;;) {
    const word = Atomics.load(entries, at);
    if (word & (Gtf.reading | Gtf.writing)) return false;
    if (Atomics.compareExchange(entries, at, word, 0) === word) return true;
  }
}

/** Whether the guest has anything at all in this entry. */
export function isFree(entries: Int32Array, ref: number): boolean {
  return Atomics.load(entries, ref * WORDS_PER_ENTRY) === 0;
}
