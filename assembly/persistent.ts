// Persistent grants (feature-persistent): pages that stay mapped in the persistent window, found by grant ref.
//
// A hash with linear probing at half load leads from gref to page. A page in use by a request is never dropped;
// idle ones are, oldest first, when they get too many or too old, as Linux's backend does.
import {
  CONFIG_HASH_KEY,
  CONFIG_MAX_PERSISTENT,
  COUNT_MAPS,
  COUNT_PERSISTENT_HITS,
  FREE_PAGES,
  MAP_BYTES,
  MAP_GREF,
  MAP_PAGE,
  MAP_STATUS,
  MAPS,
  MAX_PERSISTENT,
  PERSISTENT_HASH,
  PERSISTENT_HASH_ENTRIES,
  PERSISTENT_PAGE_BYTES,
  PERSISTENT_PAGES,
  SEGMENT_BYTES,
  SEGMENT_PAGE,
  UNMAPS,
} from "./abi";
import { count } from "./counters";

@unmanaged
class Page {
  gref: u32;
  /** The trim that last found it in use, or used since the trim before. */
  lastUse: u32;
  /** Segments of requests under way; they may all name the same grant: MAX_SLOTS * MAX_SEGMENTS. */
  users: u32;
  state: u16;
  /** Used since the last trim. */
  touched: bool;
}

const UNUSED: u16 = 0;
/** The host has been asked to map it. */
const PENDING: u16 = 1;
const MAPPED: u16 = 2;
/** Mapping failed; it goes as soon as nobody refers to it. */
const FAILED: u16 = 3;

const NO_PAGE: u32 = 0xffff;

/** How far from its bucket a grant may lie: far more than chance makes of a table that is half full. */
const MAX_PROBES: u32 = 64;

/** Failures to map, less successes, from which on grants are taken for ones that cannot be mapped, and are copied. */
const MAX_FAILURES: u32 = 64;
/** One in so many is tried nevertheless: the failures may have had another reason, which has passed. */
const TRIAL: u32 = 256;

/** The host's, so that a guest cannot choose grants whose buckets collide. */
let key: u32 = 0;
let freePages: u32 = 0;
let limit: u32 = 0;
/** A page was wanted and there was none: the next trim makes room. */
let starved: bool = false;
/** Up to MAX_FAILURES. A failure costs system calls, and a guest that grants read-only pages causes one for each. */
let failures: u32 = 0;
/** Grants that were copied because of them. */
let untried: u32 = 0;
/** Pages to map in this round. */
export let maps: u32 = 0;
/** Pages that are mapped, or about to be. */
export let pagesUsed: u32 = 0;

function pageAt(page: u32): Page {
  assert(page < <u32>MAX_PERSISTENT);
  return changetype<Page>(PERSISTENT_PAGES + page * PERSISTENT_PAGE_BYTES);
}

export function resetPersistent(): void {
  limit = load<u32>(CONFIG_MAX_PERSISTENT);
  key = load<u32>(CONFIG_HASH_KEY);
  memory.fill(PERSISTENT_HASH, 0, PERSISTENT_HASH_ENTRIES * 8);
  memory.fill(PERSISTENT_PAGES, 0, MAX_PERSISTENT * PERSISTENT_PAGE_BYTES);
  // Taken in ascending order, so that grants that are new together lie together and are mapped in one run.
  for (let i = 0; i < MAX_PERSISTENT; i++) store<u16>(FREE_PAGES + (i << 1), MAX_PERSISTENT - 1 - i);
  freePages = MAX_PERSISTENT;
  pagesUsed = maps = 0;
  starved = false;
  failures = untried = 0;
}

function bucketOf(gref: u32): u32 {
  // Both halves of the product, so that every bit of the grant counts.
  const product = <u64>(gref ^ key) * 0x19e3779b97f4a7;
  return <u32>(product ^ (product >> 32)) >> 20;
}

function entryAt(bucket: u32): u32 {
  return PERSISTENT_HASH + ((bucket & (PERSISTENT_HASH_ENTRIES - 1)) << 3);
}

/** The hash entry of a gref, or the empty one where it would go; 0 when that is more than MAX_PROBES away. */
function find(gref: u32): u32 {
  const home = bucketOf(gref);
  for (let bucket = home; bucket < home + MAX_PROBES; bucket++) {
    const entry = entryAt(bucket);
    if (load<u32>(entry, 4) == 0 || load<u32>(entry) == gref) return entry;
  }
  return 0;
}

