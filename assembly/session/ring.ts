// The guest's side of the ring, and what it sees of the backend's: every byte that changes must be the backend's.
import {
  BLKIF_OP_INDIRECT,
  BLKIF_RSP_EOPNOTSUPP,
  BLKIF_RSP_OKAY,
  CONFIG_BATCH,
  OUT_INFLIGHT,
  OUT_REQ_CONS,
  OUT_RSP_PROD,
  PAGE,
  SRING,
  SRING_ENTRIES,
  SRING_REQ_EVENT,
  SRING_REQ_PROD,
  SRING_RSP_EVENT,
  SRING_RSP_PROD,
} from "../abi";
import { idOffset, RESPONSE_ID, RESPONSE_OPERATION, RESPONSE_STATUS, stride } from "../layout";
import {
  BAD_INDEX,
  BAD_LEAK,
  BAD_NOTIFY,
  BAD_RESPONSE,
  BAD_RING_WRITE,
  BAD_STATUS,
  BAD_TAKE,
  MAX_ENTRY_BYTES,
} from "./format";
import { readU8, readU32 } from "./input";
import { endLine, field, line, signedField } from "./log";
import { ASKED, ASKED_BYTES, SHADOW } from "./memory";
import { check } from "./violation";

let entries: u32 = 0;
let ringBytes: u32 = 0;
/** The guest's req_prod_pvt. */
let next: u32 = 0;
let reqCons: u32 = 0;
let rspProd: u32 = 0;
/** Requests taken and not answered. */
let asked: u32 = 0;
let ringHalted: bool = false;
/** Whether req_prod was strange when requests were last taken. */
let wasStrange: bool = false;
/** Whether what was taken cannot be told any more: see `isStrange`. */
let confused: bool = false;

const SHADOW_ENTRIES = SHADOW + (SRING_ENTRIES - SRING);

export function beginRing(pages: u32, start: u32, ahead: u32): void {
  entries = pages * 32;
  ringBytes = pages * PAGE;
  memory.fill(SRING, 0, ringBytes);
  next = reqCons = rspProd = start;
  asked = 0;
  ringHalted = wasStrange = confused = false;
  store<u32>(SRING_REQ_PROD, start + ahead);
  store<u32>(SRING_REQ_EVENT, start + 1);
  store<u32>(SRING_RSP_PROD, start);
  store<u32>(SRING_RSP_EVENT, start + 1);
}

/** To be called before the core is. */
export function shadowRing(): void {
  memory.copy(SHADOW, SRING, ringBytes);
}

export function playRequest(): void {
  const at = SRING_ENTRIES + (next++ & (entries - 1)) * stride;
  const length = readU8() % (MAX_ENTRY_BYTES + 1);
  for (let i: u32 = 0; i < length; i++) {
    const byte = readU8();
    if (i < stride) store<u8>(at + i, byte);
  }
}

export function playPush(): void {
  store<u32>(SRING_REQ_PROD, next);
}

export function playIndex(): void {
  const which = readU8() & 3;
  store<u32>(SRING + (which << 2), readU32());
}

/** Whether the frontend claims more requests than the ring holds. */
export function isOverfull(): bool {
  return load<u32>(SRING_REQ_PROD) - rspProd > entries;
}

/**
 * Whether req_prod is not where an honest frontend can have it: overfull, or behind what it has published before. In
 * the latter case a backend may take entries that lie under responses of the same pass, as Linux's does, or halt.
 */
export function isStrange(): bool {
  return load<u32>(SRING_REQ_PROD) - reqCons > entries - (reqCons - rspProd);
}

/** Whether the backend has taken all that was published, as far as it is meant to. */
export function isDrained(): bool {
  return load<u32>(CONFIG_BATCH) == 0 || ringHalted || confused || load<u32>(SRING_REQ_PROD) == reqCons;
}

/** At the end of a pass: whether the backend may say that the ring is (not) halted. */
export function mayHalt(halted: bool): bool {
  if (halted && wasStrange) ringHalted = true;
  return halted == ringHalted;
}

export function inFlight(): u32 {
  return asked;
}

