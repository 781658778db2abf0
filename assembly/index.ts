// The core's exports. See abi.ts for the contract.
//
// A pass takes what the ring holds (bounded) and moves every request as far as it goes without the host:
//
//   ring -> TAKEN -> [FETCHING] -> HELD? -> ADMITTED -> [MAPPING] [COPYING] -> LOADED -> BUSY -> [READ_DONE] -> DONE
//
// states.ts has each state, and which may follow which.
//
// Where grant operations are needed, step() returns for the host to carry them out, all of a round in one batch,
// and goes on when it is called again. A pass ends with I/Os to start, responses published, and the ring checked.
import {
  ABI_VERSION,
  ABI_X86_32,
  ABI_X86_64,
  ATTACH_BAD_CONFIG,
  ATTACH_BAD_JOURNAL,
  ATTACH_BAD_RING,
  ATTACH_OK,
  BLKIF_OP_DISCARD,
  BLKIF_RSP_ERROR,
  BLKIF_RSP_OKAY,
  CONFIG_ABI,
  CONFIG_BATCH,
  CONFIG_ENTRIES,
  CONFIG_MAX_INDIRECT,
  CONFIG_MAX_IO,
  CONFIG_MAX_LARGE,
  CONFIG_MAX_PERSISTENT,
  CONFIG_PASS_BYTES,
  CONFIG_PASS_SEGMENTS,
  CONFIG_SECTOR_UNITS,
  COUNT_BAD_GRANT,
  JOURNAL_REQUEST,
  MAX_IO,
  MAX_LARGE,
  MAX_PASS_BYTES,
  MAX_PASS_SEGMENTS,
  MAX_PERSISTENT,
  MAX_SEGMENTS,
  MAX_SLOTS,
  OUT_COPIES,
  OUT_INFLIGHT,
  OUT_IOS,
  OUT_MAPS,
  OUT_PERSISTENT,
  PAGE,
  STEP_COPY,
  STEP_HALTED,
  STEP_IO,
  STEP_MAP,
  STEP_MORE,
  STEP_NOTIFY,
} from "./abi";
import { beginBudget, mayTakeUp, publishUse, takeUpNew } from "./budget";
import { beginPlan, configureCoalesce, ios, plan } from "./coalesce";
import { answer, complete, finish } from "./complete";
import { count, resetCounters } from "./counters";
import {
  configureData,
  copies,
  copySegments,
  fetchSegments,
  placeData,
  roomForCopies,
  settleCopies,
  settleMapping,
} from "./data";
import { configureDecode, countOperation, decode, indirectGref, isLarge, validate } from "./decode";
import { admit, resetHazards } from "./hazards";
import { beginJournal, entryOf } from "./journal";
import { selectLayout } from "./layout";
import { maps, pagesUsed, resetPersistent, settleMaps, trimPages } from "./persistent";
import {
  hasRecovered,
  nextRecovered,
  recoverJournal,
  resetRecovered,
  restoreAgreement,
  takeUpRecovered,
} from "./recover";
import {
  addToPass,
  endPass,
  enterState,
  FAULT,
  freeLarge,
  freeSlot,
  freeSlots,
  INDIRECT,
  inPass,
  passLength,
  Request,
  readyLength,
  readyToPass,
  requestAt,
  resetRequests,
  takeLarge,
  takeSlot,
} from "./request";
import {
  attachRing,
  consume,
  copyRequest,
  entries,
  finalCheck,
  missedResponse,
  overflows,
  publish,
  rspProd,
  unconsumed,
} from "./ring";
import {
  ADMITTED,
  COPYING,
  COPYING_OUT,
  DONE,
  FETCHING,
  FREE,
  LOADED,
  MAPPING,
  READ_DONE,
  TAKEN,
} from "./states";

let inRound: bool = false;
let halted: bool = false;
/** The next request waits on the ring for one of the large data regions. */
let wantsLarge: bool = false;

export function version(): i32 {
  return ABI_VERSION;
}

function within(field: u32, low: i32, high: i32): bool {
  const value = load<i32>(field);
  return value >= low && value <= high;
}

