/**
 * `npm run mutants -- [--sample N] [--seed S] [--minutes M] [--only ring,hazards] [--fuzz SECONDS] [--again]`: plants changes in
 * the core, one at a time, in a copy of the tree, and runs the core's tests. It tells what survives them and is not proven to be
 * the same; with status 1 if there is any.
 *
 * The bugs of named.ts come first, then N of the changes that operators.ts makes, in an order by the seed. What has been tried
 * is in build/mutants and is not tried again, until a source or a test changes.
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import {
  type Change,
  Diary,
  type Fate,
  madeChanges,
  namedChanges,
  sample,
  timed,
  tryAll,
} from "./campaign.js";
import { Workshop } from "./workshop.js";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const TESTS = ["core", "vectors", "session"];
/** What of these folders does not test what the core does: they compile one, or read its module. */
const OTHERS = ["core/memory.test.js", "vectors/header.test.js", "vectors/layout.test.js"];

const { values } = parseArgs({
  options: {
    sample: { type: "string", default: "100" },
    seed: { type: "string", default: "1" },
    minutes: { type: "string", default: "60" },
    only: { type: "string", default: "" },
    fuzz: { type: "string", default: "10" },
    again: { type: "boolean", default: false },
  },
});

function number(name: "sample" | "seed" | "minutes" | "fuzz"): number {
  const value = Number(values[name]);
  if (Number.isFinite(value) && value >= 0) return value;
  process.stderr.write(`mutants: --${name} ${values[name]}: is not a number: give one from 0 on\n`);
  process.exit(2);
}

function chosen(): Change[] {
  const only = values.only.split(",").filter((name) => name !== "");
  const made = sample(madeChanges(ROOT, only), number("sample"), number("seed"));
  return [...(only.length === 0 ? namedChanges(ROOT) : []), ...made];
}

async function main(): Promise<number> {
  const changes = chosen();
  const [seconds, seed] = [number("fuzz"), number("seed")];
  const end = Date.now() + number("minutes") * 60_000;
  const workshop = await Workshop.open(ROOT, join(ROOT, "build/mutants", `tree-${process.pid}`));
  process.once("SIGINT", () => {
    workshop.close();
    process.exit(130);
  });
  try {
    const files = workshop.testsIn(TESTS).filter((file) => !OTHERS.includes(file));
    const diary = new Diary(ROOT, files);
    const tests = await timed(workshop, files);
    const total = tests.reduce((sum, { ms }) => sum + ms, 0) / 1000;
    process.stdout.write(`${tests.length} files of tests take ${total.toFixed(0)} s\n`);
    for (const [i, change] of changes.entries()) {
      if (Date.now() > end) break;
      if (!values.again && diary.get(change.id)) continue;
      const result = await tryAll(workshop, change, tests, { seconds, seed });
      diary.add(result);
      process.stdout.write(`${i + 1}/${changes.length} ${result.fate}: ${change.what}\n`);
    }
    return report(changes, diary);
  } finally {
    workshop.close();
  }
}

function report(changes: readonly Change[], diary: Diary): number {
  const fates: { [fate in Fate]: number } = { killed: 0, survived: 0, same: 0, invalid: 0 };
  const fateOf = ({ id }: Change): Fate | null => diary.get(id)?.fate ?? null;
  for (const change of changes) {
    const fate = fateOf(change);
    if (fate !== null) fates[fate]++;
  }
  const survivors = changes.filter((change) => fateOf(change) === "survived");
  const proven = survivors.filter(({ proof }) => proof !== null);
  const unproven = survivors.filter(({ proof }) => proof === null);
  for (const { kind, what } of unproven) process.stdout.write(`survives (${kind}): ${what}\n`);
  const wrong = changes.filter((change) => change.proof !== null && fateOf(change) === "killed");
  for (const { what } of wrong) process.stdout.write(`proven to be the same, and killed: ${what}\n`);
  const left = changes.filter((change) => fateOf(change) === null).length;
  process.stdout.write(
    `${changes.length} changes: ${fates.killed} killed, ${unproven.length} survive, ${proven.length} are proven to be the same, ` +
      `${fates.same} make the same module, ${fates.invalid} do not compile, ${left} not tried\n`,
  );
  return unproven.length + wrong.length > 0 ? 1 : 0;
}

process.exitCode = await main();
