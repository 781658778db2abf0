// From the private copy of a ring entry to a request that is known to be good, or refused with a status.
// Everything counted in sectors is in units of 512 bytes, whatever the sector size (blkif.h, note on sector-size).
import {
  BLKIF_DISCARD_SECURE,
  BLKIF_OP_DISCARD,
  BLKIF_OP_FLUSH_DISKCACHE,
  BLKIF_OP_INDIRECT,
  BLKIF_OP_READ,
  BLKIF_OP_WRITE,
  BLKIF_OP_WRITE_BARRIER,
  BLKIF_RSP_EOPNOTSUPP,
  BLKIF_RSP_ERROR,
  BLKIF_RSP_OKAY,
  CONFIG_FEATURES,
  CONFIG_MAX_INDIRECT,
  CONFIG_SECTOR_UNITS,
  CONFIG_SECTORS,
  COUNT_BAD_OPERATION,
  COUNT_BAD_RANGE,
  COUNT_BAD_SEGMENTS,
  COUNT_DISCARD,
  COUNT_INDIRECT,
  COUNT_READ,
  COUNT_READ_ONLY,
  COUNT_SECTORS_READ,
  COUNT_SECTORS_WRITTEN,
  COUNT_SEGMENTS,
  FEATURE_BARRIER,
  FEATURE_DISCARD,
  FEATURE_FLUSH,
  FEATURE_READ_ONLY,
  FEATURE_SECURE_DISCARD,
  MAX_DIRECT_SEGMENTS,
} from "./abi";
import { count } from "./counters";
import { bodyOffset, INDIRECT_SEGMENTS, idOffset, indirectGrefsOffset, sectorOffset } from "./layout";
import { enterState, INDIRECT, Request, SECURE } from "./request";
import { copyDirect, sumSegments } from "./segments";
import { DONE } from "./states";

let features: u32 = 0;
let maxIndirect: u32 = 0;
/** Sector size in 512-byte units, less one: the bits that must be clear in an aligned sector number. */
let alignment: u32 = 0;

export function configureDecode(): void {
  features = load<u32>(CONFIG_FEATURES);
  maxIndirect = load<u32>(CONFIG_MAX_INDIRECT);
  alignment = load<u32>(CONFIG_SECTOR_UNITS) - 1;
}

function refuse(request: Request, status: i32, reason: u32): bool {
  assert(status < BLKIF_RSP_OKAY);
  request.status = <i16>status;
  enterState(request, DONE);
  count(reason, 1);
  return false;
}

/** Whether an entry, in its private copy, is an INDIRECT of more segments than fit one direct request. */
export function isLarge(copy: u32): bool {
  return load<u8>(copy) == BLKIF_OP_INDIRECT && <i32>load<u16>(copy, INDIRECT_SEGMENTS) > MAX_DIRECT_SEGMENTS;
}

/**
 * Decodes the fields of the entry itself. A plain request's segments are copied to the slot's table; an INDIRECT's
 * are still on the guest's page (the gref is returned by `indirectGref`). False when the request is DONE already.
 */
export function decode(slot: u32, request: Request, copy: u32): bool {
  const operation = <i32>load<u8>(copy);
  request.flags = 0;
  request.operation = <u8>operation;
  request.id = load<u64>(copy + idOffset);
  request.sector = load<u64>(copy + sectorOffset);
  request.sectors = 0;
  request.segments = 0;
  request.status = 0;
  if (operation == BLKIF_OP_INDIRECT) return decodeIndirect(request, copy);
  if (operation == BLKIF_OP_DISCARD) return decodeDiscard(request, copy);
  if (operation > BLKIF_OP_FLUSH_DISKCACHE) return refuse(request, BLKIF_RSP_EOPNOTSUPP, COUNT_BAD_OPERATION);
  const needed: u32 =
    operation == BLKIF_OP_WRITE_BARRIER
      ? FEATURE_BARRIER
      : operation == BLKIF_OP_FLUSH_DISKCACHE
        ? FEATURE_FLUSH
        : 0;
  if ((features & needed) != needed) return refuse(request, BLKIF_RSP_EOPNOTSUPP, COUNT_BAD_OPERATION);
  const segments = <i32>load<u8>(copy, 1);
  if (segments > MAX_DIRECT_SEGMENTS || (segments == 0 && needed == 0)) {
    return refuse(request, BLKIF_RSP_ERROR, COUNT_BAD_SEGMENTS);
  }
  request.segments = <u16>segments;
  copyDirect(slot, copy + bodyOffset, segments);
  return true;
}

