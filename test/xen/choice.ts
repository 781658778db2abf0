/** Which scenarios a run of the laboratory has: some always, and of the others as many as its time allows, by a seed. */
import { createHash } from "node:crypto";
import type { Xenstored } from "./lab.js";

export interface Scenario {
  /** What is proved. */
  readonly name: string;
  /** The script that does it. */
  readonly script: string;
  readonly xenstored: Xenstored;
  /** What it takes on two quiet cores. */
  readonly seconds: number;
  /** It is in every run. */
  readonly always: boolean;
}

/** A number that depends on the seed and the scenario alone: a new scenario does not change the order of the others. */
function rank(seed: string, { script, xenstored }: Scenario): string {
  return createHash("sha256").update(`${seed} ${script} ${xenstored}`).digest("hex");
}

/**
 * Those that are always run, and of the others, in the order that the seed gives them, the first, and then each that fits in
 * the seconds left: one that takes longer than all of them has its turn, too.
 */
export function choose(all: readonly Scenario[], seed: string, seconds: number): Scenario[] {
  const others = all.filter(({ always }) => !always);
  const ordered = others.sort((a, b) => (rank(seed, a) < rank(seed, b) ? -1 : 1));
  const chosen = new Set(all.filter(({ always }) => always));
  let left = seconds;
  for (const scenario of ordered) {
    if (scenario !== ordered[0] && scenario.seconds > left) continue;
    chosen.add(scenario);
    left -= scenario.seconds;
  }
  return all.filter((scenario) => chosen.has(scenario));
}
