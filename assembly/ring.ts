// The shared ring's indices (xen/include/public/io/ring.h). They are free-running u32; a slot is index & (entries - 1).
import {
  COUNT_NOTIFICATIONS,
  COUNT_PUSHES,
  COUNT_RESPONSES,
  JOURNAL_ENTRIES,
  JOURNAL_ENTRY_BYTES,
  JOURNAL_INDEX,
  JOURNAL_REQUEST,
  OUT_REQ_CONS,
  OUT_RSP_PROD,
  SRING_ENTRIES,
  SRING_REQ_EVENT,
  SRING_REQ_PROD,
  SRING_RSP_EVENT,
  SRING_RSP_PROD,
} from "./abi";
import { count } from "./counters";
import { forgetAnswered, noteTaken } from "./journal";
import { stride } from "./layout";
import { Request } from "./request";
import { copyEntry4, copyEntry8, copyEntry16, loadShared, storeResponse, storeShared } from "./shared";

export let entries: u32 = 0;
/** Requests taken; the low half is req_cons. It never wraps, so of any two requests it tells which is older. */
let taken: u64 = 0;
/** rsp_prod_pvt: responses written, and rsp_prod as we last published it. The shared copy is the guest's to spoil. */
export let rspProd: u32 = 0;
let rspPublished: u32 = 0;
/** rsp_event as it was when it last decided whether to notify. */
let rspEventSeen: u32 = 0;

/** Starts at the shared rsp_prod, as a frontend that reconnects expects. False if the guest lies. */
export function attachRing(size: u32): bool {
  const index = loadShared(SRING_RSP_PROD);
  return startRing(size, index, index);
}

/** Goes on with `from` requests taken and responses published up to `published`. False if the guest lies. */
export function startRing(size: u32, from: u64, published: u32): bool {
  assert(size != 0 && (size & (size - 1)) == 0);
  entries = size;
  taken = from;
  rspProd = rspPublished = published;
  rspEventSeen = 0;
  publishIndices();
  return !overflows(unconsumed());
}

function publishIndices(): void {
  store<u32>(OUT_REQ_CONS, <u32>taken);
  store<u32>(OUT_RSP_PROD, rspProd);
}

/** How many requests the frontend says are on the ring: as many as it likes to say. */
export function unconsumed(): u32 {
  return loadShared(SRING_REQ_PROD) - <u32>taken;
}

/**
 * RING_REQUEST_PROD_OVERFLOW, "frontend is lying": it has seen no responses but those published, so it cannot have put
 * so many requests on the ring, or it took some back.
 */
export function overflows(claimed: u32): bool {
  return claimed > entries - (<u32>taken - rspPublished);
}

/**
 * Copies the next request into a slot's journal entry, once: nothing ever looks at the ring's copy again (XSA-155).
 * The request counts as taken only when `consume` is called.
 */
export function copyRequest(slot: u32): u32 {
  assert(slot < entries);
  const entry = JOURNAL_ENTRIES + slot * JOURNAL_ENTRY_BYTES;
  const from = SRING_ENTRIES + (<u32>taken & (entries - 1)) * stride;
  const to = entry + JOURNAL_REQUEST;
  copyEntry16(to, from);
  copyEntry16(to + 16, from + 16);
  copyEntry16(to + 32, from + 32);
  copyEntry16(to + 48, from + 48);
  copyEntry16(to + 64, from + 64);
  copyEntry16(to + 80, from + 80);
  copyEntry8(to + 96, from + 96);
  copyEntry4(to + 104, from + 104);
  if (stride > 108) copyEntry4(to + 108, from + 108);
  store<u64>(entry + JOURNAL_INDEX, taken);
  return to;
}

/** The request in a slot is taken. */
export function consume(slot: u32): void {
  noteTaken(slot, ++taken);
}

export function respond(request: Request): void {
  // Never over a request that was not taken.
  assert(<u32>taken - rspProd != 0);
  const to = SRING_ENTRIES + (rspProd & (entries - 1)) * stride;
  storeResponse(to, request.id, request.operation, request.status);
  rspProd++;
}

/** RING_PUSH_RESPONSES_AND_CHECK_NOTIFY. True when the frontend asked to be notified. */
export function publish(): bool {
  publishIndices();
  if (rspProd == rspPublished) return false;
  const old = rspPublished;
  assert(<u32>taken - old <= entries);
  count(COUNT_RESPONSES, rspProd - old);
  count(COUNT_PUSHES, 1);
  storeShared(SRING_RSP_PROD, rspProd);
  rspPublished = rspProd;
  forgetAnswered();
  rspEventSeen = loadShared(SRING_RSP_EVENT);
  if (rspProd - rspEventSeen >= rspProd - old) return false;
  count(COUNT_NOTIFICATIONS, 1);
  return true;
}

/**
 * True when the frontend asked, after the last response was published, for an event at a response that was among those
 * published. RING_FINAL_CHECK_FOR_RESPONSES would have found it; OpenBSD's xbf(4) writes rsp_event and sleeps. At most
 * once for each value of rsp_event. A frontend that sleeps after a final check has asked for a response to come.
 */
export function missedResponse(): bool {
  const event = loadShared(SRING_RSP_EVENT);
  if (event == rspEventSeen) return false;
  rspEventSeen = event;
  if (rspPublished - event >= entries) return false;
  count(COUNT_NOTIFICATIONS, 1);
  return true;
}

/** RING_FINAL_CHECK_FOR_REQUESTS: asks for an event at the next request, unless there is one already. */
export function finalCheck(): bool {
  if (unconsumed() != 0) return true;
  storeShared(SRING_REQ_EVENT, <u32>taken + 1);
  return unconsumed() != 0;
}
