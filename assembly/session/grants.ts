// The grant table that a session pretends: every operation works, except those that a record has doomed.
import {
  CONFIG_DOMID,
  CONFIG_MAX_PERSISTENT,
  CONFIG_PASS_BYTES,
  CONFIG_PASS_SEGMENTS,
  COPIES,
  COPY_BYTES,
  COPY_DEST,
  COPY_DEST_GREF,
  COPY_FLAGS,
  COPY_LENGTH,
  COPY_OWNERS,
  COPY_SOURCE,
  COPY_SOURCE_GREF,
  COPY_STATUS,
  DATA_LARGE_BYTES,
  DATA_SMALL_BYTES,
  MAP_BYTES,
  MAP_GREF,
  MAP_PAGE,
  MAP_STATUS,
  MAPS,
  MAX_IO,
  MAX_PERSISTENT,
  MAX_SEGMENTS,
  OUT_COPIES,
  OUT_MAPS,
  OUT_PASS_BYTES,
  OUT_PASS_SEGMENTS,
  PAGE,
  SEGMENT_BYTES,
  UNMAPS,
} from "../abi";
import { dataOf, LARGE, Request, requestAt, segmentsOf } from "../request";
import { FREE } from "../states";
import {
  BAD_BUDGET,
  BAD_COPY,
  BAD_COPY_MEMORY,
  BAD_MAP,
  BAD_UNMAP,
  BASE_HIGH,
  FORGOTTEN,
  MAX_CONTENTS,
  MAX_FAULTS,
  MAX_GRANTS,
} from "./format";
import { readU8, readU16, readU32 } from "./input";
import { endLine, field, line, signedField } from "./log";
import { CONTENT_GREFS, CONTENTS, FAULTS, GRANTS, MAPPED_GREFS, MAPPED_PAGES } from "./memory";
import { check } from "./violation";

export const BASE: u64 = (<u64>BASE_HIGH) << 32;

/** Pages that are mapped. */
export let mapped: u32 = 0;
/** No page from here on has been mapped. */
let highest: u32 = 0;
let operations: u32 = 0;
let faults: u32 = 0;
/** Grants with a status of their own. */
let grants: u32 = 0;
/** Pages ever given content. */
let contents: u32 = 0;
/** Maps, and copies of data, that the present pass has asked for. */
let passMaps: u32 = 0;
let passCopies: u32 = 0;

export function beginGrants(): void {
  operations = faults = grants = contents = passMaps = passCopies = 0;
  if (mapped != 0) memory.fill(MAPPED_PAGES, 0, MAX_PERSISTENT);
  mapped = highest = 0;
}

// ---- Records ----

export function playFault(): void {
  const distance = readU16();
  const status = <i32>(<i16>readU16());
  if (faults == MAX_FAULTS) return;
  const at = FAULTS + (faults++ << 3);
  store<u32>(at, operations + distance);
  store<i32>(at, status != 0 ? status : -1, 4);
}

/** Address of what is remembered of a grant's status, or 0. */
function grantOf(gref: u32): u32 {
  for (let i: u32 = 0; i < grants; i++) {
    if (load<u32>(GRANTS + (i << 3)) == gref) return GRANTS + (i << 3);
  }
  return 0;
}

export function playGrant(): void {
  const gref = readU32();
  const status = <i32>(<i16>readU16());
  let at = grantOf(gref);
  if (at == 0) {
    if (grants == MAX_GRANTS) return;
    at = GRANTS + (grants++ << 3);
  }
  store<u32>(at, gref);
  store<i32>(at, status, 4);
}

/** Address of a page's content, or 0. */
function contentOf(gref: u32): u32 {
  const known = min<u32>(contents, MAX_CONTENTS);
  for (let i: u32 = 0; i < known; i++) {
    if (load<u32>(CONTENT_GREFS + (i << 2)) == gref) return CONTENTS + i * PAGE;
  }
  return 0;
}

export function playPage(): void {
  const gref = readU32();
  const offset = readU16() & (PAGE - 1);
  const length = min<u32>(readU16(), PAGE - offset);
  let page = contentOf(gref);
  if (page == 0) {
    const position = contents++ % MAX_CONTENTS;
    store<u32>(CONTENT_GREFS + (position << 2), gref);
    page = CONTENTS + position * PAGE;
    memory.fill(page, 0, PAGE);
  }
  for (let i: u32 = 0; i < length; i++) store<u8>(page + offset + i, readU8());
}

// ---- Operations ----

function nextStatus(gref: u32): i32 {
  const number = operations++;
  for (let i: u32 = 0; i < faults; i++) {
    const at = FAULTS + (i << 3);
    if (load<u32>(at) != number) continue;
    const status = load<i32>(at, 4);
    store<u64>(at, load<u64>(FAULTS + (--faults << 3)));
    return status;
  }
  const grant = grantOf(gref);
  return grant != 0 ? load<i32>(grant, 4) : 0;
}

