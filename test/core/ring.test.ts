/** The shared ring's indices: notifications, events, overflow, draining, and who is woken when. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import type { RingConfig } from "../../host/core/blkif.js";
import { ERROR, FLUSH, Guest, OKAY, READ, RESERVED, short, WRITE } from "./guest.js";
import { Harness, type HarnessOptions } from "./harness.js";

function setup(options: HarnessOptions = {}): { h: Harness; guest: Guest } {
  const h = new Harness(options);
  return { h, guest: new Guest(h) };
}

const header = (h: Harness, field: number): number => h.memory.u32[field >> 2];
const setHeader = (h: Harness, field: number, value: number): void => {
  h.memory.u32[field >> 2] = value;
};
/** Requests that the core answers without an I/O. */
const unknown = (guest: Guest) => ({ operation: RESERVED, id: guest.id(), sector: 0n });

const WRAPS = [0, 0x7fffffe0, 0xffffffe0];

test("it notifies exactly when the responses pass rsp_event, at every index and wrap-around", () => {
  for (const startIndex of WRAPS) {
    const { h, guest } = setup({ startIndex });
    let old = startIndex;
    for (let k = 1; k <= 5; k++) {
      const events = [-3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 40, 0x7fffffff, 0x80000000, 0x80000001];
      for (const distance of events) {
        for (let i = 0; i < k; i++) h.put(unknown(guest));
        h.push();
        const event = (old + distance) >>> 0;
        setHeader(h, abi.SRING_RSP_EVENT, event);
        const flags = h.step();
        const news = (old + k) >>> 0;
        // RING_PUSH_RESPONSES_AND_CHECK_NOTIFY, and what it means.
        const macro = (news - event) >>> 0 < (news - old) >>> 0;
        assert.equal(macro, distance >= 1 && distance <= k);
        assert.equal(
          (flags & abi.STEP_NOTIFY) !== 0,
          macro,
          `${k} responses after ${old}, rsp_event ${event}`,
        );
        assert.equal(h.responses().length, k);
        old = news;
      }
    }
    h.release();
  }
});

test("a guest that spoils rsp_prod changes neither notifications nor where responses go", () => {
  const { h, guest } = setup();
  h.put(unknown(guest));
  h.push();
  h.step();
  setHeader(h, abi.SRING_RSP_PROD, 0x12345678);
  h.put(unknown(guest));
  h.push();
  setHeader(h, abi.SRING_RSP_EVENT, 2);
  assert.equal(h.step() & abi.STEP_NOTIFY, abi.STEP_NOTIFY);
  assert.equal(header(h, abi.SRING_RSP_PROD), 2);
  h.release();
});

test("nothing to publish: no notification", () => {
  const { h } = setup();
  for (const event of [0, 1, 0xffffffff]) {
    setHeader(h, abi.SRING_RSP_EVENT, event);
    assert.equal(h.step(), 0);
  }
  h.release();
});

test("a pass that leaves the ring empty asks for an event at the next request, across the wrap-around", () => {
  for (const startIndex of WRAPS) {
    const { h, guest } = setup({ startIndex });
    let cons = startIndex;
    for (let i = 0; i < 40; i++) {
      const k = (i % 5) + 1;
      for (let j = 0; j < k; j++) h.put(unknown(guest));
      h.push();
      assert.equal(h.step() & abi.STEP_MORE, 0);
      cons = (cons + k) >>> 0;
      assert.equal(header(h, abi.SRING_REQ_EVENT), (cons + 1) >>> 0);
      assert.equal(header(h, abi.OUT_REQ_CONS), cons);
      h.responses();
    }
    h.release();
  }
});

test("a pass takes a batch and says that there is more", () => {
  const { h, guest } = setup({ batch: 3 });
  for (let i = 0; i < 8; i++) h.put(unknown(guest));
  h.push();
  const taken: number[] = [];
  do {
    h.step();
    taken.push(header(h, abi.OUT_REQ_CONS));
  } while (h.flags & abi.STEP_MORE);
  assert.deepEqual(taken, [3, 6, 8]);
  h.release();
});

