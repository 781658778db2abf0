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

/** A load or store of the core's code. */
export interface Instruction {
  /** As WebAssembly calls it: i32.atomic.load. */
  readonly name: string;
  /** Where it always goes, if the code says so. */
  readonly at: number | null;
}

/** The instructions of `wasm` by the numbers that its instrumented copy has for them. */
export function instructionsOf(wasm: Uint8Array): Map<number, Instruction> {
  const module = binaryen.readBinary(wasm);
  module.runPasses(["instrument-memory"]);
  const text = module.emitText();
  module.dispose();
  const constant = String.raw`\s*\(i32\.const (-?\d+)\)`;
  const call = String.raw`\(call \$(?:load|store)_ptr${constant}${constant}${constant}(?:${constant})?`;
  const found = text.matchAll(new RegExp(String.raw`\((\w+\.[\w.]+)[^\n()]*\s*${call}`, "g"));
  return new Map(
    [...found].map(([, name = "", id, , offset, base]) => {
      const at = base === undefined ? null : Number(offset) + Number(base);
      return [Number(id), { name, at }];
    }),
  );
}

/**
 * An access that is about to be made, at an offset in linear memory, by an instruction that has a number. What it throws ends
 * the call of the core.
 */
export type Access = (at: number, bytes: number, id: number) => void;

/** The exports of an instrumented core on a harness's memory. `onLoad` and `onStore` hear of accesses from `from` on. */
export function watched(
  module: WebAssembly.Module,
  { memory }: Harness,
  from: number,
  onLoad: Access,
  onStore: Access,
): Record<string, (n?: number) => number> {
  const watch = (access: Access) => (id: number, bytes: number, offset: number, base: number) => {
    if (base + offset + bytes > from) access(base + offset, bytes, id);
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
