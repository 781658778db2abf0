/**
 * The core against the oracle: whatever a guest does, every request is answered once, with the status and the
 * effect that it would have had alone, in ring order; coalescing and concurrency cannot be seen.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import * as abi from "../../assembly/abi.js";
import { Harness } from "./harness.js";
import { execute, type OracleDisk, type OracleGuest, type Outcome } from "./oracle.js";
import { type Plan, type Scenario, scenario } from "./scenario.js";
import { encodeSegment, type Segment, type WireRequest } from "./wire.js";

const RUNS = Number(process.env["XBDBACK_PROPERTY_RUNS"] ?? 1500);

/** Plays a scenario on the core and, request by request, on the oracle. */
class Session {
  readonly harness: Harness;
  readonly oracleDisk: OracleDisk;
  readonly oraclePages = new Map<number, Uint8Array>();
  readonly #readOnly = new Set<number>();
  readonly #indirect = new Map<bigint, Segment[]>();
  readonly #unpushed: { request: WireRequest; segments: Segment[] }[] = [];
  readonly expected = new Map<bigint, Outcome>();
  readonly #undefined = new Set<number>();
  #nextGref = 8;
  #nextId = 1n;
  #tenths = 0;

  constructor({ options }: Scenario) {
    this.harness = new Harness(options);
    for (let i = 0; i < this.harness.disk.length; i += 512)
      this.harness.disk.fill((i / 512) & 0xff, i, i + 512);
    this.oracleDisk = {
      bytes: this.harness.disk.slice(),
      sectorSize: options.sectorSize,
      readOnly: (options.features & abi.FEATURE_READ_ONLY) !== 0,
      flush: true,
      barrier: true,
      discard: (options.features & abi.FEATURE_DISCARD) !== 0,
      maxIndirect: options.maxIndirect,
    };
  }

  readonly #guest: OracleGuest = {
    page: (gref) => this.oraclePages.get(gref),
    writable: (gref) => !this.#readOnly.has(gref),
    indirectSegments: (request) => this.#indirect.get(request.id) ?? [],
  };

  #grant(fill: number): number {
    const gref = this.#nextGref++;
    this.harness.page(gref).fill(fill & 0xff);
    this.oraclePages.set(gref, this.harness.page(gref).slice());
    return gref;
  }

  put(plan: Plan): void {
    if (this.harness.free === 0) return;
    const id = (this.#nextId++ << 32n) | 0xdeadn;
    const segments = plan.segments.map((s) => ({ ...s, gref: this.#grant(this.#nextGref * 7) }));
    const missing = segments[plan.missingGrant]?.gref;
    if (missing !== undefined) {
      this.harness.pages.delete(missing);
      this.oraclePages.delete(missing);
    }
    const readOnly = segments[plan.readOnlyGrant]?.gref;
    if (readOnly !== undefined) {
      this.#readOnly.add(readOnly);
      this.harness.readOnlyGrants.add(readOnly);
    }
    const request: WireRequest = { operation: plan.operation, id, sector: plan.sector };
    if (plan.operation === 5) Object.assign(request, { sectors: plan.sectors, flag: plan.flag });
    else if (plan.operation === 6) this.#makeIndirect(request, plan, segments);
    else Object.assign(request, { segments, nrSegments: plan.claim ?? segments.length });
    // A claim beyond what the entry describes would make both sides read filler; keep the two in step.
    if (
      plan.operation !== 6 &&
      (request.nrSegments ?? 0) > segments.length &&
      (request.nrSegments ?? 0) <= 11
    ) {
      request.nrSegments = segments.length;
    }
    this.harness.put(request);
    this.#unpushed.push({ request, segments });
  }

  #makeIndirect(request: WireRequest, plan: Plan, segments: Segment[]): void {
    const gref = this.#grant(0);
    const page = new Uint8Array(4096);
    const view = new DataView(page.buffer);
    segments.forEach((segment, i) => {
      encodeSegment(view, i * 8, segment);
    });
    this.harness.page(gref).set(page);
    this.oraclePages.set(gref, page);
    if (plan.missingIndirectPage) {
      this.harness.pages.delete(gref);
      this.oraclePages.delete(gref);
    }
    const rest = Array.from({ length: 512 - segments.length }, () => ({ gref: 0, first: 0, last: 0 }));
    this.#indirect.set(request.id, [...segments, ...rest]);
    Object.assign(request, {
      inner: plan.inner,
      nrSegments: plan.claim ?? segments.length,
      indirectGrefs: [gref],
    });
  }

  push(): void {
    for (const { request, segments } of this.#unpushed.splice(0)) {
      const outcome = execute(this.oracleDisk, this.#guest, request);
      this.expected.set(request.id, outcome);
      // A read that fails half way may have filled some of the guest's pages, which is nobody's loss.
      if (outcome.status !== 0 && outcome.operation === 0) for (const { gref } of segments) this.#undefined.add(gref);
    }
    this.harness.push();
  }

  step(): void {
    this.harness.step();
    this.check();
  }

  complete(pick: number): void {
    const { underway } = this.harness;
    if (underway.length === 0) return;
    const [io] = underway.splice(pick % underway.length, 1);
    this.harness.perform(io);
    this.harness.step([{ slot: io.slot, result: 0 }]);
    this.check();
  }

  trim(): void {
    this.#tenths += 300;
    this.harness.unmap(this.harness.core.trim(this.#tenths));
  }

  check(): void {
    for (const response of this.harness.responses()) {
      const outcome = this.expected.get(response.id);
      assert.ok(outcome, `a response to ${response.id}, which is not waiting`);
      this.expected.delete(response.id);
      assert.deepEqual(
        { operation: response.operation, status: response.status },
        outcome,
        `response ${response.id}`,
      );
    }
  }

  end(): void {
    this.push();
    this.harness.step();
    this.check();
    for (let guard = 0; this.harness.underway.length > 0 || this.harness.flags & abi.STEP_MORE; guard++) {
      assert.ok(guard < 10000, "the core never comes to rest");
      if (this.harness.underway.length > 0) this.complete(guard);
      else this.step();
    }
    assert.equal(this.expected.size, 0, "requests without a response");
    assert.equal(this.harness.core.inflight, 0);
    assert.deepEqual(Buffer.from(this.harness.disk), Buffer.from(this.oracleDisk.bytes), "the disk");
    for (const [gref, page] of this.oraclePages) {
      if (this.#undefined.has(gref)) continue;
      assert.deepEqual(Buffer.from(this.harness.guestPage(gref)), Buffer.from(page), `guest page ${gref}`);
    }
    // Everything idle can be dropped, so nothing is still held.
    this.#tenths += 601;
    this.harness.unmap(this.harness.core.trim(this.#tenths));
    assert.equal(this.harness.mapped.size, 0, "pages still mapped");
  }

  play(moves: Scenario["moves"]): void {
    for (const move of moves) {
      if (move.kind === "put") this.put(move.plan);
      else if (move.kind === "complete") this.complete(move.pick);
      else this[move.kind]();
    }
    this.end();
    this.harness.release();
  }
}

test("any session ends as the oracle says", () => {
  fc.assert(
    fc.property(scenario, (s) => {
      new Session(s).play(s.moves);
    }),
    { numRuns: RUNS },
  );
});
