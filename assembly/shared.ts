// Access to words that the guest sees, too. With threads, atomic: WebAssembly's atomics are sequentially consistent,
// so they carry the header's read, write and full barriers. Without (a build for tools that know no shared memory,
// where nobody else runs), plain.

export function loadShared(at: u32): u32 {
  return ASC_FEATURE_THREADS ? atomic.load<u32>(at) : load<u32>(at);
}

export function storeShared(at: u32, value: u32): void {
  if (ASC_FEATURE_THREADS) atomic.store<u32>(at, value);
  else store<u32>(at, value);
}
