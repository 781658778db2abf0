/**
 * `npm run torture:restart -- --kills N --seed S [--victim backend|guest|both]`: guests that check every response and every
 * byte, at depth 64 over four queues, while the backend is killed with SIGKILL at random moments, its start included, and
 * started again. With another victim, guests are killed at random moments, alone or with the backend, and nothing of them may
 * stay.
 *
 * `--disk vhost-user|nbd|qcow2|vhd|overlay|rbd`: the disk is a server's, or a helper's of the backend, which is killed as well, `--server-kills
 * N` times alone, and `--both-kills N` times with the backend. It loses what was not flushed.
 */
import { parseArgs } from "node:util";
import { quantile } from "../../bench/statistics.js";
import { random } from "../../host/guest/workload.js";
import { cannotServe, SERVED, type Served } from "./served.js";
import { type Death, playSlice, WAYS, type Way } from "./slice.js";
import { playVictims } from "./victims.js";

const USAGE = `npm run torture:restart -- --kills N --seed S --victim backend|guest|both: how often, of which random numbers, and whom
--disk raw|${SERVED.join("|")} --server-kills N --both-kills N: of which disk, and how often its server, alone and with the backend
`;

const { values } = parseArgs({
  options: {
    kills: { type: "string", default: "1000" },
    seed: { type: "string", default: "1" },
    victim: { type: "string", default: "backend" },
    disk: { type: "string", default: "raw" },
    "server-kills": { type: "string", default: "0" },
    "both-kills": { type: "string", default: "0" },
  },
});
const seed = Number(values.seed);
const { victim } = values;
const disk = values.disk as Served | "raw";
const counts: Record<Death, number> = {
  backend: Number(values.kills),
  server: Number(values["server-kills"]),
  both: Number(values["both-kills"]),
};
const kills = counts.backend + counts.server + counts.both;

/** What is wrong with the options; null where nothing is. */
function objection(): string | null {
  const known = victim === "backend" || victim === "guest" || victim === "both";
  const counted = Object.values(counts).every((count) => Number.isInteger(count) && count >= 0) && kills > 0;
  if (!counted || !Number.isInteger(seed) || !known) return USAGE;
  if (disk === "raw")
    return counts.server + counts.both > 0 ? "a raw disk has no server: name another --disk\n" : null;
  if (!SERVED.includes(disk) || victim !== "backend") return USAGE;
  const missing = cannotServe(disk);
  return missing === false ? null : `${missing}\n`;
}

const SLICE = 50;
const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;
/** Backend, guest and server end before this process does. */
const interruption = new AbortController();
let interruptedBy = 0;
for (const [name, number] of Object.entries(SIGNALS)) {
  process.on(name, () => {
    interruptedBy ||= number;
    interruption.abort(new Error(`interrupted by ${name}`));
  });
}
const pauses: number[] = [];
let operations = 0;

/** Rejects with what went wrong; resolves with what is to be said of it. */
async function play(way: Way, deaths: readonly Death[], sliceSeed: number): Promise<string> {
  if (victim !== "backend") {
    await playVictims(victim as "guest" | "both", way, deaths.length, sliceSeed, interruption.signal);
    return "nothing left behind";
  }
  const slice = await playSlice(way, deaths, sliceSeed, disk, interruption.signal);
  pauses.push(...slice.pauses);
  operations += slice.operations;
  const pause = slice.pauses.length === 0 ? "" : `, pause ${quantile(slice.pauses, 0.5).toFixed(0)} ms`;
  return `${slice.operations} operations${pause}`;
}

/** As many of each as are wanted, in a random order. */
function shuffled(dice: () => number): Death[] {
  const left = { ...counts };
  return Array.from({ length: kills }, () => {
    let drawn = dice() % (left.backend + left.server + left.both);
    for (const death of ["backend", "server", "both"] as const) {
      if (drawn < left[death]) {
        left[death]--;
        return death;
      }
      drawn -= left[death];
    }
    throw new Error("none is left");
  });
}

function summary(): string {
  if (victim !== "backend") {
    const whom = victim === "guest" ? "guests" : "guests with their backends";
    return `${kills} ${whom} killed: grants, event channels, pages, journals, descriptors and memory freed, the next guest served`;
  }
  const of =
    disk === "raw"
      ? ""
      : ` (backend ${counts.backend}, server ${counts.server}, both ${counts.both}) of ${disk}`;
  return `${kills} kills${of}, ${operations} operations: every response once, every sector the one last written, nothing left behind`;
}

const wrong = objection();
if (wrong !== null) {
  process.stderr.write(wrong);
  process.exit(2);
}
const dice = random(seed);
// Those of a backend alone cost no dice: a seed means what it always has.
const deaths: Death[] = kills === counts.backend ? Array(kills).fill("backend") : shuffled(random(seed));
for (let done = 0, i = 0; done < kills; i++) {
  const way = WAYS[i % WAYS.length];
  const slice = deaths.slice(done, done + SLICE);
  try {
    const result = await play(way, slice, dice());
    done += slice.length;
    console.log(`${way.name}: ${done} kills, ${result}`);
  } catch (error) {
    process.stderr.write(`torture: ${way.name}, --seed ${seed}, slice ${i}: ${(error as Error).message}\n`);
    process.exit(interruptedBy > 0 ? 128 + interruptedBy : 1);
  }
}
console.log(summary());
if (pauses.length > 0) {
  const [median, p99, most] = [0.5, 0.99, 1].map((q) => quantile(pauses, q).toFixed(0));
  console.log(
    `from the start of a process to the first response, ${pauses.length} times: median ${median} ms, p99 ${p99} ms, most ${most} ms`,
  );
}
process.exit(0);
