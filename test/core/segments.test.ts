/**
 * The pass over a request's segments, which goes four at a time: one odd segment at every place among one to eleven, and
 * among more where they are INDIRECT, against a check of one after the other.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { ERROR, Guest, OKAY, READ } from "./guest.js";
import { ALL_FEATURES, Harness } from "./harness.js";
import type { Segment } from "./wire.js";

type Range = Pick<Segment, "first" | "last">;

const COUNTS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17];
/** Odd in one way each; of two at once the sum can be right again. */
const ODD: readonly Range[] = [
  { first: 0, last: 0 },
  { first: 0, last: 3 },
  { first: 4, last: 7 },
  { first: 1, last: 7 },
  { first: 0, last: 6 },
  { first: 3, last: 2 },
  { first: 0, last: 8 },
  { first: 8, last: 8 },
  { first: 7, last: 7 },
  { first: 0, last: 255 },
  { first: 255, last: 255 },
  { first: 255, last: 0 },
  { first: 128, last: 135 },
  { first: 16, last: 23 },
];

function isGood({ first, last }: Range, unit: number): boolean {
  return last <= 7 && first <= last && first % unit === 0 && (last + 1) % unit === 0;
}

for (const sectorSize of [512, 1024, 2048, 4096]) {
  test(`a segment is judged alike wherever it stands, sector-size ${sectorSize}`, () => {
    const unit = sectorSize / 512;
    const h = new Harness({ disk: false, sectorSize, features: ALL_FEATURES, sectors: 1 << 20 });
    const guest = new Guest(h);
    const judge = (ranges: readonly Range[]): void => {
      const segments = ranges.map((range, i) => ({ ...range, gref: 100 + i }));
      const request =
        segments.length <= abi.MAX_DIRECT_SEGMENTS
          ? guest.transfer(READ, 8, segments)
          : guest.indirect(READ, 8, segments);
      const total = ranges.reduce((sum, { first, last }) => sum + last - first + 1, 0);
      const good = ranges.every((range) => isGood(range, unit));
      h.put(request);
      h.push();
      h.step();
      assert.equal(h.underway.length, good ? 1 : 0, JSON.stringify(ranges));
      if (good) assert.equal(h.underway[0].length, total * 512, JSON.stringify(ranges));
      h.step(h.underway.splice(0).map(({ slot }) => ({ slot, result: 0 })));
      assert.deepEqual(h.statuses([request]), [good ? OKAY : ERROR]);
    };
    for (let i = 0; i < 32; i++) h.page(100 + i);
    for (const count of COUNTS) {
      const whole = Array.from({ length: count }, (): Range => ({ first: 0, last: 7 }));
      judge(whole);
      for (const odd of ODD) {
        for (let place = 0; place < count; place++) {
          judge(whole.with(place, odd));
          // Twice: what is missing of a whole sector in one is made up for by the other.
          judge(whole.with(place, odd).with((place + 3) % count, odd));
        }
      }
    }
    h.release();
  });
}
