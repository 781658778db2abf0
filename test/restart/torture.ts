/**
 * `npm run torture:restart -- --kills N --seed S`: guests that check every response and every byte, at depth 64 over four
 * queues, while the backend is killed with SIGKILL at random moments, its start included, and started again.
 */
import { parseArgs } from "node:util";
import { quantile } from "../../bench/statistics.js";
import { random } from "../../host/guest/workload.js";
import { playSlice, WAYS } from "./slice.js";

const { values } = parseArgs({
  options: { kills: { type: "string", default: "1000" }, seed: { type: "string", default: "1" } },
});
const kills = Number(values.kills);
const seed = Number(values.seed);
if (!Number.isInteger(kills) || kills < 1 || !Number.isInteger(seed)) {
  process.stderr.write(
    "npm run torture:restart -- --kills N --seed S: how often, and of which random numbers\n",
  );
  process.exit(2);
}

const SLICE = 50;
const pauses: number[] = [];
let operations = 0;
const dice = random(seed);
for (let done = 0, i = 0; done < kills; i++) {
  const way = WAYS[i % WAYS.length];
  const count = Math.min(SLICE, kills - done);
  const sliceSeed = dice();
  try {
    const slice = await playSlice(way, count, sliceSeed);
    done += count;
    pauses.push(...slice.pauses);
    operations += slice.operations;
    const middle = quantile(slice.pauses, 0.5).toFixed(0);
    console.log(`${way.name}: ${done} kills, ${slice.operations} operations, pause ${middle} ms`);
  } catch (error) {
    process.stderr.write(`torture: ${way.name}, --seed ${seed}, slice ${i}: ${(error as Error).message}\n`);
    process.exit(1);
  }
}
const [median, p99, most] = [0.5, 0.99, 1].map((q) => quantile(pauses, q).toFixed(0));
console.log(
  `${kills} kills, ${operations} operations: every response once, every sector the one last written, nothing left behind`,
);
console.log(
  `from the start of a process to the first response, ${pauses.length} times: median ${median} ms, p99 ${p99} ms, most ${most} ms`,
);
process.exit(0);
