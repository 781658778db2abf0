// Plays a session: guest and host around the core, which runs in the same memory, and a check after every call.
import {
  ATTACH_BAD_CONFIG,
  ATTACH_BAD_RING,
  ATTACH_OK,
  CONFIG_ABI,
  CONFIG_BASE,
  CONFIG_BATCH,
  CONFIG_DOMID,
  CONFIG_ENTRIES,
  CONFIG_FEATURES,
  CONFIG_MAX_INDIRECT,
  CONFIG_MAX_IO,
  CONFIG_MAX_LARGE,
  CONFIG_MAX_PERSISTENT,
  CONFIG_PASS_BYTES,
  CONFIG_PASS_SEGMENTS,
  CONFIG_SECTOR_UNITS,
  CONFIG_SECTORS,
  COUNTER_COUNT,
  COUNTERS,
  MAX_IO,
  MAX_LARGE,
  MAX_PASS_BYTES,
  MAX_PASS_SEGMENTS,
  MAX_PERSISTENT,
  MAX_RING_PAGES,
  MAX_SEGMENTS,
  MAX_SLOTS,
  PAGE,
  STEP_COPY,
  STEP_HALTED,
  STEP_IO,
  STEP_MAP,
  STEP_MORE,
  STEP_NOTIFY,
} from "../abi";
import { attach, step, trim } from "../index";
import { freeLarge } from "../request";
import {
  BAD_ANSWER,
  BAD_HANG,
  BAD_LEAK,
  MAX_PASSES,
  MAX_ROUNDS,
  RECORD_BATCH,
  RECORD_BUDGET,
  RECORD_COMPLETE,
  RECORD_ENDED,
  RECORD_FAULT,
  RECORD_GRANT,
  RECORD_INDEX,
  RECORD_ONCE,
  RECORD_PAGE,
  RECORD_PUSH,
  RECORD_REQUEST,
  RECORD_RESIZE,
  RECORD_STEP,
  RECORD_TRIM,
  RECORD_TYPES,
  SECTOR_BITS,
  SPOILT_ABI,
  SPOILT_BATCH,
  SPOILT_ENTRIES,
  SPOILT_KINDS,
  SPOILT_MAX_INDIRECT,
  SPOILT_MAX_IO,
  SPOILT_MAX_PERSISTENT,
  SPOILT_PASS_BYTES,
  SPOILT_PASS_SEGMENTS,
  SPOILT_SECTOR_UNITS,
} from "./format";
import {
  BASE,
  beginGrants,
  checkBudget,
  mapped,
  performGrants,
  playFault,
  playGrant,
  playPage,
  unmap,
} from "./grants";
import { atEnd, beginInput, readU8, readU16, readU32, readU64 } from "./input";
import {
  beginIos,
  completeIo,
  hasCompletions,
  isIdle,
  noteSize,
  playComplete,
  playEnded,
  startIos,
  takeCompletions,
} from "./ios";
import { clearLog, endLine, field, line, signedField } from "./log";
import {
  beginRing,
  inFlight,
  isDrained,
  isOverfull,
  isStrange,
  mayHalt,
  observeRing,
  observeTaking,
  playIndex,
  playPush,
  playRequest,
  shadowRing,
} from "./ring";
import { check, clearViolation } from "./violation";

let attached: bool = false;
let more: bool = false;
/** A pass has begun and not ended. */
let inPass: bool = false;
let lastTime: u32 = 0;

function readSectors(): u64 {
  return readU64() & (((<u64>1) << SECTOR_BITS) - 1);
}

function readBudget(): void {
  store<u32>(CONFIG_PASS_SEGMENTS, (readU32() % MAX_PASS_SEGMENTS) + 1);
  store<u32>(CONFIG_PASS_BYTES, (readU32() % MAX_PASS_BYTES) + 1);
}

