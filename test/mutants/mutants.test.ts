/** `npm run mutants`: what it plants, that the tests are told, and that its lists fit the sources. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { madeChanges, namedChanges, sample, tryAll } from "./campaign.js";
import { EQUIVALENTS, NAMED_EQUIVALENTS } from "./equivalents.js";
import { blanked, mutantsOf } from "./operators.js";
import { Workshop } from "./workshop.js";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));

const SOURCE = `import { a } from "./a";
/** a < b */
export function f(a: u32): u32 {
  // a < b
  if (a < 2 && g<u32>(a)) return -1;
  first(a);
  second = "x < y";
  return a | <u32>b;
}
`;

test("comments, strings, imports and types stay as they are", () => {
  const code = blanked(SOURCE);
  assert.equal(code.length, SOURCE.length);
  assert.doesNotMatch(code, /import|\/\/|x < y/);
  const lines = new Set(mutantsOf("f.ts", SOURCE).map(({ line }) => line));
  assert.deepEqual([...lines], [5, 6, 7, 8]);
});

test("operators, constants, conditions, statements and their order are changed, one at a time", () => {
  const made = mutantsOf("f.ts", SOURCE).map(({ kind, to }) => `${kind}: ${to}`);
  for (const one of [
    "comparison: if (a <= 2 && g<u32>(a)) return -1;",
    "logic: if (a < 2 || g<u32>(a)) return -1;",
    "constant: if (a < 3 && g<u32>(a)) return -1;",
    "condition: if (true) return -1;",
    "loss: ",
    'order: second = "x < y"; first(a);',
    "arithmetic: return a & <u32>b;",
  ])
    assert.ok(made.includes(one), `${one} is not among\n${made.join("\n")}`);
  assert.equal(new Set(mutantsOf("f.ts", SOURCE).map(({ id }) => id)).size, made.length);
});

test("a sample is the same for a seed, and a larger one begins with a smaller one", () => {
  const all = Array.from({ length: 100 }, (_, i) => i);
  assert.deepEqual(sample(all, 10, 5), sample(all, 30, 5).slice(0, 10));
  assert.notDeepEqual(sample(all, 10, 5), sample(all, 10, 6));
  assert.equal(new Set(sample(all, 200, 1)).size, 100);
});

test("each bug that has a name can be planted, and each proof is of a change that there is", () => {
  const named = namedChanges(ROOT);
  assert.equal(named.length, 32);
  const changes = [...named, ...madeChanges(ROOT)];
  assert.ok(changes.length > 1000, `only ${changes.length} changes`);
  assert.equal(new Set(changes.map(({ id }) => id)).size, changes.length);
  const proofs = new Set(changes.map(({ proof }) => proof));
  const proven = [...EQUIVALENTS.map(({ why }) => why), ...Object.values(NAMED_EQUIVALENTS)];
  assert.deepEqual(
    proven.filter((why) => !proofs.has(why)),
    [],
    "what these prove is not in the sources any more",
  );
});

test("a change is killed by the test that it makes fail, and one that changes nothing is told", {
  timeout: 120_000,
}, async () => {
  const directory = mkdtempSync(join(ROOT, "build/mutants-test-"));
  const workshop = await Workshop.open(ROOT, directory);
  try {
    const tests = [{ file: "core/ring.test.js", ms: 1000 }];
    const off = namedChanges(ROOT).find(({ id }) => id === "notify off by one")!;
    const fuzz = { seconds: 0, seed: 1 };
    const killed = await tryAll(workshop, off, tests, fuzz);
    assert.equal(killed.fate, "killed");
    assert.match(killed.by ?? "", /^core\/ring\.test\.js: .*notif/);
    const text = readFileSync(join(ROOT, "assembly/ring.ts"), "utf8");
    const change = (with_: string) => ({ ...off, texts: { "assembly/ring.ts": with_ } });
    assert.equal((await tryAll(workshop, change(`${text}\n`), tests, fuzz)).fate, "same");
    assert.equal((await tryAll(workshop, change(`${text}}`), tests, fuzz)).fate, "invalid");
    assert.deepEqual(readFileSync(join(ROOT, "assembly/ring.ts"), "utf8"), text, "the tree is as it was");
  } finally {
    workshop.close();
  }
  assert.ok(!existsSync(directory), "the copy is left");
});