function configured(): bool {
  const size = load<u32>(CONFIG_ENTRIES);
  const units = load<u32>(CONFIG_SECTOR_UNITS);
  return (
    within(CONFIG_ABI, ABI_X86_64, ABI_X86_32) &&
    within(CONFIG_ENTRIES, 32, MAX_SLOTS) &&
    (size & (size - 1)) == 0 &&
    within(CONFIG_SECTOR_UNITS, 1, 8) &&
    (units & (units - 1)) == 0 &&
    within(CONFIG_MAX_INDIRECT, 0, MAX_SEGMENTS) &&
    within(CONFIG_MAX_IO, PAGE, MAX_IO) &&
    within(CONFIG_MAX_PERSISTENT, 0, MAX_PERSISTENT) &&
    within(CONFIG_MAX_LARGE, 0, MAX_LARGE) &&
    within(CONFIG_BATCH, 0, MAX_SLOTS) &&
    within(CONFIG_PASS_SEGMENTS, 1, MAX_PASS_SEGMENTS) &&
    within(CONFIG_PASS_BYTES, 1, MAX_PASS_BYTES)
  );
}

export function attach(): i32 {
  if (!configured()) return ATTACH_BAD_CONFIG;
  const size = reset();
  const good = attachRing(size);
  beginJournal(rspProd);
  storeTotals();
  return good ? ATTACH_OK : ATTACH_BAD_RING;
}

export function recover(): i32 {
  if (!configured()) return ATTACH_BAD_CONFIG;
  if (!restoreAgreement()) return ATTACH_BAD_JOURNAL;
  const code = recoverJournal(reset());
  // Where it is refused there is no ring of which something could be in flight.
  if (code == ATTACH_OK) storeTotals();
  return code;
}

/** Sets everything to its beginning, for the ring of CONFIG; returns the number of its entries. */
function reset(): u32 {
  const size = load<u32>(CONFIG_ENTRIES);
  selectLayout(load<u32>(CONFIG_ABI));
  resetCounters();
  resetRequests(size);
  resetHazards();
  resetPersistent();
  resetRecovered();
  configureDecode();
  configureData();
  configureCoalesce();
  inRound = halted = wantsLarge = false;
  return size;
}

function storeTotals(): void {
  assert(freeSlots <= entries);
  store<u32>(OUT_INFLIGHT, entries - freeSlots);
  store<u32>(OUT_PERSISTENT, pagesUsed);
}

export function trim(now: u32): i32 {
  const dropped = trimPages(now);
  storeTotals();
  return <i32>dropped;
}

export function idle(): i32 {
  return missedResponse() ? STEP_NOTIFY : 0;
}

export function step(n: u32): i32 {
  assert(n <= <u32>MAX_SLOTS);
  if (inRound) {
    settleMaps();
    settleCopies();
    complete(n);
  } else {
    complete(n);
    beginBudget();
    readyToPass();
    takeRequests();
  }
  advanceAll();
  inRound = copies != 0 || maps != 0;
  store<u32>(OUT_COPIES, copies);
  store<u32>(OUT_MAPS, maps);
  const notify = publish() ? STEP_NOTIFY : 0;
  storeTotals();
  if (inRound) return (copies != 0 ? STEP_COPY : 0) | (maps != 0 ? STEP_MAP : 0) | notify;
  return endOfPass() | notify;
}

/** Takes requests from the ring into the pass, at most a batch. */
function takeRequests(): void {
  wantsLarge = false;
  if (!takeRecovered()) return;
  const batch = load<u32>(CONFIG_BATCH);
  if (halted || batch == 0) return;
  const claimed = unconsumed();
  if (overflows(claimed)) {
    halted = true;
    return;
  }
  for (let left = min(claimed, batch); left != 0 && mayTakeUp(); left--) {
    const slot = takeSlot();
    const copy = copyRequest(slot);
    const large = isLarge(copy);
    if (large && freeLarge == 0) {
      // It stays on the ring, and is copied again from scratch when there is one.
      freeSlot(slot);
      wantsLarge = true;
      return;
    }
    const request = requestAt(slot);
    consume(slot);
    begin(slot, request, copy, large);
  }
}

