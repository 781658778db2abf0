/**
 * A core that is killed before any one of its stores to what outlives it, the journal and the ring, and another one that
 * goes on with what was there. A guest that counts its answers, and a disk that may have been written or not.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import * as abi from "../../assembly/abi.js";
import { Guest } from "./guest.js";
import { Harness, type HarnessOptions } from "./harness.js";
import { instrument, watched } from "./instrument.js";
import type { WireRequest, WireResponse } from "./wire.js";

const instrumented = instrument(readFileSync(new URL("../../blkif.wasm", import.meta.url)));
const FILLER = 0xa5;

/** The moment of death. One for all, because making them takes long. */
const KILLED = new Error("killed");

/** Which of some possibilities comes next: a small generator, so that a failure can be played again. */
export function chooser(seed: number): (count: number) => number {
  let state = (seed * 2654435761 + 1) >>> 0;
  return (count) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) % count;
  };
}

export interface Life {
  readonly harness: Harness;
  /** Everything that was answered, in the order of the ring. */
  readonly answers: WireResponse[];
  /** Stores that the core made to the journal and the ring. */
  stores: number;
  /** Times that it was killed. */
  deaths: number;
}

export interface CrashPlan {
  readonly options: HarnessOptions;
  /** What the guest sends, a burst at a time; the next when there was a step since. */
  readonly bursts: (guest: Guest) => WireRequest[][];
  /** The stores before which the core is killed: counted on from death to death. */
  readonly kills: readonly number[];
  readonly seed: number;
}

/** Plays a plan to its end, whatever is killed on the way, and checks that each request was answered once. */
export function live({ options, bursts, kills, seed }: CrashPlan): Life {
  const harness = new Harness(options);
  const guest = new Guest(harness);
  const pick = chooser(seed);
  const life: Life = { harness, answers: [], stores: 0, deaths: 0 };
  const left = [...kills];
  let until = Number.POSITIVE_INFINITY;
  const onStore = (at: number): void => {
    const outlives = (at >= abi.JOURNAL && at < abi.JOURNAL_END) || (at >= abi.SRING && at < abi.PERSISTENT);
    if (!outlives) return;
    if (until-- === 0) throw KILLED;
    life.stores++;
  };
  const start = (): Record<string, (n?: number) => number> => {
    const core = watched(instrumented, harness, 0, () => {}, onStore);
    harness.stepper = core["step"] as (n: number) => number;
    return core;
  };
  const untilItLives = (act: () => void): void => {
    for (;;) {
      try {
        act();
        return;
      } catch (error) {
        if (error !== KILLED) throw error;
        life.deaths++;
        until = left.shift() ?? Number.POSITIVE_INFINITY;
        act = () => revive(harness, pick, start);
      }
    }
  };
  const sent: WireRequest[] = [];
  const take = (): void => void life.answers.push(...harness.responses());
  assert.equal(start()["attach"](), abi.ATTACH_OK);
  // Before the guest's first request, nothing is in flight.
  life.stores = 0;
  until = left.shift() ?? Number.POSITIVE_INFINITY;
  for (const burst of bursts(guest)) {
    for (const request of burst) harness.put(request);
    sent.push(...burst);
    harness.push();
    untilItLives(() => void harness.step());
    // A few are still under way when more comes.
    while (harness.underway.length > 3 || harness.flags & abi.STEP_MORE) turn(harness, pick, untilItLives);
    take();
  }
  while (harness.underway.length > 0 || harness.flags & abi.STEP_MORE) turn(harness, pick, untilItLives);
  take();
  assert.deepEqual(
    life.answers.map(({ id }) => id).sort(),
    sent.map(({ id }) => id).sort(),
    "answers, each once",
  );
  for (const { id, operation } of life.answers) {
    const request = sent.find((one) => one.id === id) as WireRequest;
    assert.equal(
      operation,
      request.operation === 6 ? request.inner : request.operation,
      "operation of a response",
    );
  }
  assert.equal(harness.core.inflight, 0, "in flight at the end");
  harness.assertNoHazards();
  return life;
}

/** One I/O ends, any of those under way. */
function turn(harness: Harness, pick: (count: number) => number, run: (act: () => void) => void): void {
  const [io] = harness.underway.splice(pick(Math.max(1, harness.underway.length)), 1);
  const result = io ? harness.perform(io) : 0;
  run(() => void harness.step(io ? [{ slot: io.slot, result }] : []));
}

/**
 * The process is dead: of what was under way, some has been done and some has not. All memory but the journal and the
 * ring is lost, and a new core goes on.
 */
function revive(
  harness: Harness,
  pick: (count: number) => number,
  start: () => Record<string, (n?: number) => number>,
): void {
  for (const io of harness.underway.splice(0)) if (pick(2) === 0) harness.perform(io);
  for (const [page, gref] of harness.mapped) {
    harness.pages.set(gref, harness.guestPage(gref).slice());
    harness.mapped.delete(page);
  }
  const { u8, u32 } = harness.memory;
  const config = u8.slice(abi.CONFIG, abi.OUT);
  u8.fill(FILLER, 0, abi.JOURNAL).fill(FILLER, abi.JOURNAL_END, abi.DATA);
  u8.set(config, abi.CONFIG);
  // What this host would agree on does not count; what was agreed does.
  u32[abi.CONFIG_MAX_INDIRECT >> 2] = 0;
  u32[abi.CONFIG_FEATURES >> 2] = 0;
  harness.flags = 0;
  assert.equal(start()["recover"](), abi.ATTACH_OK);
  harness.step();
}
