// The journal: which requests are in flight, kept so that it survives us at every moment (docs/restart.md).
//
// Every store here is one that may be our last. What makes a request taken, answered or forgotten is a single store; what
// it must not be without comes before.
import {
  ANSWERED_LIST,
  CONFIG_ABI,
  CONFIG_DOMID,
  CONFIG_ENTRIES,
  CONFIG_FEATURES,
  CONFIG_MAX_INDIRECT,
  CONFIG_SECTOR_UNITS,
  JOURNAL_ABI,
  JOURNAL_ANSWERED,
  JOURNAL_BUSY,
  JOURNAL_CHECKED,
  JOURNAL_CHECKED_END,
  JOURNAL_CHECKSUM,
  JOURNAL_DOMID,
  JOURNAL_ENTRIES,
  JOURNAL_ENTRY_BYTES,
  JOURNAL_FEATURES,
  JOURNAL_FORMAT,
  JOURNAL_FREE,
  JOURNAL_IDENTITY,
  JOURNAL_INDEX,
  JOURNAL_MAGIC,
  JOURNAL_MAGIC_HIGH,
  JOURNAL_MAGIC_LOW,
  JOURNAL_MAX_INDIRECT,
  JOURNAL_RING_ENTRIES,
  JOURNAL_SECTOR_UNITS,
  JOURNAL_STATE,
  JOURNAL_TAKEN,
  JOURNAL_VERSION,
  MAX_SLOTS,
} from "./abi";
import { freeSlot } from "./request";
import { storeOrdered } from "./shared";

export const MAGIC: u64 = JOURNAL_MAGIC_LOW | ((<u64>JOURNAL_MAGIC_HIGH) << 32);

/** Responses that are written and not yet published. */
let answered: u32 = 0;

export function entryOf(slot: u32): u32 {
  assert(slot < <u32>MAX_SLOTS);
  return JOURNAL_ENTRIES + slot * JOURNAL_ENTRY_BYTES;
}

/** The slot's entry holds the request; with `taken`, which counts it, it is in flight. */
export function noteTaken(slot: u32, taken: u64): void {
  assert(load<u64>(entryOf(slot), JOURNAL_INDEX) == taken - 1);
  storeOrdered(entryOf(slot) + JOURNAL_STATE, JOURNAL_BUSY);
  storeOrdered(JOURNAL_TAKEN, taken);
}

/** Its response is about to be written at a ring index. One store, so that no index is ever read with another state. */
export function noteAnswered(slot: u32, index: u32): void {
  assert(load<u32>(entryOf(slot), JOURNAL_STATE) == JOURNAL_BUSY && answered < <u32>MAX_SLOTS);
  storeOrdered(entryOf(slot) + JOURNAL_STATE, JOURNAL_ANSWERED | ((<u64>index) << 32));
  store<u16>(ANSWERED_LIST + (answered++ << 1), slot);
}

/** The responses are published. Entries that stayed ANSWERED would seem unpublished when indices have come half round. */
export function forgetAnswered(): void {
  for (let i: u32 = 0; i < answered; i++) {
    const slot = load<u16>(ANSWERED_LIST + (i << 1));
    storeOrdered(entryOf(slot) + JOURNAL_STATE, JOURNAL_FREE);
    freeSlot(slot);
  }
  answered = 0;
}

/** FNV-1a over the words of the header that do not change. */
export function checksum(): u32 {
  let hash: u32 = 0x811c9dc5;
  for (let at = JOURNAL_CHECKED; at < JOURNAL_CHECKED_END; at += 4)
    hash = (hash ^ load<u32>(at)) * 0x01000193;
  return hash;
}

/** Begins a journal for the ring of CONFIG. It is none before its magic is there. */
export function beginJournal(taken: u64): void {
  answered = 0;
  storeOrdered(JOURNAL_MAGIC, 0);
  for (let slot: u32 = 0; slot < <u32>MAX_SLOTS; slot++)
    storeOrdered(entryOf(slot) + JOURNAL_STATE, JOURNAL_FREE);
  store<u32>(JOURNAL_FORMAT, JOURNAL_VERSION);
  store<u32>(JOURNAL_ABI, load<u32>(CONFIG_ABI));
  store<u32>(JOURNAL_RING_ENTRIES, load<u32>(CONFIG_ENTRIES));
  store<u32>(JOURNAL_FEATURES, load<u32>(CONFIG_FEATURES));
  store<u32>(JOURNAL_SECTOR_UNITS, load<u32>(CONFIG_SECTOR_UNITS));
  store<u32>(JOURNAL_MAX_INDIRECT, load<u32>(CONFIG_MAX_INDIRECT));
  store<u32>(JOURNAL_DOMID, load<u32>(CONFIG_DOMID));
  for (let at = JOURNAL_DOMID + 4; at < JOURNAL_IDENTITY; at += 4) store<u32>(at, 0);
  storeOrdered(JOURNAL_TAKEN, taken);
  store<u32>(JOURNAL_CHECKSUM, checksum());
  storeOrdered(JOURNAL_MAGIC, MAGIC);
}

/** Nothing is answered that the journal does not know; what it knows is recover.ts's to read. */
export function resumeJournal(): void {
  answered = 0;
}
