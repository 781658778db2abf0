/** Generated sessions on a ring: mostly valid requests, rarely wrong ones, pushed, taken and completed in any order. */
import fc from "fast-check";
import * as abi from "../../assembly/abi.js";
import type { HarnessOptions } from "./harness.js";
import type { Layout, Segment } from "./wire.js";

export const DISK_SECTORS = 512;

/** A request before grefs are given out: every segment gets a page of its own, or the one of the segment before. */
export interface Plan {
  operation: number;
  inner: number;
  sector: bigint;
  sectors: bigint;
  flag: number;
  segments: PlannedSegment[];
  /** What nr_segments claims, when it lies. */
  claim: number | null;
  /** Which segment's grant does not exist, or cannot be written; -1 for none. */
  missingGrant: number;
  readOnlyGrant: number;
  missingIndirectPage: boolean;
}

export type PlannedSegment = Omit<Segment, "gref"> & { samePage?: boolean };

export type Move =
  | { kind: "put"; plan: Plan }
  /** An earlier read once more, into the same pages. */
  | { kind: "again"; pick: number }
  | { kind: "push" }
  | { kind: "step" }
  /** `late`: between the rounds of a pass. */
  | { kind: "complete"; pick: number; count: number; late: boolean }
  | { kind: "trim" }
  | { kind: "resize"; sectors: number }
  | { kind: "drain" }
  | { kind: "resume" };

/** Mostly `usual`, now and then `unusual`: inputs that are wrong everywhere never get past the first check. */
function rarely<T>(usual: fc.Arbitrary<T>, unusual: fc.Arbitrary<T>, oneIn = 12): fc.Arbitrary<T> {
  return fc.oneof({ weight: oneIn - 1, arbitrary: usual }, { weight: 1, arbitrary: unusual });
}

const goodSegment = (unit: number): fc.Arbitrary<PlannedSegment> =>
  unit === 8
    ? fc.constant({ first: 0, last: 7 })
    : fc.oneof(
        fc.constant({ first: 0, last: 7 }),
        fc.tuple(fc.nat(7), fc.nat(7)).map(([a, b]) => ({ first: Math.min(a, b), last: Math.max(a, b) })),
      );
const anySegment = fc.record({ first: fc.nat(255), last: fc.nat(255) });

function segment(unit: number): fc.Arbitrary<PlannedSegment> {
  const usual = rarely<PlannedSegment>(goodSegment(unit), anySegment, 40);
  return fc
    .tuple(usual, rarely(fc.constant(false), fc.constant(true), 10))
    .map(([it, samePage]) => ({ ...it, samePage }));
}

function sector(unit: number): fc.Arbitrary<bigint> {
  const good = fc.nat(DISK_SECTORS / unit).map((n) => BigInt(n * unit));
  const bad = fc.oneof(
    fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    fc.bigInt({ min: (1n << 64n) - 64n, max: (1n << 64n) - 1n }),
    fc.nat(DISK_SECTORS + 64).map(BigInt),
  );
  return rarely(good, bad);
}

function plan(unit: number): fc.Arbitrary<Plan> {
  const operation = rarely(fc.constantFrom(0, 0, 0, 1, 1, 1, 6, 6, 5, 3, 2), fc.nat(255));
  return operation.chain((op) =>
    fc.record({
      operation: fc.constant(op),
      inner: rarely(fc.constantFrom(0, 1), fc.nat(255)),
      sector: sector(unit),
      sectors: rarely(
        fc.nat(64 / unit).map((n) => BigInt(n * unit)),
        fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
      ),
      flag: fc.nat(3),
      segments: fc.array(segment(unit), {
        minLength: op === 2 || op === 3 ? 0 : 1,
        maxLength: op === 6 ? 24 : op === 2 || op === 3 ? 2 : 11,
      }),
      claim: rarely<number | null>(fc.constant(null), fc.nat(op === 6 ? 65535 : 255), 25),
      missingGrant: rarely(fc.constant(-1), fc.nat(10), 30),
      readOnlyGrant: rarely(fc.constant(-1), fc.nat(10), 30),
      missingIndirectPage: rarely(fc.constant(false), fc.constant(true), 40),
    }),
  );
}

