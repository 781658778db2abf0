/** The part of the laboratory's scenarios that a run has, where it has not all of them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { choose, type Scenario } from "./choice.js";

function scenario(script: string, seconds: number, always = false): Scenario {
  return { name: script, script, xenstored: "xenstored", seconds, always };
}

const ALL = [
  scenario("first", 100, true),
  ...[20, 40, 60, 80, 150].map((seconds) => scenario(`takes-${seconds}`, seconds)),
  scenario("last", 100, true),
];
const SECONDS = 140;
const seeds = Array.from({ length: 50 }, (_, number) => `seed ${number}`);
const scriptsOf = (seed: string): string[] => choose(ALL, seed, SECONDS).map(({ script }) => script);

test("what is always run is in every run, and the order is that of the list", () => {
  for (const seed of seeds) {
    const scripts = scriptsOf(seed);
    assert.deepEqual(
      scripts,
      ALL.map(({ script }) => script).filter((script) => scripts.includes(script)),
    );
    assert.ok(scripts.includes("first") && scripts.includes("last"), seed);
  }
});

test("the others fill the seconds, and take more only where one alone does", () => {
  for (const seed of seeds) {
    const others = choose(ALL, seed, SECONDS).filter(({ always }) => !always);
    const took = others.reduce((sum, { seconds }) => sum + seconds, 0);
    assert.ok(took <= SECONDS || others.length === 1, seed);
    const left = ALL.filter((one) => !one.always && !others.includes(one));
    for (const { script, seconds } of left)
      assert.ok(took + seconds > SECONDS, `${seed}: ${script} would fit`);
  }
});

test("a seed chooses the same again, and over many seeds all are chosen", () => {
  const found = new Set<string>();
  for (const seed of seeds) {
    assert.deepEqual(scriptsOf(seed), scriptsOf(seed));
    for (const script of scriptsOf(seed)) found.add(script);
  }
  assert.equal(found.size, ALL.length);
});

test("a further scenario changes the order of no other", () => {
  const further = scenario("further", SECONDS + 1);
  const more = [...ALL, further];
  let without = 0;
  for (const seed of seeds) {
    const chosen = choose(more, seed, SECONDS);
    // It is chosen only as the first, and alone then.
    if (chosen.includes(further)) continue;
    without++;
    assert.deepEqual(chosen, choose(ALL, seed, SECONDS));
  }
  assert.ok(without > seeds.length / 2);
});
