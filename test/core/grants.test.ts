/** Every grant operation of every kind of request fails once: the request fails, and nothing of it stays behind. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { ERROR, Guest, INDIRECT, OKAY, READ, short, WRITE } from "./guest.js";
import { ALL_FEATURES, type GrantUse, Harness } from "./harness.js";
import type { WireRequest } from "./wire.js";

const PERSISTENT = ALL_FEATURES | abi.FEATURE_PERSISTENT;

interface Case {
  name: string;
  features: number;
  make: (guest: Guest) => WireRequest;
  /** Which grant operations fail, one by one, and how many there are. */
  use: GrantUse;
  count: number;
  /** A grant that cannot be mapped can still be copied. */
  status: number;
  /** I/Os that are started all the same. */
  ios: number;
}

const cases: Case[] = [
  {
    name: "copy in",
    features: ALL_FEATURES,
    make: (g) => g.transfer(WRITE, 0, 11),
    use: "in",
    count: 11,
    status: ERROR,
    ios: 0,
  },
  {
    name: "copy out",
    features: ALL_FEATURES,
    make: (g) => g.transfer(READ, 0, 11),
    use: "out",
    count: 11,
    status: ERROR,
    ios: 1,
  },
  {
    name: "indirect page",
    features: ALL_FEATURES,
    make: (g) => g.indirect(READ, 0, 20),
    use: "fetch",
    count: 1,
    status: ERROR,
    ios: 0,
  },
  {
    name: "indirect page, persistent",
    features: PERSISTENT,
    make: (g) => g.indirect(WRITE, 0, 20),
    use: "fetch",
    count: 1,
    status: ERROR,
    ios: 0,
  },
  {
    name: "indirect copy in",
    features: ALL_FEATURES,
    make: (g) => g.indirect(WRITE, 0, 20),
    use: "in",
    count: 20,
    status: ERROR,
    ios: 0,
  },
  {
    name: "indirect copy out",
    features: ALL_FEATURES,
    make: (g) => g.indirect(READ, 0, 20),
    use: "out",
    count: 20,
    status: ERROR,
    ios: 1,
  },
  {
    name: "map for a write",
    features: PERSISTENT,
    make: (g) => g.transfer(WRITE, 0, 11),
    use: "map",
    count: 11,
    status: OKAY,
    ios: 1,
  },
  {
    name: "map for a read",
    features: PERSISTENT,
    make: (g) => g.indirect(READ, 0, 20),
    use: "map",
    count: 20,
    status: OKAY,
    ios: 1,
  },
];

/** Serves as many large and small requests as there can be: whatever leaked before would be missing now. */
function assertWhole(h: Harness, guest: Guest): void {
  const large = Array.from({ length: abi.MAX_LARGE }, (_, i) => guest.indirect(i % 2, i * 128, 12));
  const small = Array.from({ length: h.entries - large.length }, (_, i) =>
    guest.transfer(i % 2, 16384 + i * 8),
  );
  assert.deepEqual(h.serve(...large, ...small), Array(h.entries).fill(OKAY));
  assert.equal(h.core.inflight, 0);
  h.trim(1000);
  h.trim(2000);
  assert.equal(h.mapped.size, 0);
}

for (const { name, features, make, use, count, status, ios } of cases) {
  for (let k = 0; k < count; k++) {
    test(`${name}: number ${k} of ${count} fails`, () => {
      const h = new Harness({ features, ringPages: 4, sectors: 32768, maxPersistent: 2048 });
      const guest = new Guest(h);
      let seen = 0;
      h.grantFault = (_, kind) => (kind === use && seen++ === k ? -1 : 0);
      const request = make(guest);
      assert.deepEqual(h.serve(request), [status]);
      assert.equal(seen, count);
      assert.equal(h.ios.length, ios);
      assert.equal(h.mapped.size, use === "map" ? count - 1 : 0);
      assert.equal(h.core.counters().badGrant, status === OKAY ? 0 : 1);
      h.grantFault = null;
      assert.deepEqual(h.serve({ ...request, id: guest.id() }), [OKAY]);
      assertWhole(h, guest);
      h.release();
    });
  }
}

for (const features of [ALL_FEATURES, PERSISTENT]) {
  test(`a host that forgets statuses (${features === PERSISTENT ? "mapping" : "copying"}) is not trusted`, () => {
    const h = new Harness({ features, ringPages: 4, sectors: 32768, maxPersistent: 2048 });
    const guest = new Guest(h);
    // Good statuses from before lie in the tables.
    h.serve(guest.indirect(WRITE, 0, 30), guest.transfer(READ, 512, 11));
    h.silent = true;
    const ios = h.ios.length;
    const requests = [
      guest.indirect(READ, 0, 20),
      guest.transfer(WRITE, 512, 11),
      guest.indirect(WRITE, 1024, 3),
    ];
    assert.deepEqual(h.serve(...requests), [ERROR, ERROR, ERROR]);
    assert.equal(h.ios.length, ios);
    h.silent = false;
    h.trim(1000);
    h.trim(2000);
    assertWhole(h, guest);
    h.release();
  });
}

