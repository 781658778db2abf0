// Going on with a ring whose core was killed (docs/restart.md). The journal is ours, but it may be damaged; the ring is the
// guest's. Both are judged before anything is done.
import {
  ATTACH_BAD_JOURNAL,
  ATTACH_BAD_RING,
  ATTACH_OK,
  CONFIG_ABI,
  CONFIG_DOMID,
  CONFIG_ENTRIES,
  CONFIG_FEATURES,
  CONFIG_MAX_INDIRECT,
  CONFIG_SECTOR_UNITS,
  FEATURE_READ_ONLY,
  JOURNAL_ABI,
  JOURNAL_ANSWERED,
  JOURNAL_BUSY,
  JOURNAL_CHECKSUM,
  JOURNAL_DOMID,
  JOURNAL_FEATURES,
  JOURNAL_FORMAT,
  JOURNAL_FREE,
  JOURNAL_INDEX,
  JOURNAL_MAGIC,
  JOURNAL_MAX_INDIRECT,
  JOURNAL_RING_ENTRIES,
  JOURNAL_SECTOR_UNITS,
  JOURNAL_STATE,
  JOURNAL_TAKEN,
  JOURNAL_VERSION,
  MAX_SEGMENTS,
  MAX_SLOTS,
  RECOVERED_LIST,
  SRING_RSP_PROD,
} from "./abi";
import { checksum, entryOf, MAGIC, resumeJournal } from "./journal";
import { claimSlots } from "./request";
import { startRing } from "./ring";
import { loadShared, storeOrdered } from "./shared";

/** Recovered requests that are in RECOVERED_LIST, and how many of them have been taken up. */
let recovered: u32 = 0;
let takenUp: u32 = 0;

export function resetRecovered(): void {
  recovered = takenUp = 0;
}

export function hasRecovered(): bool {
  return takenUp < recovered;
}

/** The oldest recovered request that has not been taken up. */
export function nextRecovered(): u32 {
  assert(hasRecovered());
  return load<u16>(RECOVERED_LIST + (takenUp << 1));
}

export function takeUpRecovered(): void {
  assert(hasRecovered());
  takenUp++;
}

function same(field: u32, config: u32): bool {
  return load<u32>(field) == load<u32>(config);
}

/** Whether there is a journal of this version, whole, for the ring of CONFIG. */
function isUsable(): bool {
  return (
    load<u64>(JOURNAL_MAGIC) == MAGIC &&
    load<u32>(JOURNAL_FORMAT) == JOURNAL_VERSION &&
    load<u32>(JOURNAL_CHECKSUM) == checksum() &&
    same(JOURNAL_ABI, CONFIG_ABI) &&
    same(JOURNAL_RING_ENTRIES, CONFIG_ENTRIES) &&
    same(JOURNAL_SECTOR_UNITS, CONFIG_SECTOR_UNITS) &&
    same(JOURNAL_DOMID, CONFIG_DOMID) &&
    load<u32>(JOURNAL_MAX_INDIRECT) <= <u32>MAX_SEGMENTS
  );
}

/** The frontend goes by what was agreed with it, whatever this host would offer; but nobody writes where CONFIG forbids it. */
export function restoreAgreement(): bool {
  if (!isUsable()) return false;
  const readOnly = load<u32>(CONFIG_FEATURES) & FEATURE_READ_ONLY;
  store<u32>(CONFIG_FEATURES, load<u32>(JOURNAL_FEATURES) | readOnly);
  store<u32>(CONFIG_MAX_INDIRECT, load<u32>(JOURNAL_MAX_INDIRECT));
  return true;
}

/** Whether the request in a slot is neither answered in public nor still on the ring. */
function isInFlight(slot: u32, taken: u64, published: u32): bool {
  const state = load<u32>(entryOf(slot), JOURNAL_STATE);
  if (state == JOURNAL_FREE) return false;
  // One that was being taken has the index of the next to be taken.
  if (state == JOURNAL_BUSY) return load<u64>(entryOf(slot), JOURNAL_INDEX) != taken;
  return <i32>(load<u32>(entryOf(slot), JOURNAL_STATE + 4) - published) >= 0;
}

/** False if no core can have left an entry like this. */
function isPlausible(slot: u32, size: u32, taken: u64): bool {
  const state = load<u32>(entryOf(slot), JOURNAL_STATE);
  if (state == JOURNAL_FREE) return true;
  if (state > <u32>JOURNAL_ANSWERED || slot >= size) return false;
  const index = load<u64>(entryOf(slot), JOURNAL_INDEX);
  return index < taken || (index == taken && state == JOURNAL_BUSY);
}

/** Puts a slot where its request belongs in the order of taking. False if another has the same place. */
function insert(slot: u32): bool {
  const index = load<u64>(entryOf(slot), JOURNAL_INDEX);
  let at = RECOVERED_LIST + (recovered++ << 1);
  for (; at > RECOVERED_LIST; at -= 2) {
    const before = load<u16>(at - 2);
    const its = load<u64>(entryOf(before), JOURNAL_INDEX);
    if (its == index) return false;
    if (its < index) break;
    store<u16>(at, before);
  }
  store<u16>(at, slot);
  return true;
}

/**
 * Finds the requests in flight. The guest must have seen an answer to each of the others: if their number is not what lies
 * between the ring's rsp_prod and req_cons, either it or the journal is not what it was. Nothing is changed before all is
 * known to be good; what is changed then may be changed again by the next who recovers, in whole or in part.
 */
export function recoverJournal(size: u32): i32 {
  const published = loadShared(SRING_RSP_PROD);
  const taken = load<u64>(JOURNAL_TAKEN);
  for (let slot: u32 = 0; slot < <u32>MAX_SLOTS; slot++) {
    if (!isPlausible(slot, size, taken)) return ATTACH_BAD_JOURNAL;
    if (isInFlight(slot, taken, published) && !insert(slot)) return ATTACH_BAD_JOURNAL;
  }
  if (recovered != <u32>taken - published) return ATTACH_BAD_JOURNAL;
  if (!startRing(size, taken, published)) return ATTACH_BAD_RING;
  resumeJournal();
  for (let slot: u32 = 0; slot < <u32>MAX_SLOTS; slot++) {
    // A response that was not published is as if it had not been written: its place will be another's.
    const state = isInFlight(slot, taken, published) ? JOURNAL_BUSY : JOURNAL_FREE;
    storeOrdered(entryOf(slot) + JOURNAL_STATE, state);
  }
  claimSlots(RECOVERED_LIST, recovered);
  return ATTACH_OK;
}
