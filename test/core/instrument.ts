/** A copy of the core that tells of each access to memory before it makes it. */
import binaryen from "binaryen";
import type { Harness } from "./harness.js";

/** `wasm` with a call of load_ptr or store_ptr before every load and store. */
export function instrument(wasm: Uint8Array): WebAssembly.Module {
  const module = binaryen.readBinary(wasm);
  module.runPasses(["instrument-memory"]);
  const instrumented = new WebAssembly.Module(module.emitBinary() as Uint8Array<ArrayBuffer>);
  module.dispose();
  return instrumented;
}

/** An access that is about to be made, at an offset in linear memory. What it throws ends the call of the core. */
export type Access = (at: number, bytes: number) => void;

/** The exports of an instrumented core on a harness's memory. `onLoad` and `onStore` hear of accesses from `from` on. */
export function watched(
  module: WebAssembly.Module,
  { memory }: Harness,
  from: number,
  onLoad: Access,
  onStore: Access,
): Record<string, (n?: number) => number> {
  const watch = (access: Access) => (_: number, bytes: number, offset: number, base: number) => {
    if (base + offset + bytes > from) access(base + offset, bytes);
    return base;
  };
  const same = (_: number, value: unknown): unknown => value;
  const imports: Record<string, WebAssembly.ImportValue> = { memory: memory.memory };
  for (const { name, kind } of WebAssembly.Module.imports(module))
    if (kind === "function") imports[name] = same;
  Object.assign(imports, { load_ptr: watch(onLoad), store_ptr: watch(onStore) });
  const instance = new WebAssembly.Instance(module, { env: imports });
  return instance.exports as Record<string, (n?: number) => number>;
}
