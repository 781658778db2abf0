/** A pass keeps to the host's budget: for new requests, for those that had waited, and for data that was read. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { BARRIER, FLUSH, Guest, OKAY, READ, WRITE } from "./guest.js";
import { Harness, type HarnessOptions } from "./harness.js";
import type { WireRequest } from "./wire.js";

interface Pass {
  readonly copies: number;
  readonly segments: number;
  readonly bytes: number;
}

/** A ring of large requests, and what each of its passes does. */
class Scene {
  readonly h: Harness;
  readonly guest: Guest;
  readonly passes: Pass[] = [];

  constructor(options: HarnessOptions) {
    this.h = new Harness({ ringPages: 4, sectors: 262144, maxIo: 4096, disk: false, ...options });
    this.guest = new Guest(this.h);
  }

  put(requests: readonly WireRequest[]): void {
    for (const request of requests) this.h.put(request);
    this.h.push();
  }

  /** Makes passes until nothing more is to do, completing what is in flight before each if it is asked to. */
  run(complete: boolean): void {
    const { h } = this;
    do {
      const ended = complete ? h.underway.splice(0).map(({ slot }) => ({ slot, result: 0 })) : [];
      let copies = 0;
      h.onRound = () => {
        copies += h.core.copies;
      };
      h.step(ended);
      this.passes.push({ copies, segments: h.core.segmentsUsed, bytes: h.core.bytesUsed });
    } while (h.flags & abi.STEP_MORE || (complete && h.underway.length > 0));
  }
}

const BUDGETS: readonly HarnessOptions[] = [
  { passSegments: 1 },
  { passSegments: 100 },
  { passBytes: 1 },
  { passBytes: 200000 },
];

for (const budget of BUDGETS) {
  const { passSegments = abi.MAX_PASS_SEGMENTS, passBytes = abi.MAX_PASS_BYTES } = budget;
  const keeps = ({ copies, segments, bytes }: Pass): void => {
    assert.ok(segments < passSegments + abi.MAX_SEGMENTS, `${segments} segments`);
    assert.ok(bytes < passBytes + abi.MAX_IO, `${bytes} bytes`);
    // Each segment once, and the page of each indirect request.
    assert.ok(copies <= segments + Math.ceil(segments / 12), `${copies} copies for ${segments} segments`);
  };

  for (const [name, operation] of [
    ["writes", WRITE],
    ["reads", READ],
  ] as const) {
    test(`${name} of 64 segments, budget ${JSON.stringify(budget)}`, () => {
      const scene = new Scene(budget);
      const { h, guest, passes } = scene;
      const requests = Array.from({ length: 60 }, (_, i) => guest.indirect(operation, i * 1000, 64));
      scene.put(requests);
      scene.run(false);
      scene.run(true);
      passes.forEach(keeps);
      assert.ok(passes.length > 20, `${passes.length} passes`);
      const total = passes.reduce((sum, pass) => sum + pass.bytes, 0);
      assert.equal(total, 60 * 64 * 4096 * (operation === READ ? 2 : 1), "bytes taken up");
      assert.deepEqual(
        h.statuses(requests),
        requests.map(() => OKAY),
      );
      h.release();
    });
  }

  test(`writes that wait for a flush, budget ${JSON.stringify(budget)}`, () => {
    const scene = new Scene({ ...budget, features: abi.FEATURE_FLUSH | abi.FEATURE_BARRIER });
    const { h, guest, passes } = scene;
    const writes = Array.from({ length: 60 }, (_, i) => guest.indirect(WRITE, i * 1000, 64));
    scene.put([guest.empty(BARRIER), ...writes]);
    scene.run(false);
    assert.equal(h.underway.length, 1, "only the barrier is in flight");
    // All of them become ready at once.
    passes.length = 0;
    scene.run(true);
    passes.forEach(keeps);
    assert.ok(passes.length > 20, `${passes.length} passes`);
    h.release();
  });
}

test("requests without segments count as one", () => {
  const scene = new Scene({ passSegments: 5 });
  scene.put(Array.from({ length: 20 }, () => scene.guest.empty(FLUSH)));
  scene.run(false);
  assert.deepEqual(
    scene.passes.map(({ segments }) => segments),
    [5, 5, 5, 5],
  );
  scene.h.release();
});

test("from the ring a segment counts as a page; data are copied by their length", () => {
  const scene = new Scene({});
  scene.put([scene.guest.transfer(READ, 0, scene.guest.segments(3, 2, 3))]);
  scene.run(false);
  scene.run(true);
  assert.deepEqual(
    scene.passes.map(({ bytes }) => bytes),
    [3 * abi.PAGE, 3 * 2 * 512],
  );
  scene.h.release();
});

test("a budget that was changed counts for the next pass", () => {
  const scene = new Scene({ passSegments: 3 });
  const { h, guest } = scene;
  scene.put(Array.from({ length: 9 }, (_, i) => guest.transfer(READ, i * 1000)));
  h.step();
  assert.equal(h.core.inflight, 3);
  h.core.setBudget(abi.MAX_PASS_SEGMENTS, abi.MAX_PASS_BYTES);
  h.step();
  assert.equal(h.core.inflight, 9);
  h.release();
});
