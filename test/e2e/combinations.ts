/** The ways in which a guest can connect and a backend can do its I/O, and a sample of them. */
import { random } from "../../host/guest/workload.js";

export interface Combination {
  readonly abi: "x86_64" | "x86_32" | "native";
  readonly grants: "plain" | "indirect" | "persistent";
  readonly ringPageOrder: 0 | 2;
  readonly queues: 1 | 4;
  readonly engine: "io_uring" | "libuv";
  readonly cache: "writeback" | "none";
}

const VALUES = {
  abi: ["x86_64", "x86_32", "native"],
  grants: ["plain", "indirect", "persistent"],
  ringPageOrder: [0, 2],
  queues: [1, 4],
  engine: ["io_uring", "libuv"],
  cache: ["writeback", "none"],
} as const;

const GRANTS = {
  plain: ["--no-indirect", "--no-persistent"],
  indirect: ["--no-persistent"],
  persistent: [],
};

/** Every combination of every value. */
export function allCombinations(): Combination[] {
  let all: object[] = [{}];
  for (const [name, values] of Object.entries(VALUES)) {
    all = all.flatMap((combination) => values.map((value) => ({ ...combination, [name]: value })));
  }
  return all as Combination[];
}

/** Every pair of values that meet in the combination. */
function pairs(combination: Combination): string[] {
  const values = Object.entries(combination).map(([name, value]) => `${name} ${value}`);
  return values.flatMap((a, i) => values.slice(i + 1).map((b) => `${a}, ${b}`));
}

/** So many combinations, each with as many new pairs of values as there are, chosen with the seed. */
export function sample(count: number, seed: number): Combination[] {
  const next = random(seed);
  const rest = allCombinations()
    .map((combination) => ({ combination, place: next() }))
    .sort((a, b) => a.place - b.place)
    .map(({ combination }) => combination);
  const seen = new Set<string>();
  const gain = (combination: Combination): number =>
    pairs(combination).filter((pair) => !seen.has(pair)).length;
  const chosen: Combination[] = [];
  while (chosen.length < count && rest.length > 0) {
    const best = rest.reduce((a, b) => (gain(b) > gain(a) ? b : a));
    rest.splice(rest.indexOf(best), 1);
    chosen.push(best);
    for (const pair of pairs(best)) seen.add(pair);
  }
  return chosen;
}

/** The command-line options that make the guest connect so. */
export function optionsOf(combination: Combination): string[] {
  const { abi, grants, ringPageOrder, queues, engine, cache } = combination;
  const ring = ["--ring-page-order", `${ringPageOrder}`, "--queues", `${queues}`];
  return ["--abi", abi, ...ring, ...GRANTS[grants], "--engine", engine, "--cache", cache];
}
