/** Which changes there are, what has become of each, and what is kept of that from one run to the next. */
import { createHash } from "node:crypto";
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { random } from "../../host/guest/workload.js";
import { EQUIVALENTS, NAMED_EQUIVALENTS } from "./equivalents.js";
import { NAMED, plant } from "./named.js";
import { mutantsOf } from "./operators.js";
import type { End, Workshop } from "./workshop.js";

/** A change, of one kind, and the texts of files with it. */
export interface Change {
  readonly id: string;
  readonly kind: string;
  readonly what: string;
  readonly texts: Readonly<Record<string, string>>;
  /** Why nobody can notice it, where that is proven. */
  readonly proof: string | null;
}

/** "killed" by a test or the fuzzer; "same": the compiler makes the same module of it; "invalid": it does not compile. */
export type Fate = "killed" | "survived" | "same" | "invalid";

export interface Result {
  readonly id: string;
  readonly fate: Fate;
  /** What killed it. */
  readonly by: string | null;
}

/** The numbers of the memory's map: the tests and the host have them from there. */
const LEFT_OUT = ["abi.ts"];

function sourcesOf(root: string): [name: string, text: string][] {
  return readdirSync(join(root, "assembly"))
    .filter((name) => name.endsWith(".ts") && !LEFT_OUT.includes(name))
    .sort()
    .map((name) => [name, readFileSync(join(root, "assembly", name), "utf8")]);
}

/** The bugs that have a name. */
export function namedChanges(root: string): Change[] {
  const read = (path: string): string => readFileSync(join(root, path), "utf8");
  return NAMED.map((named) => ({
    id: named.name,
    kind: "named",
    what: named.name,
    texts: plant(named, read),
    proof: NAMED_EQUIVALENTS[named.name] ?? null,
  }));
}

/** All that the operators make of the core's files, or of those whose names begin so. */
export function madeChanges(root: string, only: readonly string[] = []): Change[] {
  return sourcesOf(root)
    .filter(([name]) => only.length === 0 || only.some((begin) => name.startsWith(begin)))
    .flatMap(([name, text]) => mutantsOf(name, text))
    .map(({ id, kind, file, line, from, to, text }) => ({
      id: `${id}:${line}`,
      kind,
      what: `assembly/${file}:${line}: ${from}  ->  ${to}`,
      texts: { [`assembly/${file}`]: text },
      proof: EQUIVALENTS.find((it) => it.file === file && it.from === from && it.to === to)?.why ?? null,
    }));
}

/** So many of them, by a seed; the same seed has them in the same order, so that a larger sample begins with a smaller one. */
export function sample<T>(all: readonly T[], count: number, seed: number): T[] {
  const left = [...all];
  const dice = random(seed);
  return Array.from({ length: Math.min(count, left.length) }, () => left.splice(dice() % left.length, 1)[0]);
}

/** What has become of changes, in a file that goes by what they change and what tests them. */
export class Diary {
  readonly path: string;
  readonly #results = new Map<string, Result>();

  constructor(root: string, tests: readonly string[]) {
    const hash = createHash("sha256");
    for (const [name, text] of sourcesOf(root)) hash.update(`${name}\n${text}`);
    hash.update(readFileSync(join(root, "node_modules/assemblyscript/package.json")));
    for (const directory of ["host/core", "host/session", "fuzz"])
      for (const name of readdirSync(join(root, "build", directory)).sort())
        if (name.endsWith(".js")) hash.update(readFileSync(join(root, "build", directory, name)));
    for (const test of tests) hash.update(readFileSync(join(root, "build/test", test)));
    this.path = join(root, "build/mutants", `${hash.digest("hex").slice(0, 12)}.jsonl`);
    if (!existsSync(this.path)) return;
    const lines = readFileSync(this.path, "utf8").split("\n").slice(0, -1);
    for (const result of lines.map((line) => JSON.parse(line) as Result))
      this.#results.set(result.id, result);
  }

  get(id: string): Result | undefined {
    return this.#results.get(id);
  }

  add(result: Result): void {
    mkdirSync(dirname(this.path), { recursive: true });
    appendFileSync(this.path, `${JSON.stringify(result)}\n`);
    this.#results.set(result.id, result);
  }
}

/** A file of tests, and how long it takes with the core as it is. */
export interface Timed {
  readonly file: string;
  readonly ms: number;
}

/** The tests, the quickest first. Throws an Error where one fails with the core as it is. */
export async function timed(workshop: Workshop, files: readonly string[]): Promise<Timed[]> {
  const tests: Timed[] = [];
  for (const file of files) {
    const begun = performance.now();
    const end = await workshop.test(file, 600_000);
    if (end !== null) throw new Error(`${file} fails with the core as it is: ${end}`);
    tests.push({ file, ms: performance.now() - begun });
  }
  return tests.sort((a, b) => a.ms - b.ms);
}

/** A test that takes so much longer than it did does not end. */
const patience = (ms: number): number => 10_000 + 5 * ms;

/** Runs the tests until one fails, then the fuzzer for some seconds. */
export async function tryAll(
  workshop: Workshop,
  { id, texts }: Change,
  tests: readonly Timed[],
  fuzz: { seconds: number; seed: number },
): Promise<Result> {
  const made = await workshop.compile(texts);
  if (made !== "changed") return { id, fate: made, by: null };
  for (const { file, ms } of tests) {
    const end: End = await workshop.test(file, patience(ms));
    if (end !== null) return { id, fate: "killed", by: `${file}: ${end}` };
  }
  if (fuzz.seconds === 0) return { id, fate: "survived", by: null };
  const end = await workshop.fuzz(fuzz.seconds, fuzz.seed, patience(fuzz.seconds * 1000));
  return { id, fate: end === null ? "survived" : "killed", by: end && `the fuzzer: ${end}` };
}
