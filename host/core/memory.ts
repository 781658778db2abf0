import type { WasmMemory } from "./webassembly.js";

/**
 * A shared WebAssembly memory of fixed size and the views of it that the host uses.
 *
 * `base` is the native address of byte 0, or 0 where the host has no native addresses (a browser). The core
 * writes native addresses (`base` + offset) into its tables, so that a kernel can take the tables as they are.
 */
export interface LinearMemory {
  readonly memory: WasmMemory;
  readonly u8: Uint8Array;
  readonly i32: Int32Array;
  readonly u32: Uint32Array;
  readonly base: number;
}

/** Bytes in a WebAssembly page; a Xen page (`PAGE_SIZE`) is 4096 everywhere. */
export const WASM_PAGE = 65536;
export const PAGE_SIZE = 4096;

/**
 * Reserves `bytes` (rounded up to a WebAssembly page) of shared linear memory that never grows: growing a
 * memory that has pages mapped into it resets their protection. Untouched pages cost nothing.
 */
export function allocateMemory(
  bytes: number,
  nativeBase: (view: Uint8Array) => number = () => 0,
): LinearMemory {
  const pages = Math.ceil(bytes / WASM_PAGE);
  const memory = new WebAssembly.Memory({ shared: true, initial: pages, maximum: pages });
  return viewMemory(memory, nativeBase(new Uint8Array(memory.buffer)));
}

/** A memory that another thread has allocated; `base` is what it has there. */
export function viewMemory(memory: WasmMemory, base: number): LinearMemory {
  return {
    memory,
    u8: new Uint8Array(memory.buffer),
    i32: new Int32Array(memory.buffer),
    u32: new Uint32Array(memory.buffer),
    base,
  };
}
