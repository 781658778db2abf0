/** The memory map of abi.ts, and what blkif.wasm may need of its host: one memory, and nothing else. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import binaryen from "binaryen";
import * as abi from "../../assembly/abi.js";
import { BlkifCore } from "../../host/core/blkif.js";
import { coreModule } from "../../host/core/load.js";
import { allocateMemory } from "../../host/core/memory.js";

const root = new URL("../../../", import.meta.url);

/** Every region: name, first byte, length, alignment. In the order in which they lie. */
const REGIONS: [name: string, at: number, bytes: number, alignment: number][] = [
  ["CONFIG", abi.CONFIG, abi.CONFIG_PASS_BYTES + 4 - abi.CONFIG, 8],
  ["OUT", abi.OUT, abi.OUT_PASS_BYTES + 4 - abi.OUT, 4],
  ["COUNTERS", abi.COUNTERS, abi.COUNTER_COUNT * 8, 8],
  ["COMPLETIONS", abi.COMPLETIONS, abi.MAX_SLOTS * 4, 4],
  ["IO_LIST", abi.IO_LIST, abi.MAX_SLOTS * 2, 2],
  ["FREE_SLOTS", abi.FREE_SLOTS, abi.MAX_SLOTS * 2, 2],
  ["PASS_LIST", abi.PASS_LIST, abi.MAX_SLOTS * 2, 2],
  ["READY_LIST", abi.READY_LIST, abi.MAX_SLOTS * 2, 2],
  ["FREE_LARGE", abi.FREE_LARGE, abi.MAX_LARGE * 2, 2],
  ["HAZARDS", abi.HAZARDS, abi.HAZARD_BUCKETS * 4, 4],
  ["ACTIVE_SLOTS", abi.ACTIVE_SLOTS, abi.MAX_SLOTS / 8, 8],
  ["JOURNAL", abi.JOURNAL, abi.PAGE, abi.PAGE],
  ["JOURNAL_ENTRIES", abi.JOURNAL_ENTRIES, abi.MAX_SLOTS * abi.JOURNAL_ENTRY_BYTES, abi.PAGE],
  ["REQUESTS", abi.REQUESTS, abi.MAX_SLOTS * abi.REQUEST_BYTES, abi.PAGE],
  ["IOS", abi.IOS, abi.MAX_SLOTS * abi.IO_BYTES, 8],
  ["SEGMENTS", abi.SEGMENTS, abi.MAX_SLOTS * abi.MAX_SEGMENTS * abi.SEGMENT_BYTES, 8],
  ["IOVECS", abi.IOVECS, abi.MAX_SLOTS * abi.IOVECS_PER_SLOT * abi.IOVEC_BYTES, 8],
  ["COPIES", abi.COPIES, abi.MAX_COPIES * abi.COPY_BYTES, 8],
  ["COPY_OWNERS", abi.COPY_OWNERS, abi.MAX_COPIES * 2, 2],
  ["MAPS", abi.MAPS, abi.MAX_PERSISTENT * abi.MAP_BYTES, 4],
  ["UNMAPS", abi.UNMAPS, abi.MAX_PERSISTENT * 2, 2],
  ["PERSISTENT_PAGES", abi.PERSISTENT_PAGES, abi.MAX_PERSISTENT * abi.PERSISTENT_PAGE_BYTES, 4],
  ["PERSISTENT_HASH", abi.PERSISTENT_HASH, abi.PERSISTENT_HASH_ENTRIES * 8, 8],
  ["FREE_PAGES", abi.FREE_PAGES, abi.MAX_PERSISTENT * 2, 2],
  ["DATA", abi.DATA, abi.MAX_SLOTS * abi.DATA_SMALL_BYTES, abi.PAGE],
  ["DATA_LARGE", abi.DATA_LARGE, abi.MAX_LARGE * abi.DATA_LARGE_BYTES, abi.PAGE],
  ["SRING", abi.SRING, abi.MAX_RING_PAGES * abi.PAGE, abi.PAGE],
  ["PERSISTENT", abi.PERSISTENT, abi.MAX_PERSISTENT * abi.PAGE, abi.PAGE],
];

