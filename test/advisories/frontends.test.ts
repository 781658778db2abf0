/**
 * What the core owes to frontends that are strict: Linux's blkif_interrupt disables the disk for good when a response has
 * an id past the ring or of no pending request, another operation than was asked for, or comes unasked; NetBSD's driver
 * asserts the same, and leaves most of a flush unset.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { Random } from "../../fuzz/random.js";
import {
  BARRIER,
  DISCARD,
  EOPNOTSUPP,
  ERROR,
  FLUSH,
  Guest,
  INDIRECT,
  OKAY,
  READ,
  WRITE,
} from "../core/guest.js";
import { ALL_FEATURES, Harness, type HarnessOptions } from "../core/harness.js";
import { type Layout, strideOf, type WireRequest } from "../core/wire.js";

const SECTORS = 4096;
const OPTIONAL: readonly number[] = [FLUSH, BARRIER, DISCARD];

/** The checks of blkif_interrupt: ids are places in a table as long as the ring, and each knows its operation. */
class StrictFrontend {
  readonly harness: Harness;
  readonly #pending: (WireRequest | undefined)[];
  readonly #free: number[];

  constructor(options: HarnessOptions) {
    this.harness = new Harness({ disk: false, sectors: SECTORS, ...options });
    this.#pending = Array.from({ length: this.harness.entries }, () => undefined);
    this.#free = Array.from(this.#pending.keys());
  }

  get room(): number {
    return Math.min(this.#free.length, this.harness.free);
  }

  /** The next free id. */
  take(): number {
    return this.#free.pop() as number;
  }

  put(request: WireRequest): void {
    const id = this.take();
    this.#pending[id] = request;
    this.harness.put({ ...request, id: BigInt(id) });
  }

  note(id: number, request: WireRequest): void {
    this.#pending[id] = request;
  }

  /** Takes all responses; every number that the guest cannot explain is the end of the disk. */
  consume(): number[] {
    return this.harness.responses().map(({ id, operation, status }) => {
      assert.ok(id < BigInt(this.harness.entries), `response has an id that is out of range (${id})`);
      const request = this.#pending[Number(id)];
      assert.ok(request, `response references no pending request (${id})`);
      const expected = request.operation === INDIRECT ? request.inner : request.operation;
      assert.equal(operation, expected, "response has wrong operation");
      assert.ok([OKAY, ERROR, EOPNOTSUPP].includes(status), `a status that nobody knows (${status})`);
      if (status === EOPNOTSUPP) assert.ok(OPTIONAL.includes(operation), `EOPNOTSUPP for ${operation}`);
      this.#pending[Number(id)] = undefined;
      this.#free.push(Number(id));
      return status;
    });
  }
}

/** Mostly right: what is wrong must be answered no less. */
function randomRequest(random: Random, guest: Guest): WireRequest {
  const sector = random.oneIn(12) ? SECTORS - 4 : random.below(64) * 8;
  const pages = 1 + random.below(11);
  const kind = random.pick([READ, READ, WRITE, WRITE, INDIRECT, INDIRECT, FLUSH, BARRIER, DISCARD]);
  if (kind === INDIRECT) return guest.indirect(random.below(2), sector, 1 + random.below(40));
  if (kind === DISCARD) return guest.discard(sector, random.below(90), random.below(2));
  if (kind === FLUSH || (kind === BARRIER && random.oneIn(2))) return guest.empty(kind);
  const request = guest.transfer(kind, sector, pages);
  return random.oneIn(15) ? { ...request, nrSegments: random.below(256) } : request;
}

for (const layout of ["x86_64", "x86_32"] satisfies Layout[]) {
  test(`Linux: no response disables a disk whose frontend checks as blkif_interrupt does, ${layout}`, () => {
    for (let seed = 0; seed < 60; seed++) {
      const random = new Random(seed);
      const features = ALL_FEATURES | (random.oneIn(2) ? abi.FEATURE_PERSISTENT : 0);
      const startIndex = random.pick([0, 0xfffffff0, 0x7ffffff0]);
      const front = new StrictFrontend({ layout, features, startIndex });
      const { harness } = front;
      harness.grantFault = () => (random.oneIn(60) ? -3 : 0);
      const guest = new Guest(harness);
      let answered = 0;
      for (let turn = 0; turn < 60; turn++) {
        for (let n = random.below(front.room + 1); n > 0; n--) front.put(randomRequest(random, guest));
        harness.push();
        const completions = harness.underway
          .splice(0, random.below(harness.underway.length + 1))
          .map(({ slot }) => ({ slot, result: random.oneIn(8) ? 1 + random.below(3) : 0 }));
        harness.step(completions);
        answered += front.consume().length;
      }
      harness.grantFault = null;
      while (harness.core.inflight > 0 || harness.flags & abi.STEP_MORE) {
        harness.step(harness.underway.splice(0).map(({ slot }) => ({ slot, result: 0 })));
        answered += front.consume().length;
      }
      assert.ok(answered > 60, `only ${answered} responses of seed ${seed}`);
      assert.equal(front.room, harness.entries, "a request has no response");
      harness.release();
    }
  });

  test(`NetBSD: a flush of which nothing but operation and id is set is a flush, in every slot, ${layout}`, () => {
    const front = new StrictFrontend({ layout });
    const { harness } = front;
    const guest = new Guest(harness);
    for (let turn = 0; turn < 3 * harness.entries; turn++) {
      // The slot holds what its last request and the response over that have left.
      const at = abi.SRING_ENTRIES + (turn % harness.entries) * strideOf(layout);
      const entry = harness.memory.u8.slice(at, at + strideOf(layout));
      if (turn < harness.entries) front.put(guest.transfer(READ, turn * 8));
      else {
        const id = front.take();
        entry[0] = FLUSH;
        new DataView(entry.buffer).setBigUint64(layout === "x86_64" ? 8 : 4, BigInt(id), true);
        front.note(id, guest.empty(FLUSH));
        harness.putBytes(entry);
      }
      harness.push();
      harness.step();
      harness.step(harness.underway.splice(0).map(({ slot }) => ({ slot, result: 0 })));
      assert.deepEqual(front.consume(), [OKAY], `request ${turn}`);
    }
    harness.release();
  });
}

test("Linux: an empty flush that was offered is never an ERROR, which would turn flushes off, unless the disk fails it", () => {
  for (const features of [ALL_FEATURES, ALL_FEATURES | abi.FEATURE_READ_ONLY, abi.FEATURE_FLUSH]) {
    const front = new StrictFrontend({ features });
    const { harness } = front;
    const guest = new Guest(harness);
    for (const sector of [0n, BigInt(SECTORS), (1n << 64n) - 1n]) {
      for (const sectorSize of [512, 4096]) {
        harness.core.attach({ ...harness.config, sectorSize });
        harness.restart(0);
        front.put({ ...guest.empty(FLUSH), sector });
        harness.push();
        harness.step();
        harness.step(harness.underway.splice(0).map(({ slot }) => ({ slot, result: 0 })));
        assert.deepEqual(front.consume(), [OKAY], `sector ${sector}, sector-size ${sectorSize}`);
        harness.memory.u32.fill(0, abi.SRING >> 2, (abi.SRING >> 2) + 3);
      }
    }
    harness.release();
  }
});
