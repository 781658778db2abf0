/** kill -9 at every store of the core between a request and its answer: docs/restart.md, proved. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { type CrashPlan, chooser, live } from "./crash.js";
import { BARRIER, FLUSH, type Guest, OKAY, READ, RESERVED, WRITE } from "./guest.js";
import { ALL_FEATURES } from "./harness.js";
import type { WireRequest } from "./wire.js";

/** Every operation, writes that overlap each other and a discard, a read of what was written, and a refusal. */
const everything = (guest: Guest): WireRequest[][] => [
  [
    guest.transfer(WRITE, 0, 3),
    guest.transfer(WRITE, 8, 1),
    guest.transfer(READ, 8, 1),
    guest.transfer(WRITE, 64),
  ],
  [
    guest.indirect(WRITE, 512, 20),
    guest.empty(FLUSH),
    guest.transfer(WRITE, 512, 2),
    guest.transfer(READ, 64),
  ],
  [{ operation: RESERVED, id: guest.id(), sector: 0n }, guest.transfer(BARRIER, 0), guest.discard(520, 8)],
  [guest.transfer(WRITE, 520), guest.indirect(READ, 512, 11), guest.empty(BARRIER), guest.transfer(WRITE, 0)],
];

const WAYS = [
  { name: "copied", options: { features: ALL_FEATURES, startIndex: 0xfffffff8 } },
  {
    name: "persistent",
    options: { features: ALL_FEATURES | abi.FEATURE_PERSISTENT, layout: "x86_32", startIndex: 0x7ffffffa },
  },
] satisfies { name: string; options: CrashPlan["options"] }[];

/** What the disk holds when nobody is killed, which is what it must hold whoever is. */
function undisturbed(plan: Omit<CrashPlan, "kills">): { disk: Uint8Array; stores: number } {
  const { harness, stores } = live({ ...plan, kills: [] });
  const disk = harness.disk.slice();
  harness.release();
  return { disk, stores };
}

function assertSurvives(plan: CrashPlan, disk: Uint8Array): number {
  const { harness, answers, deaths } = live(plan);
  for (const { operation, status } of answers) assert.equal(status, operation === RESERVED ? -2 : OKAY);
  assert.ok(Buffer.compare(harness.disk, disk) === 0, "the disk is not as it would be");
  harness.release();
  return deaths;
}

for (const { name, options } of WAYS) {
  test(`${name}: killed before each store to the journal or the ring, nothing is lost and nothing answered twice`, () => {
    for (let seed = 1; seed <= 3; seed++) {
      const plan = { options: { ...options, sectors: 1024 }, bursts: everything, seed };
      const { disk, stores } = undisturbed(plan);
      assert.ok(stores > 15 * 18, `only ${stores} stores`);
      for (let at = 0; at < stores; at++) assert.equal(assertSurvives({ ...plan, kills: [at] }, disk), 1);
    }
  });

  test(`${name}: killed again and again, also while it recovers`, () => {
    const pick = chooser(7);
    const plan = { options: { ...options, sectors: 1024 }, bursts: everything, seed: 1 };
    const { disk, stores } = undisturbed(plan);
    for (let run = 0; run < 300; run++) {
      const kills = [pick(stores), ...Array.from({ length: 6 }, () => pick(run % 2 === 0 ? 60 : 530))];
      assert.ok(assertSurvives({ ...plan, seed: run, kills }, disk) > 0);
    }
  });
}
