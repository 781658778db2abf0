/**
 * `npm run stress`: a guest that verifies every byte at depth 128 over four queues, and connects and disconnects in
 * between, beside a guest that is killed in the midst of its I/O again and again. One daemon serves both; rounds go
 * through what is in ways.ts. A standstill is reported with the state of everything, within a minute.
 */
import { parseArgs } from "node:util";
import { missingFor } from "./disks.js";
import { Round } from "./round.js";
import { nameOf, WAYS } from "./ways.js";

/** A round is so long that all ways have their turn, within these bounds; to start and to end one takes some seconds. */
const LONGEST_MS = 30_000;
const SHORTEST_MS = 4000;
const BETWEEN_MS = 4000;

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "10" },
    seed: { type: "string", default: "1" },
    only: { type: "string" },
  },
});
const minutes = Number(values.minutes);
const seed = Number(values.seed);
const { only } = values;
const ways = WAYS.map((way) => ({ way, name: nameOf(way) })).filter(({ name }) => name.includes(only ?? ""));
if (!(minutes > 0) || !Number.isInteger(seed) || ways.length === 0) {
  process.stderr.write(
    "npm run stress -- --minutes N --seed S --only WORDS: how long, of which random numbers, and which rounds\n",
  );
  process.exit(2);
}

const end = Date.now() + minutes * 60_000;
const roundMs = Math.min(Math.max((minutes * 60_000) / ways.length - BETWEEN_MS, SHORTEST_MS), LONGEST_MS);
let operations = 0;
let played = 0;
for (let i = 0; Date.now() < end; i++) {
  const { way, name } = ways[i % ways.length];
  const missing = missingFor(way.disk);
  if (missing !== false) {
    console.log(`${name}: skipped: ${missing}`);
    if (i >= ways.length && played === 0) break;
    continue;
  }
  try {
    const round = await Round.play(way, seed + i, Math.min(end, Date.now() + roundMs));
    const { connections, kills, changes } = round;
    operations += round.operations;
    played++;
    const done = [`${round.operations} operations`, `${connections} connections`, `${kills} guests killed`];
    if (changes > 0) done.push(`${changes} changes`);
    console.log(`${name}: ${done.join(", ")}`);
  } catch (error) {
    process.stderr.write(`stress: ${name}, seed ${seed + i}: ${(error as Error).message}\n`);
    process.exit(1);
  }
}
console.log(`data verified: ${operations} operations, every sector read is the one last written`);
process.exit(0);