test("a full ring of I/Os: nothing more is taken, nothing spins, and room is used as it comes", () => {
  const { h, guest } = setup({ maxIo: 4096 });
  for (let i = 0; i < 32; i++) h.put(guest.transfer(READ, i * 16));
  h.push();
  h.step();
  assert.equal(h.flags, abi.STEP_IO);
  assert.equal(h.step(), 0);
  assert.equal(h.core.inflight, 32);
  for (let i = 0; i < 100; i++) {
    const [io] = h.underway.splice((i * 7) % 32, 1);
    h.step([{ slot: io.slot, result: 0 }]);
    assert.equal(h.responses().length, 1);
    h.put(guest.transfer(READ, i * 16));
    h.push();
    h.step();
    assert.equal(h.core.inflight, 32);
  }
  h.finish();
  assert.equal(h.responses().length, 32);
  h.release();
});

for (const startIndex of WRAPS) {
  test(`req_prod that lies halts the ring at once, from ${startIndex} on (CVE-2010-4247)`, () => {
    const lies = [33, 34, 64, 1000, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff];
    for (const underway of [0, 1, 5, 32]) {
      // Against the last of the requests in flight: forward past the ring, or back over what was taken.
      for (const lie of [...lies, 33 - underway, -1, -underway].filter((n) => n !== 0)) {
        const { h, guest } = setup({ startIndex, maxIo: 4096 });
        for (let i = 0; i < underway; i++) h.put(guest.transfer(READ, i * 16));
        h.push();
        h.step();
        setHeader(h, abi.SRING_REQ_PROD, startIndex + underway + lie);
        assert.equal(
          h.step() & ~abi.STEP_MORE,
          abi.STEP_HALTED,
          `${underway} under way, req_prod ${lie} further`,
        );
        assert.equal(header(h, abi.OUT_REQ_CONS), (startIndex + underway) >>> 0);
        // It stays halted, even when the guest repents; what was in flight is answered.
        setHeader(h, abi.SRING_REQ_PROD, startIndex + underway);
        assert.ok(h.step() & abi.STEP_HALTED);
        h.finish();
        assert.equal(h.responses().length, underway);
        assert.equal(h.core.inflight, 0);
        h.release();
      }
    }
  });
}

test("responses that were not published when the guest lied do not make it right", () => {
  const { h, guest } = setup({ maxIo: 4096 });
  for (let i = 0; i < 5; i++) h.put(guest.transfer(WRITE, i * 16));
  h.push();
  h.step();
  // Were the core to believe it, it would take its own response for the 33rd request.
  setHeader(h, abi.SRING_REQ_PROD, 33);
  h.step(h.underway.splice(0).map(({ slot }) => ({ slot, result: 0 })));
  assert.ok(h.flags & abi.STEP_HALTED);
  assert.equal(header(h, abi.OUT_REQ_CONS), 5);
  assert.equal(header(h, abi.SRING_RSP_PROD), 5);
  h.release();
});

test("req_prod a whole ring ahead is honest", () => {
  const { h, guest } = setup({ startIndex: 0xfffffff0 });
  for (let i = 0; i < 32; i++) h.put(unknown(guest));
  h.push();
  assert.equal(h.step() & abi.STEP_HALTED, 0);
  assert.equal(h.responses().length, 32);
  h.release();
});

test("a halted ring finishes what waited for one another", () => {
  const { h, guest } = setup();
  const requests = [guest.transfer(WRITE, 0), guest.transfer(WRITE, 0), guest.transfer(WRITE, 0)];
  for (const request of requests) h.put(request);
  h.push();
  h.step();
  // The second fails when its turn comes, in the middle of the pass that finds the ring spoilt.
  const failing = requests[1].segments?.[0].gref;
  h.grantFault = (gref) => (gref === failing ? -1 : 0);
  setHeader(h, abi.SRING_REQ_PROD, 1000);
  const [io] = h.underway.splice(0);
  h.step([{ slot: io.slot, result: 0 }]);
  assert.equal(h.flags, abi.STEP_HALTED | abi.STEP_MORE);
  h.finish();
  setHeader(h, abi.SRING_REQ_PROD, 3);
  assert.deepEqual(h.statuses(requests), [OKAY, ERROR, OKAY]);
  assert.equal(h.core.inflight, 0);
  h.release();
});

