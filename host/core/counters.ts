/** The core's counters (COUNT_* of assembly/abi.ts), by name. */

/** In the order of COUNT_*. */
const COUNTER_NAMES = [
  "read",
  "write",
  "barrier",
  "flush",
  "discard",
  "indirect",
  "segments",
  "sectorsRead",
  "sectorsWritten",
  "ios",
  "merged",
  "held",
  "responses",
  "pushes",
  "notifications",
  "copies",
  "maps",
  "persistentHits",
  "splits",
  "badOperation",
  "badSegments",
  "badRange",
  "readOnly",
  "badGrant",
  "ioErrors",
] as const;

/** Since the ring was attached. */
export type Counters = Record<(typeof COUNTER_NAMES)[number], number>;

/** Those that `value` gives by number. */
export function countersOf(value: (i: number) => number): Counters {
  return Object.fromEntries(COUNTER_NAMES.map((name, i) => [name, value(i)])) as Counters;
}

export function noCounters(): Counters {
  return countersOf(() => 0);
}

export function addCounters(to: Counters, from: Counters): void {
  for (const name of COUNTER_NAMES) to[name] += from[name];
}