export interface Scenario {
  options: HarnessOptions & {
    layout: Layout;
    sectorSize: number;
    features: number;
    maxIndirect: number;
    batch: number;
    passSegments: number;
    passBytes: number;
  };
  badSectors: number[];
  /** Grefs that are a multiple of this cannot be mapped; 0 for none. */
  unmappable: number;
  /** Every so many I/Os of several requests fail for no reason; 0 for none. */
  flaky: number;
  moves: Move[];
}

export const scenario: fc.Arbitrary<Scenario> = fc
  .record({
    layout: fc.constantFrom<Layout>("x86_64", "x86_32"),
    ringPages: fc.constantFrom(1, 1, 2, 4),
    sectorSize: fc.constantFrom(512, 512, 4096),
    maxIndirect: fc.constantFrom(0, 16, 256),
    maxIo: fc.constantFrom(4096, 65536, abi.MAX_IO),
    batch: fc.constantFrom(1, 3, 64),
    passSegments: fc.constantFrom(1, 7, abi.MAX_PASS_SEGMENTS, abi.MAX_PASS_SEGMENTS),
    passBytes: fc.constantFrom(1, 20000, abi.MAX_PASS_BYTES, abi.MAX_PASS_BYTES),
    maxPersistent: fc.constantFrom(0, 5, 64, 1056),
    startIndex: fc.constantFrom(0, 0xfffffff0, 0x7ffffffa),
    persistent: fc.boolean(),
    readOnly: rarely(fc.constant(false), fc.constant(true)),
    discard: rarely(fc.constant(true), fc.constant(false)),
  })
  .chain(({ persistent, readOnly, discard, ...options }) => {
    const features =
      abi.FEATURE_FLUSH |
      abi.FEATURE_BARRIER |
      (discard ? abi.FEATURE_DISCARD : 0) |
      (persistent ? abi.FEATURE_PERSISTENT : 0) |
      (readOnly ? abi.FEATURE_READ_ONLY : 0);
    const unit = options.sectorSize / 512;
    const move: fc.Arbitrary<Move> = fc.oneof(
      { weight: 6, arbitrary: plan(unit).map((p): Move => ({ kind: "put", plan: p })) },
      { weight: 2, arbitrary: fc.constant<Move>({ kind: "push" }) },
      { weight: 2, arbitrary: fc.constant<Move>({ kind: "step" }) },
      { weight: 1, arbitrary: fc.nat(1000).map((pick): Move => ({ kind: "again", pick })) },
      {
        weight: 3,
        arbitrary: fc
          .tuple(fc.nat(1000), fc.constantFrom(1, 1, 2, 5), fc.boolean())
          .map(([pick, count, late]): Move => ({ kind: "complete", pick, count, late })),
      },
      { weight: 1, arbitrary: fc.constant<Move>({ kind: "trim" }) },
      {
        weight: 1,
        arbitrary: fc.oneof(
          fc
            .integer({ min: DISK_SECTORS / 2 / unit, max: DISK_SECTORS / unit })
            .map((n): Move => ({ kind: "resize", sectors: n * unit })),
          fc.constant<Move>({ kind: "drain" }),
          fc.constant<Move>({ kind: "resume" }),
          fc.constant<Move>({ kind: "resume" }),
        ),
      },
    );
    return fc.record({
      options: fc.constant({ ...options, features, sectors: DISK_SECTORS }),
      badSectors: fc.array(fc.nat(DISK_SECTORS - 1), { maxLength: 2 }),
      unmappable: fc.constantFrom(0, 0, 2, 7),
      flaky: fc.constantFrom(0, 0, 1, 3),
      moves: fc.array(move, { maxLength: 120, size: "max" }),
    });
  });
