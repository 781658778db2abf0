// Access to what others see while the core runs: the ring, which is the guest's too, and the journal, which must be right
// whenever this process is killed. The core in C (scripts/build-c.mjs) has these functions in C11's terms, scripts/c/memory.c.
//
// Indices, with threads, are atomic: WebAssembly's atomics are sequentially consistent, so they carry the header's read,
// write and full barriers. Without (a build for tools that know no shared memory, where nobody else runs), plain.
import { RESPONSE_ID, RESPONSE_OPERATION, RESPONSE_STATUS } from "./layout";
import { copy16 } from "./segments";

export function loadShared(at: u32): u32 {
  return ASC_FEATURE_THREADS ? atomic.load<u32>(at) : load<u32>(at);
}

export function storeShared(at: u32, value: u32): void {
  if (ASC_FEATURE_THREADS) atomic.store<u32>(at, value);
  else store<u32>(at, value);
}

// Words of a ring entry need no order among themselves: an index published before or after them gives it.

/** Copies 16 bytes of a ring entry to private memory, each word once. */
export function copyEntry16(to: u32, from: u32): void {
  copy16(to, from);
}

export function copyEntry8(to: u32, from: u32): void {
  store<u64>(to, load<u64>(from));
}

export function copyEntry4(to: u32, from: u32): void {
  store<u32>(to, load<u32>(from));
}

/** Writes a response's fields, and never the padding between them (XSA-216). */
export function storeResponse(to: u32, id: u64, operation: u8, status: i16): void {
  store<u64>(to, id, RESPONSE_ID);
  store<u8>(to, operation, RESPONSE_OPERATION);
  store<i16>(to, status, RESPONSE_STATUS);
}

/** A store that stays where it is among the core's other stores, and is seen whole or not at all. */
export function storeOrdered(at: u32, value: u64): void {
  store<u64>(at, value);
}
