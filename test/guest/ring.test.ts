import assert from "node:assert/strict";
import { test } from "node:test";
import { allocateMemory } from "../../host/core/memory.js";
import { type Abi, LAYOUTS } from "../../host/guest/layout.js";
import { FrontRing, ProtocolViolation } from "../../host/guest/ring.js";

const AT = 8192;

/** A ring and, by DataView, the backend's look at it. */
function ringOf(abi: Abi = "x86_64", start = 0) {
  const memory = allocateMemory(65536);
  const layout = LAYOUTS[abi];
  memory.u8.fill(0xff);
  const ring = new FrontRing(memory, AT, 1, layout, start);
  const view = new DataView(memory.memory.buffer, AT, 4096);
  const entry = (index: number) => 64 + (index & 31) * layout.stride;
  let prod = start >>> 0;
  return {
    ring,
    view,
    layout,
    entry,
    idAt: (index: number) => view.getBigUint64(entry(index) + layout.id, true),
    respond(id: bigint, operation: number, status = 0) {
      view.setBigUint64(entry(prod), id, true);
      view.setUint8(entry(prod) + 8, operation);
      view.setInt16(entry(prod) + 10, status, true);
      prod = (prod + 1) >>> 0;
      view.setUint32(8, prod, true);
    },
  };
}

test("a new ring has both producers at the start, both events one ahead, and a zero pad", () => {
  for (const start of [0, 0xffffffff]) {
    const { view } = ringOf("x86_64", start);
    const next = (start + 1) >>> 0;
    assert.deepEqual(
      [0, 4, 8, 12].map((at) => view.getUint32(at, true)),
      [start, next, start, next],
    );
    for (let at = 16; at < 64; at += 4) assert.equal(view.getUint32(at, true), 0);
  }
});

test("requests are invisible until they are pushed, and the backend is told only when it asked", () => {
  const { ring, view } = ringOf();
  assert.equal(ring.push(), false, "nothing to push");
  ring.produce(0);
  ring.produce(1);
  assert.equal(view.getUint32(0, true), 0);
  assert.equal(ring.push(), true, "req_event is 1");
  assert.equal(view.getUint32(0, true), 2);
  ring.produce(0);
  assert.equal(ring.push(), false, "req_event is behind");
  view.setUint32(4, 5, true);
  ring.produce(0);
  assert.equal(ring.push(), false, "req_event is not reached");
  ring.produce(0);
  assert.equal(ring.push(), true);
});

test("indices wrap around at 2^32", () => {
  for (const abi of ["x86_64", "x86_32"] as const) {
    const start = 0xffffffe0 + 20;
    const { ring, view, idAt, respond } = ringOf(abi, start);
    let index = start;
    for (let round = 0; round < 5; round++) {
      view.setUint32(4, (index + 1) >>> 0, true);
      const ids = Array.from({ length: 32 }, (_, i) => {
        ring.produce(i % 2);
        return idAt((index + i) >>> 0);
      });
      assert.equal(ring.free, 0);
      assert.equal(ring.push(), true);
      for (const [i, id] of ids.entries()) respond(id, i % 2, i);
      const got: number[] = [];
      assert.equal(
        ring.consume((_, status) => got.push(status)),
        32,
      );
      assert.deepEqual(
        got,
        ids.map((_, i) => i),
      );
      index = (index + 32) >>> 0;
      assert.equal(view.getUint32(12, true), (index + 1) >>> 0, "rsp_event asks for the next one");
    }
    assert.ok(index < start);
  }
});

test("a response that comes while others are handled is not left lying", () => {
  const { ring, idAt, respond } = ringOf();
  ring.produce(0);
  ring.produce(0);
  ring.push();
  const second = idAt(1);
  respond(idAt(0), 0);
  let answers = 0;
  // The second response arrives while the first is handled.
  const count = ring.consume(() => {
    if (++answers === 1) respond(second, 0);
  });
  assert.equal(count, 2);
});

test("every violation is found out", () => {
  const cases: [what: RegExp, act: (r: ReturnType<typeof ringOf>) => void][] = [
    [/illegal number of responses: 2 for 1/, (r) => r.view.setUint32(8, 2, true)],
    [/illegal number of responses/, (r) => r.view.setUint32(8, 0xffffffff, true)],
    [/id that is out of range \(0x20\)/, (r) => r.respond(32n, 0)],
    [/references no pending request/, (r) => r.respond((1n << 32n) | 3n, 0)],
    [/references no pending request/, (r) => r.respond(r.idAt(0) & 0xffffffffn, 0)],
    [/wrong operation \(6 instead of 0\)/, (r) => r.respond(r.idAt(0), 6)],
  ];
  for (const [what, act] of cases) {
    const r = ringOf();
    r.ring.produce(0);
    r.ring.push();
    act(r);
    assert.throws(
      () => r.ring.consume(() => {}),
      (error: Error) => {
        assert.ok(error instanceof ProtocolViolation);
        assert.match(error.message, what);
        return true;
      },
    );
  }
});

test("a second response to one request is found out, also when its place is in use again", () => {
  for (const again of [false, true]) {
    const r = ringOf();
    r.ring.produce(0);
    r.ring.produce(0);
    r.ring.push();
    const id = r.idAt(0);
    r.respond(id, 0);
    r.ring.consume(() => {});
    if (again) {
      r.ring.produce(0);
      r.ring.push();
    }
    r.respond(id, 0);
    assert.throws(() => r.ring.consume(() => {}), /no pending request/);
  }
});

test("a response to a request that was not pushed is one too many", () => {
  const r = ringOf();
  r.ring.produce(0);
  r.respond(r.idAt(0), 0);
  assert.throws(() => r.ring.consume(() => {}), /illegal number/);
});

test("taking responses asks for no event; consuming them asks for the next one", () => {
  const { ring, view, idAt, respond } = ringOf();
  const rspEvent = (): number => view.getUint32(12, true);
  for (let i = 0; i < 4; i++) ring.produce(0);
  assert.equal(ring.unpushed, 4);
  ring.push();
  assert.equal(ring.unpushed, 0);
  assert.equal(ring.hasResponses, false);
  assert.equal(
    ring.take(() => {}),
    0,
  );
  respond(idAt(0), 0);
  respond(idAt(1), 0);
  assert.equal(ring.hasResponses, true);
  assert.equal(
    ring.take(() => {}),
    2,
  );
  assert.equal(ring.hasResponses, false);
  assert.equal(rspEvent(), 1, "passed already: the backend sends nothing for it");
  respond(idAt(2), 0);
  assert.equal(
    ring.consume(() => {}),
    1,
  );
  assert.equal(rspEvent(), 4);
});