test("the regions of linear memory lie one behind the other, aligned, and none reaches into the next", () => {
  REGIONS.forEach(([name, at, bytes, alignment], i) => {
    assert.equal(at % alignment, 0, `${name} is aligned to ${alignment}`);
    const end = REGIONS[i + 1]?.[1] ?? abi.MEMORY_BYTES;
    assert.ok(at + bytes <= end, `${name} ends at ${at + bytes}, after ${end}`);
  });
  assert.ok(abi.JOURNAL_REQUEST + 112 <= abi.JOURNAL_ENTRY_BYTES);
  assert.ok(64 + abi.MAX_SLOTS * 112 <= abi.MAX_RING_PAGES * abi.PAGE);
});

test("what the guest can write lies above everything that the core trusts", () => {
  for (const [name, at] of REGIONS) {
    assert.equal(at >= abi.SRING, name === "SRING" || name === "PERSISTENT", name);
  }
});

test("the counters have names in their order", () => {
  const memory = allocateMemory(abi.MEMORY_BYTES);
  const core = new BlkifCore(coreModule(), memory);
  for (let i = 0; i < abi.COUNTER_COUNT; i++) memory.u32[(abi.COUNTERS >> 2) + i * 2] = i;
  const camel = (name: string): string => name.toLowerCase().replace(/_(.)/g, (_, c) => c.toUpperCase());
  const expected = Object.entries(abi).flatMap(([name, value]) =>
    name.startsWith("COUNT_") ? [[camel(name.slice(6)), value]] : [],
  );
  assert.equal(expected.length, abi.COUNTER_COUNT);
  assert.deepEqual(core.counters(), Object.fromEntries(expected));
});

test("asconfig.json reserves exactly what abi.ts lays out", () => {
  const { options } = JSON.parse(readFileSync(new URL("asconfig.json", root), "utf8"));
  assert.equal(options.initialMemory, abi.MEMORY_BYTES / 65536);
  assert.equal(options.maximumMemory, abi.MEMORY_BYTES / 65536);
});

test("blkif.wasm imports one memory and exports what abi.ts says", () => {
  assert.deepEqual(WebAssembly.Module.imports(coreModule()), [
    { module: "env", name: "memory", kind: "memory" },
  ]);
  const exported = WebAssembly.Module.exports(coreModule()).map(({ name, kind }) => `${kind} ${name}`);
  assert.deepEqual(exported.sort(), [
    "function attach",
    "function idle",
    "function recover",
    "function step",
    "function trim",
    "function version",
  ]);
});

test("blkif.wasm keeps no data of its own, grows no memory and runs nothing by itself", () => {
  const wasm = binaryen.readBinary(readFileSync(new URL("build/blkif.wasm", root)));
  const text = wasm.emitText();
  wasm.dispose();
  const pages = abi.MEMORY_BYTES / 65536;
  assert.match(text, new RegExp(`\\(import "env" "memory" \\(memory \\S+ ${pages} ${pages} shared\\)\\)`));
  for (const forbidden of ["memory.grow", "(data", "(start", "call_indirect", "(table"]) {
    assert.ok(!text.includes(forbidden), forbidden);
  }
});

test("a host of another ABI version is told so", () => {
  const memory = allocateMemory(abi.MEMORY_BYTES);
  const other = binaryen.parseText(
    '(module (import "env" "memory" (memory 1 1559 shared)) (func (export "version") (result i32) (i32.const 99)))',
  );
  other.setFeatures(binaryen.Features.Atomics);
  const module = new WebAssembly.Module(other.emitBinary() as Uint8Array<ArrayBuffer>);
  assert.throws(
    () => new BlkifCore(module, memory),
    new RegExp(`ABI version 99, this host ${abi.ABI_VERSION}: rebuild`),
  );
  other.dispose();
});