/** After a call of the core that began a pass. */
export function observeTaking(): void {
  const taken = load<u32>(OUT_REQ_CONS) - reqCons;
  const batch = load<u32>(CONFIG_BATCH);
  wasStrange = batch != 0 && isStrange();
  if (batch != 0 && isOverfull()) ringHalted = true;
  check(taken <= batch && (!ringHalted || taken == 0), BAD_TAKE);
  if (taken != 0 && isStrange()) confused = true;
  check(confused || taken <= load<u32>(SRING_REQ_PROD) - reqCons, BAD_TAKE);
  if (confused) {
    asked += taken;
    reqCons += taken;
    return;
  }
  for (; reqCons != load<u32>(OUT_REQ_CONS); reqCons++) {
    const at = SHADOW_ENTRIES + (reqCons & (entries - 1)) * stride;
    const operation = load<u8>(at);
    const note = ASKED + asked++ * ASKED_BYTES;
    store<u64>(note, load<u64>(at + idOffset));
    store<u8>(note, operation == BLKIF_OP_INDIRECT ? load<u8>(at, 1) : operation, 8);
  }
}

/** After every call of the core: what it wrote to the ring, and whether it asks to notify as it should. */
export function observeRing(notify: bool): void {
  check(load<u32>(OUT_REQ_CONS) == reqCons, BAD_TAKE);
  observeIndices();
  const old = rspProd;
  rspProd = load<u32>(OUT_RSP_PROD);
  check(rspProd - old <= asked, BAD_RESPONSE);
  for (let index = old; index != rspProd; index++) observeResponse(index);
  check(load<u32>(OUT_INFLIGHT) == asked, BAD_LEAK);
  const wanted = rspProd != old && rspProd - load<u32>(SRING_RSP_EVENT) < rspProd - old;
  check(notify == wanted, BAD_NOTIFY);
  compareRing();
}

/** Takes the backend's two indices over into the shadow if they are right. */
function observeIndices(): void {
  const shadowEvent = SHADOW + (SRING_REQ_EVENT - SRING);
  const event = load<u32>(SRING_REQ_EVENT);
  if (event != load<u32>(shadowEvent)) check(event == reqCons + 1, BAD_INDEX);
  store<u32>(shadowEvent, event);
  // The guest may have spoilt rsp_prod; the backend writes it only when it publishes.
  if (load<u32>(OUT_RSP_PROD) == rspProd) return;
  check(load<u32>(SRING_RSP_PROD) == load<u32>(OUT_RSP_PROD), BAD_INDEX);
  store<u32>(SHADOW + (SRING_RSP_PROD - SRING), load<u32>(SRING_RSP_PROD));
}

function observeResponse(index: u32): void {
  const slot = (index & (entries - 1)) * stride;
  const at = SRING_ENTRIES + slot;
  const shadow = SHADOW_ENTRIES + slot;
  const id = load<u64>(at, RESPONSE_ID);
  const operation = load<u8>(at, RESPONSE_OPERATION);
  const status = <i32>load<i16>(at, RESPONSE_STATUS);
  line("response");
  field(id);
  field(operation);
  signedField(status);
  endLine();
  store<u64>(shadow, id, RESPONSE_ID);
  store<u8>(shadow, operation, RESPONSE_OPERATION);
  store<i16>(shadow, status, RESPONSE_STATUS);
  if (confused) {
    asked--;
    return;
  }
  check(status <= BLKIF_RSP_OKAY && status >= BLKIF_RSP_EOPNOTSUPP, BAD_STATUS);
  forget(id, operation);
}

/** One request less that waits. */
function forget(id: u64, operation: u32): void {
  for (let i: u32 = 0; i < asked; i++) {
    const note = ASKED + i * ASKED_BYTES;
    if (load<u64>(note) != id || load<u8>(note, 8) != operation) continue;
    const last = ASKED + --asked * ASKED_BYTES;
    store<u64>(note, load<u64>(last));
    store<u64>(note, load<u64>(last, 8), 8);
    return;
  }
  check(false, BAD_RESPONSE);
}

function compareRing(): void {
  for (let i: u32 = 0; i < ringBytes; i += 8) {
    if (load<u64>(SRING + i) != load<u64>(SHADOW + i)) check(false, BAD_RING_WRITE);
  }
}
