/** Generated sessions on a ring: mostly valid requests, rarely wrong ones, pushed, taken and completed in any order. */
import fc from "fast-check";
import * as abi from "../../assembly/abi.js";
import type { HarnessOptions } from "./harness.js";
import type { Layout, Segment } from "./wire.js";

export const DISK_SECTORS = 512;

/** A request before grefs are given out: every segment gets a page of its own. */
export interface Plan {
  operation: number;
  inner: number;
  sector: bigint;
  sectors: bigint;
  flag: number;
  segments: Omit<Segment, "gref">[];
  /** What nr_segments claims, when it lies. */
  claim: number | null;
  /** Which segment's grant does not exist, or cannot be written; -1 for none. */
  missingGrant: number;
  readOnlyGrant: number;
  missingIndirectPage: boolean;
}

export type Move =
  | { kind: "put"; plan: Plan }
  | { kind: "push" }
  | { kind: "step" }
  | { kind: "complete"; pick: number }
  | { kind: "trim" };

/** Mostly `usual`, now and then `unusual`: inputs that are wrong everywhere never get past the first check. */
function rarely<T>(usual: fc.Arbitrary<T>, unusual: fc.Arbitrary<T>, oneIn = 12): fc.Arbitrary<T> {
  return fc.oneof({ weight: oneIn - 1, arbitrary: usual }, { weight: 1, arbitrary: unusual });
}

const goodSegment = (unit: number): fc.Arbitrary<Omit<Segment, "gref">> =>
  unit === 8
    ? fc.constant({ first: 0, last: 7 })
    : fc.oneof(
        fc.constant({ first: 0, last: 7 }),
        fc.tuple(fc.nat(7), fc.nat(7)).map(([a, b]) => ({ first: Math.min(a, b), last: Math.max(a, b) })),
      );
const anySegment = fc.record({ first: fc.nat(255), last: fc.nat(255) });

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
      segments: fc.array(rarely(goodSegment(unit), anySegment, 40), {
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
  options: HarnessOptions & { layout: Layout; sectorSize: number; features: number; maxIndirect: number };
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
    const move: fc.Arbitrary<Move> = fc.oneof(
      { weight: 6, arbitrary: plan(options.sectorSize / 512).map((p): Move => ({ kind: "put", plan: p })) },
      { weight: 2, arbitrary: fc.constant<Move>({ kind: "push" }) },
      { weight: 2, arbitrary: fc.constant<Move>({ kind: "step" }) },
      { weight: 3, arbitrary: fc.nat(1000).map((pick): Move => ({ kind: "complete", pick })) },
      { weight: 1, arbitrary: fc.constant<Move>({ kind: "trim" }) },
    );
    return fc.record({
      options: fc.constant({ ...options, features, sectors: DISK_SECTORS }),
      moves: fc.array(move, { maxLength: 120, size: "max" }),
    });
  });