test("one fault among many requests of a batch is one request's", () => {
  for (let bad = 0; bad < 6; bad++) {
    const h = new Harness();
    const guest = new Guest(h);
    const requests = Array.from({ length: 6 }, (_, i) =>
      i % 3 === 2 ? guest.indirect(WRITE, i * 128, 12) : guest.transfer(i % 3, i * 128, 3),
    );
    const { operation, segments, indirectGrefs } = requests[bad];
    const gref = operation === INDIRECT ? indirectGrefs?.[0] : segments?.[2].gref;
    h.grantFault = (ref) => (ref === gref ? -3 : 0);
    assert.deepEqual(
      h.serve(...requests),
      requests.map((_, i) => (i === bad ? ERROR : OKAY)),
    );
    h.release();
  }
});

test("a pass of more copies than the table holds takes several rounds", () => {
  const h = new Harness({ ringPages: 2, sectors: 65536 });
  const guest = new Guest(h);
  const requests = Array.from({ length: 40 }, (_, i) => guest.indirect(i % 2, i * 1600, 200));
  let rounds = 0;
  h.onRound = () => {
    rounds++;
    assert.ok(h.core.copies <= abi.MAX_COPIES);
  };
  const written = new Map(requests.map((r) => [r.id, r.sector]));
  for (const request of requests) h.put(request);
  h.push();
  h.step();
  const ios = h.underway.splice(0);
  assert.equal(ios.length, 40);
  for (const io of ios) h.perform(io);
  h.step(ios.map(({ slot }) => ({ slot, result: 0 })));
  assert.deepEqual(
    h.statuses(requests),
    requests.map(() => OKAY),
  );
  assert.equal(written.size, 40);
  // 40 pages of segments and 20 * 200 writes one way, 20 * 200 reads the other.
  assert.equal(h.copies.length, 40 + 8000);
  assert.equal(rounds, 3);
  h.release();
});

test("a copy table that is full in the middle of a request's copies waits for the next round", () => {
  const h = new Harness({ ringPages: 2, sectors: 65536 });
  const guest = new Guest(h);
  const requests = Array.from({ length: 30 }, (_, i) => guest.indirect(WRITE, i * 2048, 256));
  const rounds: number[] = [];
  h.onRound = () => rounds.push(h.core.copies);
  assert.deepEqual(
    h.serve(...requests),
    requests.map(() => OKAY),
  );
  assert.deepEqual(rounds, [30, 4096, 3584]);
  assert.deepEqual(
    h.ios.map(short),
    requests.map(({ sector }) => `W${sector}+2048`),
  );
  h.release();
});

test("copies to the guest that fill the table, and requests that still have to be fetched behind them", () => {
  const h = new Harness({ ringPages: 2, sectors: 131072, maxIo: 4096 });
  const guest = new Guest(h);
  const first = Array.from({ length: 33 }, (_, i) => guest.indirect(READ, i * 2048, 256));
  for (const request of first) h.put(request);
  h.push();
  h.step();
  const second = Array.from({ length: 8 }, (_, i) => guest.indirect(WRITE, 70000 + i * 2048, 256));
  for (const request of second) h.put(request);
  h.push();
  const rounds: number[] = [];
  h.onRound = () => rounds.push(h.core.copies);
  h.step(h.underway.splice(0).map((io) => ({ slot: io.slot, result: h.perform(io) })));
  assert.deepEqual(rounds, [4096, 4096, 264, 2048]);
  h.finish();
  assert.deepEqual(
    h.statuses([...first, ...second]),
    [...first, ...second].map(() => OKAY),
  );
  h.release();
});

test("a write's grants are only read, a read's only written, and within the segments", () => {
  const h = new Harness();
  const guest = new Guest(h);
  const [out] = guest.segments(1, 2, 5);
  const [into] = guest.segments(1, 3, 3);
  h.readOnlyGrants.add(out.gref);
  h.page(into.gref).fill(0xa5);
  h.disk.fill(0x11);
  assert.deepEqual(h.serve(guest.transfer(WRITE, 64, [out]), guest.transfer(READ, 0, [into])), [OKAY, OKAY]);
  assert.deepEqual(h.copies, [
    { gref: out.gref, offset: 1024, length: 2048, toGuest: false },
    { gref: into.gref, offset: 1536, length: 512, toGuest: true },
  ]);
  const page = Buffer.alloc(4096, 0xa5).fill(0x11, 1536, 2048);
  assert.deepEqual(Buffer.from(h.page(into.gref)), page);
  assert.deepEqual(h.serve(guest.transfer(READ, 0, [out])), [ERROR]);
  h.release();
});
