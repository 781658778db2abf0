/**
 * `npm run torture:restart -- --kills N --seed S [--victim backend|guest|both]`: guests that check every response and every
 * byte, at depth 64 over four queues, while the backend is killed with SIGKILL at random moments, its start included, and
 * started again. With another victim, guests are killed at random moments, alone or with the backend, and nothing of them may
 * stay.
 */
import { parseArgs } from "node:util";
import { quantile } from "../../bench/statistics.js";
import { random } from "../../host/guest/workload.js";
import { playSlice, WAYS, type Way } from "./slice.js";
import { playVictims } from "./victims.js";

const { values } = parseArgs({
  options: {
    kills: { type: "string", default: "1000" },
    seed: { type: "string", default: "1" },
    victim: { type: "string", default: "backend" },
  },
});
const kills = Number(values.kills);
const seed = Number(values.seed);
const { victim } = values;
const known = victim === "backend" || victim === "guest" || victim === "both";
if (!Number.isInteger(kills) || kills < 1 || !Number.isInteger(seed) || !known) {
  process.stderr.write(
    "npm run torture:restart -- --kills N --seed S --victim backend|guest|both: how often, of which random numbers, and whom\n",
  );
  process.exit(2);
}

const SLICE = 50;
const pauses: number[] = [];
let operations = 0;

/** Rejects with what went wrong; resolves with what is to be said of it. */
async function play(way: Way, count: number, sliceSeed: number): Promise<string> {
  if (victim !== "backend") {
    await playVictims(victim as "guest" | "both", way, count, sliceSeed);
    return "nothing left behind";
  }
  const slice = await playSlice(way, count, sliceSeed);
  pauses.push(...slice.pauses);
  operations += slice.operations;
  return `${slice.operations} operations, pause ${quantile(slice.pauses, 0.5).toFixed(0)} ms`;
}

const dice = random(seed);
for (let done = 0, i = 0; done < kills; i++) {
  const way = WAYS[i % WAYS.length];
  const count = Math.min(SLICE, kills - done);
  try {
    const result = await play(way, count, dice());
    done += count;
    console.log(`${way.name}: ${done} kills, ${result}`);
  } catch (error) {
    process.stderr.write(`torture: ${way.name}, --seed ${seed}, slice ${i}: ${(error as Error).message}\n`);
    process.exit(1);
  }
}
if (victim === "backend") {
  const [median, p99, most] = [0.5, 0.99, 1].map((q) => quantile(pauses, q).toFixed(0));
  console.log(
    `${kills} kills, ${operations} operations: every response once, every sector the one last written, nothing left behind`,
  );
  console.log(
    `from the start of a process to the first response, ${pauses.length} times: median ${median} ms, p99 ${p99} ms, most ${most} ms`,
  );
} else {
  const whom = victim === "guest" ? "guests" : "guests with their backends";
  console.log(
    `${kills} ${whom} killed: grants, event channels, pages, journals, descriptors and memory freed, the next guest served`,
  );
}
process.exit(0);