test("a drained ring takes nothing and asks for no event, but finishes what is in flight", () => {
  const { h, guest } = setup({ maxIo: 4096 });
  const requests = [guest.transfer(WRITE, 0), guest.transfer(WRITE, 0), guest.transfer(READ, 0)];
  for (const request of requests) h.put(request);
  h.push();
  h.step();
  h.core.setBatch(0);
  const event = header(h, abi.SRING_REQ_EVENT);
  const later = guest.transfer(READ, 64);
  h.put(later);
  h.push();
  assert.equal(h.step(), 0);
  h.finish();
  assert.equal(h.core.inflight, 0);
  assert.deepEqual(h.statuses(requests), [OKAY, OKAY, OKAY]);
  assert.equal(header(h, abi.SRING_REQ_EVENT), event);
  // And on again.
  h.memory.u32[abi.CONFIG_BATCH >> 2] = 64;
  h.step();
  h.finish();
  assert.deepEqual(h.statuses([later]), [OKAY]);
  h.release();
});

test("draining between the rounds of a pass leaves nothing behind", () => {
  const { h, guest } = setup();
  const requests = [guest.indirect(WRITE, 0, 20), guest.transfer(WRITE, 8), guest.transfer(READ, 160)];
  for (const request of requests) h.put(request);
  h.push();
  h.onRound = () => h.core.setBatch(0);
  h.step();
  h.finish();
  assert.deepEqual(h.statuses(requests), [OKAY, OKAY, OKAY]);
  assert.equal(h.core.inflight, 0);
  h.release();
});

test("completions that come between the rounds of a pass are not lost", () => {
  const { h, guest } = setup({ maxIo: 4096 });
  const first = [guest.transfer(READ, 0), guest.transfer(WRITE, 16), guest.transfer(WRITE, 16)];
  for (const request of first) h.put(request);
  h.push();
  h.step();
  const ios = h.underway.splice(0);
  for (const io of ios) h.perform(io);
  const second = [guest.transfer(WRITE, 64), guest.indirect(READ, 128, 3)];
  for (const request of second) h.put(request);
  h.push();
  h.step(
    [],
    ios.map(({ slot }) => ({ slot, result: 0 })),
  );
  h.finish();
  assert.deepEqual(h.statuses([...first, ...second]), [OKAY, OKAY, OKAY, OKAY, OKAY]);
  h.release();
});

test("requests that wait for a large data region go on when there is one", () => {
  const { h, guest } = setup({ ringPages: 4, sectors: 65536, maxIo: 4096 });
  const requests = Array.from({ length: 70 }, (_, i) => guest.indirect(READ, i * 200, 12));
  for (const request of requests) h.put(request);
  h.push();
  h.step();
  assert.ok(h.flags & abi.STEP_MORE);
  h.step();
  // Every region is taken. Only a completion can help, so there is no point in asking again.
  assert.equal(h.flags, 0);
  assert.equal(h.underway.length, 64);
  assert.equal(h.core.inflight, 64);
  assert.equal(header(h, abi.OUT_REQ_CONS), 64);
  h.finish();
  assert.deepEqual(
    h.statuses(requests),
    requests.map(() => OKAY),
  );
  assert.equal(h.core.inflight, 0);
  h.release();
});

test("a ring has as many large requests in flight as its configuration says", () => {
  const { h, guest } = setup({ ringPages: 4, sectors: 65536, maxIo: 4096, maxLarge: 3 });
  const requests = Array.from({ length: 8 }, (_, i) => guest.indirect(READ, i * 200, 12));
  const small = guest.transfer(READ, 60000, 11);
  for (const request of [...requests.slice(0, 3), small, ...requests.slice(3)]) h.put(request);
  h.push();
  h.step();
  assert.equal(h.core.inflight, 4, "those that need no region pass with them");
  const end = Math.max(...h.underway.map((io) => h.addresses(io)[0] + h.iovecs(io)[0]));
  assert.ok(end <= abi.DATA_LARGE + 3 * abi.DATA_LARGE_BYTES, "the first regions are used, and no others");
  while (h.underway.length > 0 || h.flags & abi.STEP_MORE) {
    assert.ok(h.core.inflight <= 4);
    const [io] = h.underway.splice(0, 1);
    h.step(io ? [{ slot: io.slot, result: h.perform(io) }] : []);
  }
  assert.deepEqual(h.statuses([...requests, small]), Array(9).fill(OKAY));
  h.release();
});

