/**
 * WebAssembly's types. TypeScript's own are part of the DOM's, which a program that embeds the core need not have: with
 * them these are the same, without them just what is needed.
 */

/** `WebAssembly.Memory`. */
export type WasmMemory = typeof globalThis extends {
  WebAssembly: { Memory: new (...args: never[]) => infer Memory };
}
  ? Memory
  : { readonly buffer: ArrayBuffer };

/** `WebAssembly.Module`. */
export type WasmModule = object;

/** Compiles blkif.wasm, or another build of the core. Throws a `WebAssembly.CompileError` if the bytes are something else. */
export function compileCore(bytes: Uint8Array): WasmModule {
  return new WebAssembly.Module(bytes as Uint8Array<ArrayBuffer>);
}
