// From a finished I/O to responses.
import {
  BLKIF_OP_DISCARD,
  BLKIF_OP_FLUSH_DISKCACHE,
  BLKIF_OP_READ,
  BLKIF_OP_WRITE_BARRIER,
  BLKIF_RSP_EOPNOTSUPP,
  BLKIF_RSP_ERROR,
  BLKIF_RSP_OKAY,
  COMPLETIONS,
  COUNT_IO_ERRORS,
  COUNT_SPLITS,
  IO_RESULT_SUCCESS,
  IO_RESULT_UNSUPPORTED,
} from "./abi";
import { Io, ioAt } from "./coalesce";
import { count } from "./counters";
import { leaveSegments } from "./data";
import { retire } from "./hazards";
import { noteAnswered } from "./journal";
import { ACTIVE, ALONE, addToReady, enterState, MAPPED, Request, releaseLarge, requestAt } from "./request";
import { entries, respond, rspProd } from "./ring";
import { BUSY, DONE, FREE, LOADED, READ_DONE } from "./states";

/** Takes in `n` completions. What they finish is responded to, or, where data must be copied out first, made ready. */
export function complete(n: u32): void {
  for (let i: u32 = 0; i < n; i++) {
    const completion = load<u32>(COMPLETIONS + (i << 2));
    const slot = completion & 0xffff;
    // A host that names an I/O that is not under way has lost its mind; do not lose ours.
    if (slot >= entries || requestAt(slot).state != BUSY) continue;
    const io = ioAt(slot);
    const result = completion >> 16;
    if (result != IO_RESULT_SUCCESS && io.requests > 1) split(slot, io);
    else finishAll(slot, io, result);
  }
}

/** A failed I/O of several requests is done again one by one, so that a bad sector fails only those who asked for it. */
function split(slot: u32, io: Io): void {
  assert(io.requests > 1);
  count(COUNT_SPLITS, 1);
  for (let left = io.requests; left != 0; left--) {
    const request = requestAt(slot);
    request.flags |= ALONE;
    enterState(request, LOADED);
    addToReady(slot);
    slot = request.next;
  }
}

function finishAll(slot: u32, io: Io, result: u32): void {
  for (let left = io.requests; left != 0; left--) {
    const request = requestAt(slot);
    const next = request.next;
    if (result == IO_RESULT_SUCCESS && request.operation == BLKIF_OP_READ && !(request.flags & MAPPED)) {
      enterState(request, READ_DONE);
      addToReady(slot);
      retire(slot);
    } else {
      finish(slot, request, statusOf(request, result));
      answer(slot, request);
    }
    slot = next;
  }
}

function statusOf(request: Request, result: u32): i32 {
  if (result == IO_RESULT_SUCCESS) return BLKIF_RSP_OKAY;
  count(COUNT_IO_ERRORS, 1);
  const optional =
    request.operation == BLKIF_OP_FLUSH_DISKCACHE ||
    request.operation == BLKIF_OP_WRITE_BARRIER ||
    request.operation == BLKIF_OP_DISCARD;
  return optional && result == IO_RESULT_UNSUPPORTED ? BLKIF_RSP_EOPNOTSUPP : BLKIF_RSP_ERROR;
}

/** A request has ended with a status; only its response is missing. */
export function finish(slot: u32, request: Request, status: i32): void {
  assert(status <= BLKIF_RSP_OKAY && status >= BLKIF_RSP_EOPNOTSUPP);
  if (request.flags & ACTIVE) retire(slot);
  request.status = <i16>status;
  enterState(request, DONE);
}

/**
 * Writes the response of a DONE request, once everything that it held of the guest's is let go. Its slot is free when the
 * response is published: until then its journal entry is needed.
 */
export function answer(slot: u32, request: Request): void {
  assert(request.state == DONE && !(request.flags & ACTIVE));
  leaveSegments(slot, request);
  releaseLarge(request);
  noteAnswered(slot, rspProd);
  respond(request);
  enterState(request, FREE);
}
