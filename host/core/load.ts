/** Finds and compiles blkif.wasm, once a process: every ring is an instance of the same module. */
import { readFileSync } from "node:fs";

let module: WebAssembly.Module | undefined;

export function coreModule(): WebAssembly.Module {
  module ??= new WebAssembly.Module(readFileSync(new URL("../../blkif.wasm", import.meta.url)));
  return module;
}