/** The page that the hash has where it would have a gref's first: the right one, mostly. */
function firstProbe(gref: u32): u32 {
  return (load<u32>(entryAt(bucketOf(gref)), 4) - 1) & (MAX_PERSISTENT - 1);
}

function entryBehind(at: u32): u32 {
  return PERSISTENT_HASH + ((at - PERSISTENT_HASH + 8) & (PERSISTENT_HASH_ENTRIES * 8 - 1));
}

/** Takes an entry out and closes the gap in the probe sequence behind it. */
function unlink(gref: u32): void {
  let hole = find(gref);
  assert(hole != 0 && load<u32>(hole) == gref && load<u32>(hole, 4) != 0);
  for (let at = entryBehind(hole); load<u32>(at, 4) != 0; at = entryBehind(at)) {
    const home = bucketOf(load<u32>(at)) & (PERSISTENT_HASH_ENTRIES - 1);
    const index = (at - PERSISTENT_HASH) >> 3;
    const gap = (hole - PERSISTENT_HASH) >> 3;
    // The entry may move back only as far as its home bucket.
    if (((index - home) & (PERSISTENT_HASH_ENTRIES - 1)) >= ((index - gap) & (PERSISTENT_HASH_ENTRIES - 1))) {
      store<u64>(hole, load<u64>(at));
      hole = at;
    }
  }
  store<u64>(hole, 0);
}

/** What `usePages` found. */
export const NO_ROOM: i32 = 0;
export const TO_BE_MAPPED: i32 = 1;
export const ALL_MAPPED: i32 = 2;

// users, state and touched of a page are one u64, so that a segment costs one load and one store of them.
const PAGE_USE = 8;
const STATE_SHIFT: u64 = 32;
const MAPPED_AND_TOUCHED: u64 = (1 << 16) | MAPPED;

/** Finds or asks for the page of every segment from `start` up to `end`. With NO_ROOM none is held. */
export function usePages(start: u32, end: u32): i32 {
  let unmapped: u32 = 0;
  let page: u32 = 0;
  let previous: u32 = 0;
  for (let at = start; at < end; at += SEGMENT_BYTES) {
    const gref = load<u32>(at);
    // Grants that are neighbours were mostly mapped together, as neighbours: then the hash need not be asked.
    page = gref == previous + 1 ? (page + 1) & (MAX_PERSISTENT - 1) : firstProbe(gref);
    previous = gref;
    const it = PERSISTENT_PAGES + page * PERSISTENT_PAGE_BYTES;
    const use = load<u64>(it, PAGE_USE);
    const difference = ((use >> STATE_SHIFT) ^ MAPPED_AND_TOUCHED) | <u64>(load<u32>(it) ^ gref);
    if (difference == 0) store<u64>(it, use + 1, PAGE_USE);
    else {
      page = usePage(gref);
      if (page == NO_PAGE) {
        leavePages(start, at);
        return NO_ROOM;
      }
      if (pageAt(page).state != MAPPED) unmapped++;
    }
    store<u16>(at, page, SEGMENT_PAGE);
  }
  count(COUNT_PERSISTENT_HITS, (end - start) / SEGMENT_BYTES - unmapped);
  return unmapped == 0 ? ALL_MAPPED : TO_BE_MAPPED;
}

/** The page of a gref, with one more user; asks the host to map it if it is new. NO_PAGE when there is no room. */
function usePage(gref: u32): u32 {
  const entry = find(gref);
  if (entry == 0) return NO_PAGE;
  let page = load<u32>(entry, 4);
  if (page != 0) {
    page--;
    const known = pageAt(page);
    if (known.state == FAILED) return NO_PAGE;
    known.users++;
    known.touched = true;
    return page;
  }
  if (failures == MAX_FAILURES && ++untried % TRIAL != 0) return NO_PAGE;
  if (pagesUsed >= limit) {
    starved = true;
    return NO_PAGE;
  }
  assert(freePages != 0 && maps < <u32>MAX_PERSISTENT);
  page = load<u16>(FREE_PAGES + (--freePages << 1));
  assert(pageAt(page).state == UNUSED);
  pagesUsed++;
  store<u32>(entry, gref);
  store<u32>(entry, page + 1, 4);
  const fresh = pageAt(page);
  fresh.gref = gref;
  fresh.touched = true;
  fresh.users = 1;
  fresh.state = PENDING;
  const map = MAPS + maps++ * MAP_BYTES;
  store<u32>(map, gref, MAP_GREF);
  store<u16>(map, page, MAP_PAGE);
  // A host that forgets to write the status must not make us trust the page.
  store<i16>(map, -1, MAP_STATUS);
  return page;
}

