/** Plays a scenario on the core and, request by request, on the oracle, and compares all that can be seen. */
import assert from "node:assert/strict";
import * as abi from "../../assembly/abi.js";
import { responseWords } from "../vectors/describe.js";
import { VectorWriter } from "../vectors/writer.js";
import { Harness } from "./harness.js";
import { execute, type OracleDisk, type OracleGuest, type Outcome } from "./oracle.js";
import { DISK_SECTORS, type Plan, type Scenario } from "./scenario.js";
import { encodeSegment, type Segment, type WireRequest } from "./wire.js";

interface Sent {
  request: WireRequest;
  segments: Segment[];
}

export class Session {
  readonly harness: Harness;
  readonly #oracleDisk: OracleDisk;
  readonly #oraclePages = new Map<number, Uint8Array>();
  readonly #readOnly = new Set<number>();
  readonly #indirect = new Map<bigint, Segment[]>();
  readonly #unpushed: Sent[] = [];
  readonly #reads: Sent[] = [];
  readonly #expected = new Map<bigint, Outcome>();
  /** Writes down what is done, if somebody wants to read it. */
  readonly #writer: VectorWriter | undefined;
  readonly #unmappable: number;
  /** Pages whose content nobody can tell, or need not. */
  readonly #undefined = new Set<number>();
  readonly #batch: number;
  readonly #flaky: number;
  #mergedIos = 0;
  #nextGref = 8;
  #nextId = 1n;
  #tenths = 0;
  #pushed: number;

  constructor(
    { options, badSectors, unmappable, flaky }: Scenario,
    module?: WebAssembly.Module,
    written = false,
  ) {
    if (written) this.#writer = writerOf(options, badSectors);
    this.harness = new Harness({
      ...options,
      ...(module ? { module } : {}),
      ...(this.#writer ? { writer: this.#writer } : {}),
    });
    this.#unmappable = unmappable;
    this.harness.scribble = true;
    this.#pushed = options.startIndex ?? 0;
    this.#batch = options.batch;
    this.#flaky = flaky;
    for (const sector of badSectors) this.harness.badSectors.add(sector);
    if (unmappable)
      this.harness.grantFault = (gref, use) => (use === "map" && gref % unmappable === 0 ? -1 : 0);
    const { disk } = this.harness;
    for (let i = 0; i < disk.length; i += 512) disk.fill((i / 512) & 0xff, i, i + 512);
    this.#oracleDisk = {
      bytes: disk.slice(),
      sectors: DISK_SECTORS,
      bad: new Set(badSectors),
      sectorSize: options.sectorSize,
      readOnly: (options.features & abi.FEATURE_READ_ONLY) !== 0,
      flush: true,
      barrier: true,
      discard: (options.features & abi.FEATURE_DISCARD) !== 0,
      maxIndirect: options.maxIndirect,
    };
  }

  play(moves: Scenario["moves"]): void {
    for (const move of moves) {
      if (move.kind === "put") this.#put(move.plan);
      else if (move.kind === "again") this.#again(move.pick);
      else if (move.kind === "push") this.#push();
      else if (move.kind === "step") this.#step();
      else if (move.kind === "complete") this.#complete(move.pick, move.count, move.late);
      else if (move.kind === "trim") this.#trim(300);
      else if (move.kind === "resize") this.#resize(move.sectors);
      else this.#setBatch(move.kind === "drain" ? 0 : this.#batch);
    }
    this.#end();
    this.harness.release();
  }

  /** What was done, as a vector with the responses that the oracle gives. For a session that is `written`. */
  vector(title: string): string {
    assert.ok(this.#writer, "the session was not written down");
    this.#writer.host(`batch ${this.#batch}`);
    this.#writer.host("finish");
    return this.#writer.text(title);
  }

  // ---- The guest ----

  readonly #guest: OracleGuest = {
    page: (gref) => this.#oraclePages.get(gref),
    writable: (gref) => !this.#readOnly.has(gref),
    indirectSegments: (request) => this.#indirect.get(request.id) ?? [],
  };

