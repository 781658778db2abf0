/** Requests that change while the core looks at them: each byte counts as it was at one moment. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { BARRIER, FLUSH, Guest, READ, RESERVED, short, WRITE } from "../core/guest.js";
import type { Harness } from "../core/harness.js";
import { encodeRequest, type Layout, strideOf, type WireRequest } from "../core/wire.js";
import { watched } from "./watch.js";

/** A place where the guest can change a byte of what it asked for. */
type Bytes = () => Uint8Array;

/** Serves one request over and over; the guest changes a byte at a moment of the test's choice. */
class Victim {
  readonly harness: Harness;
  readonly #slot: Uint8Array;
  readonly #indirect: Uint8Array | null;
  readonly #indirectGref: number;
  /** Moments at which the guest could act before the response was written. */
  #moments = 0;
  #answered = false;
  #act: { moment: number; bytes: Bytes; index: number; flip: number } | null = null;
  #at = 0;

  constructor(layout: Layout, make: (guest: Guest) => WireRequest) {
    this.harness = watched({ layout, disk: false }, (at, _, store) => {
      if (store && at >= abi.SRING_ENTRIES) this.#answered = true;
      else this.#moment();
    });
    this.harness.onRound = () => this.#moment();
    const request = make(new Guest(this.harness));
    this.#slot = encodeRequest(layout, request, 0xa5);
    this.#indirectGref = request.indirectGrefs?.[0] ?? 0;
    this.#indirect = this.#indirectGref ? this.harness.page(this.#indirectGref).slice() : null;
  }

  readonly slot: Bytes = () => this.harness.memory.u8.subarray(this.#at, this.#at + this.#slot.length);
  readonly indirectPage: Bytes = () => this.harness.page(this.#indirectGref);

  #moment(): void {
    if (this.#answered) return;
    if (this.#act?.moment === this.#moments++) this.#flip();
  }

  #flip(): void {
    const { bytes, index, flip } = this.#act!;
    bytes()[index] ^= flip;
  }

  /** What comes of the request when the byte changes at that moment; -1 is before the core has seen anything. */
  outcome(moment: number, bytes: Bytes, index: number, flip: number): string {
    const { harness } = this;
    this.#moments = 0;
    this.#answered = false;
    this.#act = { moment, bytes, index, flip };
    harness.ios.length = harness.copies.length = 0;
    if (this.#indirect) harness.page(this.#indirectGref).set(this.#indirect);
    this.#at = harness.putBytes(this.#slot);
    if (moment === -1) this.#flip();
    harness.push();
    harness.step();
    this.#moment();
    for (const io of harness.underway.splice(0)) harness.step([{ slot: io.slot, result: 0 }]);
    const [response, ...more] = harness.responses();
    assert.deepEqual(more, []);
    assert.equal(harness.core.inflight, 0);
    const ios = harness.ios.map((io) => `${short(io)} ${io.flags}`);
    const copies = harness.copies.map((c) => `${c.gref} ${c.offset} ${c.length} ${c.toGuest}`);
    return [response.id, response.operation, response.status, ...ios, ...copies].join("; ");
  }

  /** Changes each of the first `count` bytes at each moment. */
  check(bytes: Bytes, count: number): void {
    const before = this.outcome(-2, bytes, 0, 0);
    const moments = this.#moments;
    assert.ok(moments > 8, `${moments} moments`);
    for (let index = 0; index < count; index++) {
      for (const flip of [0x01, 0xff]) {
        const after = this.outcome(-1, bytes, index, flip);
        for (let moment = 0; moment < moments; moment++) {
          const outcome = this.outcome(moment, bytes, index, flip);
          if (outcome !== before && outcome !== after)
            assert.fail(`byte ${index} at moment ${moment} of ${moments}: ${outcome}`);
        }
      }
    }
  }
}

const REQUESTS: Record<string, (guest: Guest) => WireRequest> = {
  READ: (g) => g.transfer(READ, 16, 2),
  WRITE: (g) => g.transfer(WRITE, 16, 11),
  "FLUSH with data": (g) => g.transfer(FLUSH, 16),
  "empty BARRIER": (g) => g.empty(BARRIER),
  DISCARD: (g) => g.discard(16, 8, 1),
  INDIRECT: (g) => g.indirect(WRITE, 16, 12),
  "an operation that nobody knows": (g) => ({ operation: RESERVED, id: g.id(), sector: 0n }),
};

for (const layout of ["x86_64", "x86_32"] satisfies Layout[]) {
  for (const [name, make] of Object.entries(REQUESTS)) {
    test(`XSA-155: ${layout}, ${name}: a byte of the slot that changes between two reads is old or new, never both`, () => {
      const victim = new Victim(layout, make);
      victim.check(victim.slot, strideOf(layout));
      victim.harness.release();
    });
  }
}

test("XSA-155: a byte of an indirect page that changes between two reads is old or new, never both", () => {
  const victim = new Victim("x86_64", (g) => g.indirect(WRITE, 16, 12));
  victim.check(victim.indirectPage, 13 * 8);
  victim.harness.release();
});

test("XSA-197: req_prod that changes between two reads never leads past the requests that are there", () => {
  for (const lie of [0, 1, 3, 5, 32, 33, 37, 0x7fffffff, 0x80000000, 0xffffffff]) {
    for (let moment = 0; moment < 100; moment++) {
      let turn = Number.NEGATIVE_INFINITY;
      let furthest = 0;
      const harness: Harness = watched({ disk: false, layout: "x86_64" }, (at, bytes) => {
        if (turn++ === moment) harness.memory.u32[abi.SRING_REQ_PROD >> 2] = lie;
        furthest = Math.max(furthest, at + bytes);
      });
      const guest = new Guest(harness);
      for (let i = 0; i < 4; i++) harness.put({ operation: RESERVED, id: guest.id(), sector: 0n });
      harness.push();
      turn = 0;
      for (let i = 0; i < 3; i++) harness.step();
      assert.ok(turn > 0);
      const taken = harness.memory.u32[abi.OUT_REQ_CONS >> 2];
      // 33 is a lie at first, and none any more once the four have been answered.
      const honest = lie > 36 ? 4 : Math.max(4, lie);
      assert.ok(taken <= honest, `${taken} requests were taken, req_prod ${lie} at ${moment}`);
      assert.ok(furthest <= abi.SRING_ENTRIES + honest * 112, "a slot was read that holds no request");
      assert.equal(harness.memory.u32[abi.SRING_RSP_PROD >> 2], taken);
      harness.release();
    }
  }
});