test("a large request whose predecessors all fail in its pass is not forgotten", () => {
  const { h, guest } = setup({ ringPages: 4, sectors: 65536, batch: 128 });
  const requests = Array.from({ length: 70 }, (_, i) => guest.indirect(READ, i * 200, 12));
  requests.slice(0, 64).forEach((r) => {
    h.pages.delete(r.indirectGrefs[0]);
  });
  for (const request of requests) h.put(request);
  h.push();
  h.step();
  assert.ok(h.flags & abi.STEP_MORE);
  h.finish();
  assert.deepEqual(h.statuses(requests), [...Array(64).fill(ERROR), ...Array(6).fill(OKAY)]);
  h.release();
});

test("attach refuses a configuration out of range, and a ring that lies", () => {
  const { h } = setup({ ringPages: 2 });
  const wrong: Partial<RingConfig>[] = [
    { abi: 2 },
    { abi: -1 },
    { ringPages: 0 },
    { ringPages: 3 },
    { ringPages: 32 },
    { sectorSize: 256 },
    { sectorSize: 1536 },
    { sectorSize: 8192 },
    { maxIndirect: 257 },
    { maxIo: 4095 },
    { maxIo: abi.MAX_IO + 1 },
    { batch: 513 },
    { maxPersistent: 2049 },
    { maxLarge: -1 },
    { maxLarge: abi.MAX_LARGE + 1 },
    { passSegments: 0 },
    { passSegments: abi.MAX_PASS_SEGMENTS + 1 },
    { passBytes: 0 },
    { passBytes: abi.MAX_PASS_BYTES + 1 },
  ];
  for (const change of wrong) {
    assert.equal(h.core.attach({ ...h.config, ...change }), abi.ATTACH_BAD_CONFIG, JSON.stringify(change));
  }
  setHeader(h, abi.SRING_RSP_PROD, 0xfffffff0);
  for (const [ahead, code] of [
    [0, abi.ATTACH_OK],
    [64, abi.ATTACH_OK],
    [65, abi.ATTACH_BAD_RING],
    [-1, abi.ATTACH_BAD_RING],
  ]) {
    setHeader(h, abi.SRING_REQ_PROD, 0xfffffff0 + ahead);
    assert.equal(h.core.attach(h.config), code, `${ahead} ahead`);
  }
  h.release();
});

test("attach takes up where the shared rsp_prod stands", () => {
  const { h, guest } = setup({ startIndex: 77 });
  const request = guest.transfer(READ, 0);
  assert.deepEqual(h.serve(request), [OKAY]);
  const next = guest.transfer(READ, 8);
  h.put(next);
  h.push();
  assert.equal(h.core.attach(h.config), abi.ATTACH_OK);
  h.step();
  assert.deepEqual(h.underway.map(short), ["R8+8"]);
  h.finish();
  assert.deepEqual(h.statuses([next]), [OKAY]);
  assert.equal(header(h, abi.SRING_RSP_PROD), 79);
  assert.equal(h.core.counters().read, 1);
  h.release();
});

test("attach forgets what it finds in the middle of a pass, or between two", () => {
  for (const moment of ["copies asked for", "maps asked for", "requests ready", "I/Os under way"]) {
    const persistent = moment.startsWith("maps") ? abi.FEATURE_PERSISTENT : 0;
    const { h, guest } = setup({ features: abi.FEATURE_FLUSH | persistent });
    const requests = [guest.transfer(WRITE, 0), guest.transfer(WRITE, 0), guest.transfer(READ, 64)];
    for (const request of requests) h.put(request);
    h.push();
    if (moment === "copies asked for") assert.equal(h.core.step(0), abi.STEP_COPY);
    else if (moment === "maps asked for") assert.equal(h.core.step(0), abi.STEP_MAP);
    else {
      if (moment === "requests ready") h.grantFault = () => -1;
      h.step();
      assert.equal((h.flags & abi.STEP_MORE) !== 0, moment === "requests ready");
    }
    h.responses();
    h.grantFault = null;
    h.underway.length = h.ios.length = 0;
    const answered = header(h, abi.SRING_RSP_PROD);
    // The guest takes its requests back and begins again.
    h.restart(answered);
    assert.equal(h.core.attach(h.config), abi.ATTACH_OK);
    assert.equal(h.core.inflight, 0);
    const again = [guest.transfer(WRITE, 0), guest.transfer(READ, 0), guest.empty(FLUSH)];
    assert.deepEqual(h.serve(...again), [OKAY, OKAY, OKAY], moment);
    assert.deepEqual(h.ios.map(short), ["W0+8", "R0+8", "F"]);
    assert.equal(h.core.inflight, 0);
    h.assertNoHazards();
    h.release();
  }
});