  #grant(): number {
    const gref = this.#nextGref++;
    this.harness.page(gref).fill((gref * 7) & 0xff);
    this.#oraclePages.set(gref, this.harness.page(gref).slice());
    if (this.#unmappable > 0 && gref % this.#unmappable === 0)
      this.#writer?.host(`grant ${gref} status unmappable`);
    return gref;
  }

  #revoke(gref: number): void {
    this.harness.pages.delete(gref);
    this.#oraclePages.delete(gref);
    this.#writer?.host(`grant ${gref} status -3`);
  }

  #put(plan: Plan): void {
    if (this.harness.free === 0) return;
    const segments: Segment[] = [];
    for (const { samePage, ...range } of plan.segments) {
      const gref = samePage ? segments.at(-1)?.gref : undefined;
      segments.push({ ...range, gref: gref ?? this.#grant() });
    }
    const missing = segments[plan.missingGrant]?.gref;
    if (missing !== undefined) this.#revoke(missing);
    const readOnly = segments[plan.readOnlyGrant]?.gref;
    if (readOnly !== undefined) {
      this.#readOnly.add(readOnly);
      this.harness.readOnlyGrants.add(readOnly);
      if (readOnly !== missing) this.#writer?.host(`grant ${readOnly} status read-only`);
    }
    const request: WireRequest = { operation: plan.operation, id: this.#id(), sector: plan.sector };
    if (plan.operation === 5) Object.assign(request, { sectors: plan.sectors, flag: plan.flag });
    else if (plan.operation === 6) this.#makeIndirect(request, plan, segments);
    else Object.assign(request, { segments, nrSegments: this.#claim(plan, segments) });
    if (plan.operation === 0) this.#reads.push({ request, segments });
    this.#send({ request, segments });
  }

  /** A lie that reaches beyond what the entry describes would make both sides read filler. */
  #claim({ claim }: Plan, segments: Segment[]): number {
    return claim === null || (claim > segments.length && claim <= 11) ? segments.length : claim;
  }

  #makeIndirect(request: WireRequest, plan: Plan, segments: Segment[]): void {
    const gref = this.#grant();
    const view = new DataView(this.harness.page(gref).fill(0).buffer);
    segments.forEach((segment, i) => {
      encodeSegment(view, i * 8, segment);
    });
    this.#writer?.page(gref, this.harness.page(gref).slice(0, segments.length * abi.SEGMENT_BYTES));
    this.#undefined.add(gref);
    if (plan.missingIndirectPage) this.#revoke(gref);
    const rest = Array.from({ length: 512 - segments.length }, () => ({ gref: 0, first: 0, last: 0 }));
    this.#indirect.set(request.id, [...segments, ...rest]);
    Object.assign(request, {
      inner: plan.inner,
      nrSegments: plan.claim ?? segments.length,
      indirectGrefs: [gref],
    });
  }

  #again(pick: number): void {
    if (this.harness.free === 0 || this.#reads.length === 0) return;
    const { request, segments } = this.#reads[pick % this.#reads.length];
    this.#send({ request: { ...request, id: this.#id() }, segments });
  }

  #id(): bigint {
    return (this.#nextId++ << 32n) | 0xdeadn;
  }

  #send(sent: Sent): void {
    this.harness.put(sent.request);
    this.#unpushed.push(sent);
  }

  #push(): void {
    for (const { request, segments } of this.#unpushed.splice(0)) {
      const outcome = execute(this.#oracleDisk, this.#guest, request);
      this.#expected.set(request.id, outcome);
      this.#writer?.response(responseWords(request.id, outcome.operation, outcome.status));
      // A read that fails half way may have filled some of the guest's pages, which is nobody's loss.
      if (outcome.status !== 0 && outcome.operation === 0)
        for (const { gref } of segments) this.#undefined.add(gref);
      this.#pushed = (this.#pushed + 1) >>> 0;
    }
    this.harness.push();
  }

  // ---- The host ----

  #step(completed: { slot: number; result: number }[] = [], late = false): void {
    const { harness } = this;
    const { notifications } = harness;
    if (late) harness.step([], completed);
    else harness.step(completed);
    const answered = this.#takeResponses();
    assert.equal(harness.notifications - notifications, answered > 0 ? 1 : 0, "notifications");
    if (harness.flags & abi.STEP_MORE) return;
    // Nobody says that there is more to do: then an event or a completion will.
    const { u32 } = harness.memory;
    if (u32[abi.CONFIG_BATCH >> 2] === 0) return;
    const allTaken = u32[abi.OUT_REQ_CONS >> 2] === this.#pushed;
    if (allTaken) assert.equal(u32[abi.SRING_REQ_EVENT >> 2], (this.#pushed + 1) >>> 0, "req_event");
    if (harness.underway.length > 0) return;
    assert.ok(allTaken, "requests forgotten on the ring");
    assert.equal(this.#expected.size, 0, "requests forgotten");
  }

  #takeResponses(): number {
    const responses = this.harness.responses();
    for (const { id, operation, status } of responses) {
      const outcome = this.#expected.get(id);
      assert.ok(outcome, `a response to ${id}, which is not waiting`);
      this.#expected.delete(id);
      assert.deepEqual({ operation, status }, outcome, `response ${id}`);
    }
    return responses.length;
  }

  #complete(pick: number, count = 1, late = false): void {
    const { underway } = this.harness;
    const completed = [];
    for (let i = 0; i < count && underway.length > 0; i++) {
      const [io] = underway.splice((pick + i * 7) % underway.length, 1);
      const fails =
        this.harness.requestsOf(io) > 1 && this.#flaky > 0 && ++this.#mergedIos % this.#flaky === 0;
      completed.push({ slot: io.slot, result: this.harness.perform(io) || (fails ? 1 : 0) });
    }
    if (completed.length > 0) this.#step(completed, late);
  }

  #trim(tenths: number): void {
    this.#tenths += tenths;
    this.harness.trim(this.#tenths);
  }

  #setBatch(batch: number): void {
    this.harness.memory.u32[abi.CONFIG_BATCH >> 2] = batch;
    this.#writer?.host(`batch ${batch}`);
  }

  /** The size counts when a request is taken, so everything that was pushed must be taken before it changes. */
  #resize(sectors: number): void {
    const { u32 } = this.harness.memory;
    this.#step();
    while (this.harness.flags & abi.STEP_MORE) this.#step();
    if (u32[abi.OUT_REQ_CONS >> 2] !== this.#pushed) return;
    this.harness.core.resize(sectors);
    this.#writer?.host(`sectors ${sectors}`);
    this.#oracleDisk.sectors = sectors;
  }

  #end(): void {
    this.#setBatch(this.#batch);
    this.#push();
    this.#step();
    for (let guard = 0; this.harness.underway.length > 0 || this.harness.flags & abi.STEP_MORE; guard++) {
      assert.ok(guard < 10000, "the core never comes to rest");
      if (this.harness.underway.length > 0) this.#complete(guard);
      else this.#step();
    }
    assert.equal(this.#expected.size, 0, "requests without a response");
    assert.equal(this.harness.core.inflight, 0);
    this.harness.assertNoHazards();
    assert.deepEqual(Buffer.from(this.harness.disk), Buffer.from(this.#oracleDisk.bytes), "the disk");
    for (const [gref, page] of this.#oraclePages) {
      if (this.#undefined.has(gref)) continue;
      assert.deepEqual(Buffer.from(this.harness.guestPage(gref)), Buffer.from(page), `guest page ${gref}`);
    }
    // Everything idle can be dropped, so nothing is still held.
    this.#trim(1);
    this.#trim(600);
    assert.equal(this.harness.mapped.size, 0, "pages still mapped");
  }
}

function writerOf({ layout, ...options }: Scenario["options"], badSectors: readonly number[]): VectorWriter {
  const config = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const writer = new VectorWriter({
    ...config,
    abi: layout === "x86_32" ? abi.ABI_X86_32 : abi.ABI_X86_64,
  });
  const start = options.startIndex ?? 0;
  writer.index("req_prod", start);
  writer.index("req_event", start + 1);
  writer.index("rsp_prod", start);
  writer.index("rsp_event", start + 1);
  for (const sector of badSectors) writer.host(`bad-sector ${sector}`);
  return writer;
}
