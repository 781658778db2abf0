/**
 * Deficit round robin whatever guests ask for: two guests that always have work get the same, but for a quantum and the
 * largest request; and whoever comes in between is not made to wait.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { random } from "../../host/guest/workload.js";
import { ALONE, type Credit, QUANTUM, type TurnRing, Turns } from "../../host/reactor/turns.js";

const LARGEST = 256;
const PAGE = 4096;

interface Player extends TurnRing {
  ready: boolean;
}

/** Guests with one to three rings each; what each ring asks for is random, and never less than it may have. */
function play(seed: number): void {
  const next = random(seed);
  const below = (limit: number): number => next() % limit;
  const guests = 2 + below(3);
  const served = new Array<number>(guests).fill(0);
  // What counts: segments, bytes, or both.
  const counted = below(3);
  const most = Array.from({ length: guests }, () => [1, 11, LARGEST][below(3)]);
  const turns: Turns<Player> = new Turns<Player>(
    (ring, credit: Credit) => {
      ring.ready = false;
      // Requests are taken while some of both is left, as the core does it.
      while (credit.segments > 0 && credit.bytes > 0) {
        const segments = 1 + below(most[ring.domid]);
        if (counted !== 0) credit.segments -= segments;
        if (counted !== 1) credit.bytes -= segments * PAGE;
        served[ring.domid] += segments;
      }
      ring.ready = true;
      turns.enqueue(ring);
    },
    () => 0,
  );
  for (let domid = 0; domid < guests; domid++) {
    for (let rings = 1 + below(3); rings > 0; rings--) {
      turns.add(domid);
      turns.enqueue({ domid, ready: true });
    }
  }
  for (let turn = 0; turn < 200; turn++) {
    turns.take();
    const [least, greatest] = [Math.min(...served), Math.max(...served)];
    const bound = QUANTUM.segments + LARGEST;
    assert.ok(greatest - least <= bound, `seed ${seed}, turn ${turn}: ${served}`);
    assert.ok(greatest > 0);
  }
  assert.ok(Math.min(...served) > 0, "each was served");
}

test("guests that always have work get the same, whatever their requests are", () => {
  for (let seed = 1; seed <= 300; seed++) play(seed);
});

test("a guest with one small request now and then is served in the turn after it comes, beside greedy ones", () => {
  for (let seed = 1; seed <= 100; seed++) {
    const next = random(seed);
    const waited: number[] = [];
    let asked = -1;
    let turn = 0;
    const turns: Turns<Player> = new Turns<Player>(
      (ring, credit) => {
        if (ring.domid === 0) {
          waited.push(turn - asked);
          asked = -1;
          credit.segments -= 1;
          credit.bytes -= PAGE;
          return;
        }
        const segments = 1 + (next() % LARGEST);
        credit.segments -= segments;
        credit.bytes -= segments * PAGE;
        turns.enqueue(ring);
      },
      () => turn,
    );
    for (let domid = 0; domid < 3; domid++) turns.add(domid);
    for (let domid = 1; domid < 3; domid++) turns.enqueue({ domid, ready: true });
    const good: Player = { domid: 0, ready: true };
    for (; turn < 500; turn++) {
      if (asked < 0 && next() % 7 === 0) {
        asked = turn;
        turns.enqueue(good);
      }
      turns.take();
    }
    assert.ok(waited.length > 20);
    assert.ok(
      waited.every((turnsWaited) => turnsWaited === 0),
      `seed ${seed}: it waited for ${Math.max(...waited)} turns`,
    );
  }
});

test("a guest is alone when nobody else has had a turn for a second", () => {
  let time = 0;
  const had: number[] = [];
  const turns: Turns<Player> = new Turns<Player>(
    (ring, credit) => {
      if (ring.domid === 1) had.push(credit.segments);
    },
    () => time,
  );
  const [one, other]: Player[] = [1, 2].map((domid) => ({ domid, ready: true }));
  for (const { domid } of [one, other]) turns.add(domid);
  const turn = (rings: readonly Player[], pause: number): void => {
    for (const ring of rings) turns.enqueue(ring);
    turns.take();
    time += pause;
  };
  for (let i = 0; i < 5; i++) turn([one], 400);
  turn([one, other], 400);
  for (let i = 0; i < 5; i++) turn([one], 400);
  turn([other], 1);
  turn([one], 400);
  const [shared, alone] = [QUANTUM.segments, ALONE.segments];
  assert.deepEqual(had, [
    ...[shared, shared, shared, alone, alone],
    shared,
    ...[shared, shared, shared, alone, alone],
    shared,
  ]);
  turns.remove(2);
  turn([one], 1);
  assert.equal(had.at(-1), alone, "it is the only one there");
});