export function performGrants(): void {
  const maps = load<u32>(OUT_MAPS);
  check(maps <= <u32>MAX_PERSISTENT, BAD_MAP);
  passMaps += maps;
  for (let i: u32 = 0; i < maps; i++) map(MAPS + i * MAP_BYTES);
  const copies = load<u32>(OUT_COPIES);
  for (let i: u32 = 0; i < copies; i++) copy(COPIES + i * COPY_BYTES, load<u16>(COPY_OWNERS + (i << 1)));
}

/** At the end of a pass: it has kept to its budget, and done no more than it has taken up. */
export function checkBudget(): void {
  const segments = load<u32>(OUT_PASS_SEGMENTS);
  const bytes = load<u32>(OUT_PASS_BYTES);
  check(segments < load<u32>(CONFIG_PASS_SEGMENTS) + MAX_SEGMENTS, BAD_BUDGET);
  check(bytes < load<u32>(CONFIG_PASS_BYTES) + MAX_IO, BAD_BUDGET);
  check(bytes <= segments * PAGE && passMaps <= segments && passCopies <= segments, BAD_BUDGET);
  passMaps = passCopies = 0;
}

function map(at: u32): void {
  const page = <u32>load<u16>(at, MAP_PAGE);
  const status = nextStatus(load<u32>(at, MAP_GREF));
  line("map");
  field(load<u32>(at, MAP_GREF));
  field(page);
  signedField(status);
  endLine();
  check(page < <u32>MAX_PERSISTENT && load<u8>(MAPPED_PAGES + page) == 0, BAD_MAP);
  if (status != FORGOTTEN) store<i16>(at, status, MAP_STATUS);
  if (status != 0) return;
  const gref = load<u32>(at, MAP_GREF);
  for (let other: u32 = 0; other < highest; other++) {
    if (load<u32>(MAPPED_GREFS + (other << 2)) != gref) continue;
    check(load<u8>(MAPPED_PAGES + other) == 0, BAD_MAP);
  }
  store<u8>(MAPPED_PAGES + page, 1);
  store<u32>(MAPPED_GREFS + (page << 2), gref);
  highest = max(highest, page + 1);
  mapped++;
  check(mapped <= load<u32>(CONFIG_MAX_PERSISTENT), BAD_MAP);
}

function copy(at: u32, owner: u32): void {
  const flags = load<u16>(at, COPY_FLAGS);
  check(flags == COPY_SOURCE_GREF || flags == COPY_DEST_GREF, BAD_COPY);
  const out = flags == COPY_DEST_GREF;
  const grant = load<u64>(at + (out ? COPY_DEST : COPY_SOURCE));
  const address = load<u64>(at + (out ? COPY_SOURCE : COPY_DEST)) - BASE;
  const length = <u32>load<u16>(at, COPY_LENGTH);
  const offset = <u32>(grant >> 32) & 0xffff;
  const status = nextStatus(<u32>grant);
  line(out ? "copy-out" : "copy-in");
  field(grant & 0xffffffff);
  field(offset);
  field(length);
  field(address);
  signedField(status);
  endLine();
  check(grant >> 48 == load<u32>(CONFIG_DOMID), BAD_COPY);
  check(length != 0 && offset + length <= <u32>PAGE, BAD_COPY);
  const request = requestAt(owner);
  check(request.state != FREE, BAD_COPY);
  if (status != FORGOTTEN) store<i16>(at, status, COPY_STATUS);
  const segments = <u64>segmentsOf(owner);
  if (!out && address == segments) {
    check(offset == 0 && length == <u32>request.segments * SEGMENT_BYTES, BAD_COPY_MEMORY);
    if (status == 0) copyContent(<u32>grant, <u32>segments, length);
    return;
  }
  passCopies++;
  check(inData(owner, request, address, length), BAD_COPY_MEMORY);
}

/** Whether linear memory is the request's own part of the data window. */
function inData(slot: u32, request: Request, address: u64, length: u64): bool {
  const start = <u64>dataOf(slot, request);
  const room: u64 = request.flags & LARGE ? DATA_LARGE_BYTES : DATA_SMALL_BYTES;
  return address >= start && address - start <= room && length <= room - (address - start);
}

function copyContent(gref: u32, to: u32, length: u32): void {
  const page = contentOf(gref);
  if (page == 0) memory.fill(to, 0, length);
  else memory.copy(to, page, length);
}

// ---- Unmapping ----

export function unmap(count: u32): void {
  check(count <= mapped, BAD_UNMAP);
  for (let i: u32 = 0; i < count; i++) {
    const page = <u32>load<u16>(UNMAPS + (i << 1));
    field(page);
    check(page < <u32>MAX_PERSISTENT && load<u8>(MAPPED_PAGES + page) != 0, BAD_UNMAP);
    store<u8>(MAPPED_PAGES + page, 0);
    mapped--;
  }
}

/** Whether every byte of linear memory lies on a page that is mapped. */
export function isMappedMemory(address: u64, length: u64, start: u64): bool {
  const end = start + <u64>(MAX_PERSISTENT * PAGE);
  if (length == 0 || address < start || address >= end || length > end - address) return false;
  const last = <u32>((address + length - 1 - start) >> 12);
  for (let page = <u32>((address - start) >> 12); page <= last; page++) {
    if (load<u8>(MAPPED_PAGES + page) == 0) return false;
  }
  return true;
}