/** Starts on the session of so many bytes that lies at INPUT. */
export function begin(length: u32): void {
  clearViolation();
  clearLog();
  beginInput(length);
  more = inPass = false;
  lastTime = 0;
  readU32();
  readU16();
  store<u32>(CONFIG_ABI, readU8() & 1);
  const pages = min<u32>(1 << (readU8() % 5), MAX_RING_PAGES);
  store<u32>(CONFIG_ENTRIES, pages * 32);
  store<u32>(CONFIG_FEATURES, readU16() & 63);
  store<u32>(CONFIG_SECTOR_UNITS, 1 << (readU8() & 3));
  const spoilt = <i32>(readU8() % SPOILT_KINDS);
  store<u32>(CONFIG_MAX_INDIRECT, readU16() % (MAX_SEGMENTS + 1));
  store<u32>(CONFIG_MAX_PERSISTENT, readU16() % (MAX_PERSISTENT + 1));
  store<u32>(CONFIG_BATCH, readU16() % (MAX_SLOTS + 1));
  store<u32>(CONFIG_DOMID, readU16() & 0x7fff);
  store<u32>(CONFIG_MAX_LARGE, 0);
  store<u32>(CONFIG_MAX_IO, max<u32>(readU32() % (MAX_IO + 1), PAGE));
  const sectors = readSectors();
  store<u64>(CONFIG_SECTORS, sectors);
  store<u64>(CONFIG_BASE, BASE);
  const start = readU32();
  beginRing(pages, start, readU32());
  readBudget();
  beginGrants();
  beginIos(sectors);
  spoil(spoilt);
  const code = attach();
  line("attach");
  signedField(code);
  endLine();
  const expected = spoilt != 0 ? ATTACH_BAD_CONFIG : isOverfull() ? ATTACH_BAD_RING : ATTACH_OK;
  check(code == expected, BAD_ANSWER);
  attached = code == ATTACH_OK;
}

/** Writes one of the values that SPOILT_* lists to its field. */
function spoil(kind: i32): void {
  if (kind == 0) return;
  if (kind < SPOILT_ENTRIES) store<i32>(CONFIG_ABI, kind == SPOILT_ABI ? -1 : 2);
  else if (kind < SPOILT_SECTOR_UNITS) spoilTo(CONFIG_ENTRIES, kind - SPOILT_ENTRIES, 16, 48, 1024);
  else if (kind < SPOILT_MAX_INDIRECT) spoilTo(CONFIG_SECTOR_UNITS, kind - SPOILT_SECTOR_UNITS, 0, 3, 16);
  else if (kind < SPOILT_MAX_IO)
    store<i32>(CONFIG_MAX_INDIRECT, kind == SPOILT_MAX_INDIRECT ? -1 : MAX_SEGMENTS + 1);
  else if (kind < SPOILT_MAX_PERSISTENT)
    store<i32>(CONFIG_MAX_IO, kind == SPOILT_MAX_IO ? PAGE - 1 : MAX_IO + 1);
  else if (kind < SPOILT_BATCH)
    store<i32>(CONFIG_MAX_PERSISTENT, kind == SPOILT_MAX_PERSISTENT ? -1 : MAX_PERSISTENT + 1);
  else if (kind < SPOILT_PASS_SEGMENTS) store<i32>(CONFIG_BATCH, kind == SPOILT_BATCH ? -1 : MAX_SLOTS + 1);
  else if (kind < SPOILT_PASS_BYTES)
    store<i32>(CONFIG_PASS_SEGMENTS, kind == SPOILT_PASS_SEGMENTS ? 0 : MAX_PASS_SEGMENTS + 1);
  else store<i32>(CONFIG_PASS_BYTES, kind == SPOILT_PASS_BYTES ? 0 : MAX_PASS_BYTES + 1);
}

function spoilTo(field: u32, choice: i32, a: u32, b: u32, c: u32): void {
  store<u32>(field, choice == 0 ? a : choice == 1 ? b : c);
}