/** One user less of every segment's page. */
export function leavePages(start: u32, end: u32): void {
  for (let at = start; at < end; at += SEGMENT_BYTES) {
    const page = <u32>load<u16>(at, SEGMENT_PAGE);
    const it = PERSISTENT_PAGES + page * PERSISTENT_PAGE_BYTES;
    assert(pageAt(page).users != 0);
    const use = load<u64>(it, PAGE_USE) - 1;
    store<u64>(it, use, PAGE_USE);
    if (use >> STATE_SHIFT != MAPPED_AND_TOUCHED) dropIfFailed(page);
  }
}

function dropIfFailed(page: u32): void {
  const it = pageAt(page);
  if (it.users == 0 && it.state == FAILED) drop(page);
}

export function areMapped(start: u32, end: u32): bool {
  for (let at = start; at < end; at += SEGMENT_BYTES) {
    if (pageAt(load<u16>(at, SEGMENT_PAGE)).state != MAPPED) return false;
  }
  return true;
}

function drop(page: u32): void {
  const it = pageAt(page);
  assert(it.users == 0 && it.state != UNUSED && pagesUsed != 0);
  unlink(it.gref);
  it.state = UNUSED;
  pagesUsed--;
  store<u16>(FREE_PAGES + (freePages++ << 1), page);
}

/** Reads what the host wrote into MAPS. */
export function settleMaps(): void {
  for (let i: u32 = 0; i < maps; i++) {
    const map = MAPS + i * MAP_BYTES;
    const page = pageAt(load<u16>(map, MAP_PAGE));
    assert(page.state == PENDING);
    if (load<i16>(map, MAP_STATUS) == 0) {
      page.state = MAPPED;
      if (failures != 0) failures--;
      continue;
    }
    page.state = FAILED;
    if (failures != MAX_FAILURES) failures++;
    if (page.users == 0) drop(load<u16>(map, MAP_PAGE));
  }
  count(COUNT_MAPS, maps);
  maps = 0;
}

/** Idle time, in the units of `trim`'s clock (tenths of a second), after which a page goes: Linux's 60 s. */
const MAX_IDLE: u32 = 600;

/**
 * Drops idle pages: those not used for a minute, and, when there was no room for a new one, the oldest twentieth of
 * the limit. Their numbers lie in UNMAPS; the host unmaps them before its next call.
 */
export function trimPages(now: u32): u32 {
  let dropped: u32 = 0;
  // Downwards, so that the free list gives them out upwards again and neighbours are mapped in one run.
  for (let page = MAX_PERSISTENT - 1; page >= 0; page--) {
    const it = pageAt(page);
    if (it.state != MAPPED) continue;
    if (it.touched || it.users != 0) {
      it.lastUse = now;
      it.touched = false;
    } else if (now - it.lastUse >= MAX_IDLE) dropped = dropTo(dropped, page);
  }
  if (starved) {
    starved = false;
    const wanted = max<u32>(limit / 20, 1);
    while (dropped < wanted) {
      const page = oldestIdle(now);
      if (page == NO_PAGE) break;
      dropped = dropTo(dropped, page);
    }
  }
  return dropped;
}

function dropTo(position: u32, page: u32): u32 {
  drop(page);
  store<u16>(UNMAPS + (position << 1), page);
  return position + 1;
}

function oldestIdle(now: u32): u32 {
  let oldest = NO_PAGE;
  let age: u32 = 0;
  for (let page = MAX_PERSISTENT - 1; page >= 0; page--) {
    const it = pageAt(page);
    if (it.state != MAPPED || it.users != 0) continue;
    if (oldest != NO_PAGE && now - it.lastUse <= age) continue;
    oldest = page;
    age = now - it.lastUse;
  }
  return oldest;
}