function decodeIndirect(request: Request, copy: u32): bool {
  const operation = load<u8>(copy, 1);
  request.operation = operation;
  if (maxIndirect == 0) return refuse(request, BLKIF_RSP_EOPNOTSUPP, COUNT_BAD_OPERATION);
  if (operation != BLKIF_OP_READ && operation != BLKIF_OP_WRITE) {
    return refuse(request, BLKIF_RSP_ERROR, COUNT_BAD_OPERATION);
  }
  const segments = load<u16>(copy, INDIRECT_SEGMENTS);
  if (segments == 0 || segments > maxIndirect) return refuse(request, BLKIF_RSP_ERROR, COUNT_BAD_SEGMENTS);
  request.segments = segments;
  request.flags = INDIRECT;
  return true;
}

/** MAX_SEGMENTS is less than an indirect page holds, so there is one page. */
export function indirectGref(copy: u32): u32 {
  return load<u32>(copy + indirectGrefsOffset);
}

function decodeDiscard(request: Request, copy: u32): bool {
  if (!(features & FEATURE_DISCARD) && !(features & FEATURE_READ_ONLY)) {
    return refuse(request, BLKIF_RSP_EOPNOTSUPP, COUNT_BAD_OPERATION);
  }
  request.sectors = load<u64>(copy + bodyOffset);
  // The flag is ignored where secure discard was not offered (blkif.h).
  if (features & FEATURE_SECURE_DISCARD && load<u8>(copy, 1) & BLKIF_DISCARD_SECURE) request.flags = SECURE;
  return true;
}

/** Checks segments, range and permission. False when the request is DONE. */
export function validate(slot: u32, request: Request): bool {
  if (request.segments != 0) {
    request.sectors = sumSegments(slot, request, alignment);
    if (request.sectors == 0) return refuse(request, BLKIF_RSP_ERROR, COUNT_BAD_SEGMENTS);
  }
  // An empty flush or barrier touches nothing; NetBSD leaves rubbish in its sector number.
  if (request.segments == 0 && request.operation != BLKIF_OP_DISCARD) return true;
  if (request.operation != BLKIF_OP_READ && features & FEATURE_READ_ONLY) {
    return refuse(request, BLKIF_RSP_ERROR, COUNT_READ_ONLY);
  }
  const size = load<u64>(CONFIG_SECTORS);
  if (request.sector > size || request.sectors > size - request.sector) {
    return refuse(request, BLKIF_RSP_ERROR, COUNT_BAD_RANGE);
  }
  if (((request.sector | request.sectors) & alignment) != 0)
    return refuse(request, BLKIF_RSP_ERROR, COUNT_BAD_RANGE);
  assert(request.sectors <= load<u64>(CONFIG_SECTORS));
  count(COUNT_SEGMENTS, request.segments);
  if (request.operation == BLKIF_OP_READ) count(COUNT_SECTORS_READ, request.sectors);
  else if (request.operation != BLKIF_OP_DISCARD) count(COUNT_SECTORS_WRITTEN, request.sectors);
  return true;
}

/** Counts a valid request by its operation: COUNT_READ to COUNT_FLUSH are in the order of the codes. */
export function countOperation(request: Request): void {
  count(request.operation == BLKIF_OP_DISCARD ? COUNT_DISCARD : COUNT_READ + request.operation, 1);
  if (request.flags & INDIRECT) count(COUNT_INDIRECT, 1);
}