/** Plays the next record. False when there is none. */
export function next(): bool {
  clearLog();
  if (!attached || atEnd()) return false;
  const type = readU8() % RECORD_TYPES;
  if (type == RECORD_REQUEST) playRequest();
  else if (type == RECORD_PUSH) playPush();
  else if (type == RECORD_INDEX) playIndex();
  else if (type == RECORD_PAGE) playPage();
  else if (type == RECORD_STEP) playStep(false);
  else if (type == RECORD_ONCE) playStep(true);
  else if (type == RECORD_COMPLETE) playComplete();
  else if (type == RECORD_FAULT) playFault();
  else if (type == RECORD_ENDED) playEnded();
  else if (type == RECORD_GRANT) playGrant();
  else playBetweenPasses(type);
  return true;
}

/** What a host does between passes: one that has begun goes on to its end. */
function playBetweenPasses(type: u32): void {
  if (inPass) pass(false);
  if (type == RECORD_TRIM) drop(readU32());
  else if (type == RECORD_RESIZE) resize(readSectors());
  else if (type == RECORD_BATCH) store<u32>(CONFIG_BATCH, readU16() % (MAX_SLOTS + 1));
  else if (type == RECORD_BUDGET) readBudget();
}

function resize(sectors: u64): void {
  store<u64>(CONFIG_SECTORS, sectors);
  noteSize(sectors);
}

/**
 * A frontend whose req_prod is strange may be right once the completions are answered, and its newest requests then
 * lie under responses that it has not seen. Two passes keep apart what was taken from what was written.
 */
function playStep(once: bool): void {
  if (!inPass && hasCompletions() && isStrange()) {
    const batch = load<u32>(CONFIG_BATCH);
    store<u32>(CONFIG_BATCH, 0);
    pass(false);
    store<u32>(CONFIG_BATCH, batch);
  }
  pass(once);
}

/** Begins a pass or goes on with it: one call of the core, and more as long as it asks for grant operations. */
function pass(once: bool): void {
  const completions = takeCompletions();
  line("step");
  field(completions);
  endLine();
  let flags = call(completions);
  for (let rounds = 0; flags & (STEP_COPY | STEP_MAP); rounds++) {
    check(rounds < MAX_ROUNDS && !(flags & (STEP_IO | STEP_MORE | STEP_HALTED)), BAD_HANG);
    performGrants();
    if (once) return;
    flags = call(0);
  }
  inPass = false;
  checkBudget();
  check(mayHalt((flags & STEP_HALTED) != 0), BAD_ANSWER);
  more = (flags & STEP_MORE) != 0;
  if (flags & STEP_IO) startIos();
}

/** One call of the core, and what it did to the ring. */
function call(completions: u32): u32 {
  shadowRing();
  const flags = step(completions);
  if (!inPass) observeTaking();
  inPass = true;
  observeRing((flags & STEP_NOTIFY) != 0);
  line("flags");
  field(flags);
  endLine();
  return flags;
}

function drop(now: u32): void {
  lastTime = now;
  line("trim");
  field(now);
  unmap(trim(now));
  endLine();
}

/** Lets everything end that is under way, and checks that nothing is left. */
export function finish(): void {
  clearLog();
  if (!attached) return;
  for (let passes = 0; ; passes++) {
    check(passes < MAX_PASSES, BAD_HANG);
    while (!isIdle()) completeIo(0, 0);
    playStep(false);
    if (isIdle() && !more) break;
  }
  check(inFlight() == 0, BAD_LEAK);
  check(isDrained(), BAD_HANG);
  check(freeLarge == min<u32>(MAX_LARGE, load<u32>(CONFIG_ENTRIES)), BAD_LEAK);
  // A page that was used at a time that had not come yet goes with the second.
  drop(lastTime + 600);
  drop(lastTime + 600);
  check(mapped == 0, BAD_LEAK);
  attached = false;
  line("counters");
  for (let i = 0; i < COUNTER_COUNT; i++) field(load<u64>(COUNTERS + (i << 3)));
  endLine();
}