/** Takes up what was in flight when another instance ended, in its order. False while some of it has to wait. */
function takeRecovered(): bool {
  while (hasRecovered()) {
    if (!mayTakeUp()) return false;
    const slot = nextRecovered();
    const copy = entryOf(slot) + JOURNAL_REQUEST;
    const large = isLarge(copy);
    if (large && freeLarge == 0) {
      wantsLarge = true;
      return false;
    }
    takeUpRecovered();
    begin(slot, requestAt(slot), copy, large);
  }
  return true;
}

/** A request that is taken, and has its copy in the journal, enters the pass or is answered. */
function begin(slot: u32, request: Request, copy: u32, large: bool): void {
  enterState(request, TAKEN);
  if (!decode(slot, request, copy)) {
    answer(slot, request);
    return;
  }
  if (large) takeLarge(request);
  takeUpNew(request);
  addToPass(slot);
}

/** Moves all requests of the pass on. Those behind one that is still being fetched wait: they enter in ring order. */
function advanceAll(): void {
  let fetching = false;
  for (let i: u32 = 0; i < passLength; i++) {
    const slot = inPass(i);
    const request = requestAt(slot);
    advance(slot, request, fetching);
    if (request.state == DONE) answer(slot, request);
    else if (request.state <= FETCHING && request.state != FREE) fetching = true;
  }
}

/** In a round, whatever the last return of step() asked for has been carried out. */
function advance(slot: u32, request: Request, behindFetch: bool): void {
  switch (request.state) {
    case TAKEN:
      if (request.flags & INDIRECT) fetch(slot, request);
      else if (!behindFetch) enter(slot, request);
      return;
    case FETCHING:
      // Never behind one that is still being fetched: all that are FETCHING have been fetched together.
      if (!failed(slot, request)) enter(slot, request);
      return;
    case ADMITTED:
      placeData(slot, request);
      return;
    case MAPPING:
      settleMapping(slot, request);
      return;
    case COPYING:
      if (!failed(slot, request)) enterState(request, LOADED);
      return;
    case READ_DONE:
      copyOut(slot, request);
      return;
    case COPYING_OUT:
      if (!failed(slot, request)) finish(slot, request, BLKIF_RSP_OKAY);
      return;
  }
}

function fetch(slot: u32, request: Request): void {
  if (!roomForCopies(1)) return;
  const copy = entryOf(slot) + JOURNAL_REQUEST;
  fetchSegments(slot, request.segments, indirectGref(copy));
  enterState(request, FETCHING);
}

function copyOut(slot: u32, request: Request): void {
  if (!roomForCopies(request.segments)) return;
  copySegments(slot, true);
  enterState(request, COPYING_OUT);
}

function enter(slot: u32, request: Request): void {
  if (!validate(slot, request)) return;
  countOperation(request);
  if (request.operation == BLKIF_OP_DISCARD && request.sectors == 0) {
    finish(slot, request, BLKIF_RSP_OKAY);
    return;
  }
  admit(slot);
  if (request.state == ADMITTED) placeData(slot, request);
}

function failed(slot: u32, request: Request): bool {
  if (!(request.flags & FAULT)) return false;
  count(COUNT_BAD_GRANT, 1);
  finish(slot, request, BLKIF_RSP_ERROR);
  return true;
}

/** Turns what is loaded into I/Os and arranges to be woken. */
function endOfPass(): i32 {
  beginPlan();
  for (let i: u32 = 0; i < passLength; i++) {
    const slot = inPass(i);
    const request = requestAt(slot);
    if (request.state == LOADED) plan(slot, request);
  }
  endPass();
  publishUse();
  store<u32>(OUT_IOS, ios);
  let flags = ios != 0 ? STEP_IO : 0;
  if (readyLength != 0 || (hasRecovered() && freeLarge != 0)) flags |= STEP_MORE;
  if (halted) return flags | STEP_HALTED;
  // What waits for a large region is woken by the completion that frees one, and what a drain leaves by nobody.
  if (load<u32>(CONFIG_BATCH) == 0 || (wantsLarge && freeLarge == 0)) return flags;
  return finalCheck() ? flags | STEP_MORE : flags;
}
