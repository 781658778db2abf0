import assert from "node:assert/strict";
import { test } from "node:test";
import { allocateMemory } from "../../host/core/memory.js";
import {
  type Abi,
  LAYOUTS,
  readStatus,
  ringEntries,
  writeDirect,
  writeDiscard,
  writeIndirect,
  writeSegment,
  writeU64,
} from "../../host/guest/layout.js";

const ABIS: Abi[] = ["x86_64", "x86_32", "native"];

test("a ring holds a power of two of entries, the same in every ABI", () => {
  for (const abi of ABIS) {
    const entries = [1, 2, 4, 8, 16, 32].map((pages) => ringEntries(LAYOUTS[abi], pages));
    assert.deepEqual(entries, [32, 64, 128, 256, 512, 1024]);
  }
});

test("strides and offsets are those of the published structures", () => {
  const wide = { stride: 112, id: 8, sector: 16, segments: 24, sectors: 24, handle: 24, refs: 28 };
  const narrow = { stride: 108, id: 4, sector: 12, segments: 20, sectors: 20, handle: 20, refs: 24 };
  for (const abi of ABIS) {
    const l = LAYOUTS[abi];
    const table = {
      stride: l.stride,
      id: l.id,
      sector: l.sectorNumber,
      segments: l.segments,
      sectors: l.discardSectors,
      handle: l.indirectHandle,
      refs: l.indirectRefs,
    };
    assert.deepEqual(table, abi === "x86_32" ? narrow : wide);
  }
});

test("every writer touches its own bytes and no others", () => {
  const m = allocateMemory(4096);
  const written = (act: () => void): Record<number, number> => {
    m.u8.fill(0xee, 0, 256);
    act();
    const bytes: Record<number, number> = {};
    for (let i = 0; i < 256; i++) if (m.u8[i] !== 0xee) bytes[i] = m.u8[i];
    return bytes;
  };
  assert.deepEqual(
    written(() => writeDirect(m, 0, 1, 11, 0x0201)),
    { 0: 1, 1: 11, 2: 1, 3: 2 },
  );
  assert.deepEqual(
    written(() => writeDiscard(m, 0, 1, 0x0201)),
    { 0: 5, 1: 1, 2: 1, 3: 2 },
  );
  assert.deepEqual(
    written(() => writeIndirect(m, 0, LAYOUTS.x86_64, 1, 0x0304, 0x0201)),
    { 0: 6, 1: 1, 2: 4, 3: 3, 24: 1, 25: 2 },
  );
  assert.deepEqual(
    written(() => writeIndirect(m, 0, LAYOUTS.x86_32, 0, 256, 7)),
    { 0: 6, 1: 0, 2: 0, 3: 1, 20: 7, 21: 0 },
  );
  assert.deepEqual(
    written(() => writeSegment(m, 8, 0x04030201, 3, 7)),
    { 8: 1, 9: 2, 10: 3, 11: 4, 12: 3, 13: 7 },
  );
  assert.deepEqual(
    written(() => writeU64(m, 4, 0x04030201, 5)),
    { 4: 1, 5: 2, 6: 3, 7: 4, 8: 5, 9: 0, 10: 0, 11: 0 },
  );
});

test("a response's status is signed", () => {
  const m = allocateMemory(4096);
  for (const status of [0, -1, -2, 1, 32767, -32768]) {
    new DataView(m.memory.buffer).setInt16(74, status, true);
    assert.equal(readStatus(m, 64), status);
  }
});
