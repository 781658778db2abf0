/** A core that calls the test before each of its accesses to what the guest can write: the guest's turn to act. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import binaryen from "binaryen";
import * as abi from "../../assembly/abi.js";
import { Harness, type HarnessOptions } from "../core/harness.js";

function instrument(): WebAssembly.Module {
  const wasm = binaryen.readBinary(readFileSync(new URL("../../blkif.wasm", import.meta.url)));
  wasm.runPasses(["instrument-memory"]);
  const module = new WebAssembly.Module(wasm.emitBinary() as Uint8Array<ArrayBuffer>);
  wasm.dispose();
  return module;
}

let instrumented: WebAssembly.Module | null = null;

/** `store` is false for a read; `at` is a byte offset in linear memory. */
export type OnAccess = (at: number, bytes: number, store: boolean) => void;

/** A harness whose core calls `onAccess` before it touches the ring or a mapped page. */
export function watched(options: HarnessOptions, onAccess: OnAccess): Harness {
  instrumented ??= instrument();
  const harness = new Harness(options);
  const watch = (store: boolean) => (_: number, bytes: number, offset: number, base: number) => {
    if (base + offset + bytes > abi.SRING) onAccess(base + offset, bytes, store);
    return base;
  };
  const same = (_: number, value: unknown): unknown => value;
  const imports: Record<string, WebAssembly.ImportValue> = { memory: harness.memory.memory };
  for (const { name, kind } of WebAssembly.Module.imports(instrumented))
    if (kind === "function") imports[name] = same;
  Object.assign(imports, { load_ptr: watch(false), store_ptr: watch(true) });
  const instance = new WebAssembly.Instance(instrumented, { env: imports });
  const { attach, step } = instance.exports as Record<string, (n?: number) => number>;
  assert.equal(attach(), abi.ATTACH_OK);
  harness.stepper = step;
  return harness;
}
