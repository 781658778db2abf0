/**
 * Every single access of the core to memory that the guest can write, by an instrumented copy of blkif.wasm: what it
 * reads, how often, in which order, and what it writes; and what happens when the guest acts between two of them.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { BARRIER, FLUSH, Guest, OKAY, READ, RESERVED, WRITE } from "./guest.js";
import { ALL_FEATURES, Harness, type HarnessOptions } from "./harness.js";
import { type Access, instructionsOf, instrument, watched } from "./instrument.js";
import { type Layout, strideOf, type WireRequest } from "./wire.js";

const wasm = readFileSync(new URL("../../blkif.wasm", import.meta.url));
const instrumented = instrument(wasm);

/** A harness whose core calls `onLoad` and `onStore` before it touches what the guest can write. */
function setup(options: HarnessOptions, onLoad: Access, onStore: Access): { h: Harness; guest: Guest } {
  const h = new Harness(options);
  const { attach, step } = watched(instrumented, h, abi.SRING, onLoad, onStore);
  assert.equal(attach(), abi.ATTACH_OK);
  h.stepper = step;
  return { h, guest: new Guest(h) };
}

const everything = (guest: Guest): WireRequest[] => [
  guest.transfer(READ, 0, 11),
  guest.transfer(WRITE, 128, 3),
  guest.transfer(FLUSH, 256),
  guest.empty(FLUSH),
  guest.indirect(WRITE, 512, 20),
  guest.indirect(READ, 1024, 11),
  guest.discard(2048, 8, 1),
  { operation: RESERVED, id: guest.id(), sector: 0n },
  guest.transfer(READ, 4096),
  guest.empty(BARRIER),
];

for (const layout of ["x86_64", "x86_32"] satisfies Layout[]) {
  for (const features of [ALL_FEATURES, ALL_FEATURES | abi.FEATURE_PERSISTENT]) {
    const way = features === ALL_FEATURES ? "copied" : "persistent";
    test(`${layout}, ${way}: of the ring, each byte of a request is read once, and only a response is written`, () => {
      const reads = new Map<number, number>();
      const writes = new Set<number>();
      const note = (at: number, bytes: number, each: (byte: number) => void): void => {
        assert.ok(at + bytes <= abi.PERSISTENT, "the core touches a guest's page of data");
        for (let i = 0; i < bytes; i++) each(at + i);
      };
      const { h, guest } = setup(
        { layout, features },
        (at, bytes) => note(at, bytes, (byte) => reads.set(byte, (reads.get(byte) ?? 0) + 1)),
        (at, bytes) => note(at, bytes, (byte) => writes.add(byte)),
      );
      const requests = everything(guest);
      h.serve(...requests);
      const stride = strideOf(layout);
      for (let i = 0; i < requests.length * stride; i++) {
        assert.equal(
          reads.get(abi.SRING_ENTRIES + i),
          1,
          `byte ${i % stride} of entry ${Math.floor(i / stride)}`,
        );
        reads.delete(abi.SRING_ENTRIES + i);
      }
      const words = (...fields: number[]): number[] => fields.flatMap((at) => [at, at + 1, at + 2, at + 3]);
      const header = words(abi.SRING_REQ_PROD, abi.SRING_RSP_PROD, abi.SRING_RSP_EVENT);
      assert.deepEqual(
        [...reads.keys()].sort((a, b) => a - b),
        header,
      );
      const responses = requests.flatMap((_, i) =>
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11].map((byte) => abi.SRING_ENTRIES + i * stride + byte),
      );
      assert.deepEqual(
        [...writes].sort((a, b) => a - b),
        [...words(abi.SRING_REQ_EVENT, abi.SRING_RSP_PROD), ...responses],
      );
      h.release();
    });
  }
}

test("a request that is pushed before the core has asked for an event, or right behind, is not overlooked", () => {
  for (const moment of ["before", "after"]) {
    let late: WireRequest | null = null;
    let asked = false;
    const push = (): void => {
      if (!late) return;
      h.put(late);
      h.push();
      late = null;
    };
    const { h, guest } = setup(
      { startIndex: 0xffffffff },
      (at) => {
        if (moment === "after" && asked && at === abi.SRING_REQ_PROD) push();
      },
      (at) => {
        if (at !== abi.SRING_REQ_EVENT) return;
        asked = true;
        if (moment === "before") push();
      },
    );
    const request = guest.transfer(READ, 0);
    late = request;
    h.step();
    assert.equal(late, null, "the guest had its turn");
    assert.equal(h.flags, abi.STEP_MORE, moment);
    h.finish();
    assert.deepEqual(h.statuses([request]), [OKAY]);
    h.release();
  }
});

test("rsp_event is read after rsp_prod was written, rsp_prod written after the responses", () => {
  const order: string[] = [];
  const { h, guest } = setup(
    {},
    (at) => {
      if (at === abi.SRING_RSP_EVENT) order.push("rsp_event");
    },
    (at) => {
      order.push(at === abi.SRING_RSP_PROD ? "rsp_prod" : at >= abi.SRING_ENTRIES ? "response" : "req_event");
      // The guest decides to sleep at the last moment.
      if (at === abi.SRING_RSP_PROD) h.memory.u32[abi.SRING_RSP_EVENT >> 2] = 2;
    },
  );
  for (let i = 0; i < 2; i++) h.put({ operation: RESERVED, id: guest.id(), sector: 0n });
  h.memory.u32[abi.SRING_RSP_EVENT >> 2] = 100;
  h.push();
  h.step();
  assert.deepEqual(order, [...Array(6).fill("response"), "rsp_prod", "rsp_event", "req_event"]);
  assert.equal(h.flags, abi.STEP_NOTIFY);
  h.release();
});

// On x86-64 nothing would tell: its plain loads and stores are as good. On Arm, and for a compiler, they are not.
test("the words of the ring's header are reached by atomic instructions only", () => {
  const instructions = instructionsOf(wasm);
  assert.ok(instructions.size > 200, `only ${instructions.size} loads and stores found`);
  const isHeader = (at: number): boolean => at >= abi.SRING && at < abi.SRING_ENTRIES;
  const used = new Map<number, Set<string>>();
  const note = (at: number, _: number, id: number): void => {
    if (isHeader(at)) used.set(at, (used.get(at) ?? new Set()).add(instructions.get(id)?.name ?? "unknown"));
  };
  const { h, guest } = setup({ features: ALL_FEATURES }, note, note);
  const exports = watched(instrumented, h, abi.SRING, note, note);
  h.serve(...everything(guest));
  exports["recover"]();
  exports["idle"]();
  h.release();
  const [load, store] = ["i32.atomic.load", "i32.atomic.store"];
  assert.deepEqual(
    [...used].map(([at, names]) => [at, [...names].sort()]).sort(),
    [
      [abi.SRING_REQ_PROD, [load]],
      [abi.SRING_REQ_EVENT, [store]],
      [abi.SRING_RSP_PROD, [load, store]],
      [abi.SRING_RSP_EVENT, [load]],
    ].sort(),
  );
  // Where nothing has led, too.
  const plain = [...instructions.values()].filter(
    ({ at, name }) => at !== null && isHeader(at) && !/atomic/.test(name),
  );
  assert.deepEqual(plain, []);
});
