/** `npm run fuzz -- [--seconds N] [--seed S] [--replay FILE [--raw]]`: fuzzes the core in this process, or plays a finding. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { parseArgs } from "node:util";
import { BlkifCore } from "../host/core/blkif.js";
import { coreModule } from "../host/core/load.js";
import { decodeSession, readSession, SessionPlayer, sessionMemory } from "../host/session/index.js";
import { ROOT } from "./build.js";
import { fuzz } from "./fuzz.js";
import { Model } from "./model.js";

/** Plays a session file (`raw`: any bytes), printing what the backend does. Throws what it finds. */
function replay(file: string, raw: boolean): void {
  const bytes = readFileSync(file);
  const { header, records } = raw ? decodeSession(bytes) : readSession(file, bytes);
  const memory = sessionMemory();
  const log: string[] = [];
  try {
    const player = new SessionPlayer(
      new BlkifCore(coreModule(), memory),
      header,
      new Model(memory, header),
      log,
    );
    for (const record of records) player.play(record);
    player.finish();
  } finally {
    process.stdout.write(`${log.join("\n")}\n`);
  }
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seconds: { type: "string", default: "60" },
      seed: { type: "string" },
      replay: { type: "string" },
      raw: { type: "boolean", default: false },
    },
  });
  if (values.replay !== undefined) {
    replay(values.replay, values.raw);
    process.stdout.write("nothing wrong\n");
    return 0;
  }
  const seconds = Number(values.seconds);
  const seed = Number(values.seed ?? Date.now() % 2 ** 31);
  if (!(seconds > 0) || !Number.isInteger(seed)) throw new Error("--seconds and --seed take numbers");
  process.stdout.write(`fuzzing for ${seconds} s with seed ${seed}\n`);
  const start = performance.now();
  const { executions, requests, finding } = await fuzz(seed, seconds);
  const rate = Math.round((executions / (performance.now() - start)) * 1000);
  process.stdout.write(
    `${executions} executions (${rate} a second), ${requests} requests, ${finding ? 1 : 0} findings\n`,
  );
  if (!finding) return 0;
  const file = join(ROOT, "build/fuzz", `finding-${seed}-${finding.number}.xbds`);
  mkdirSync(join(ROOT, "build/fuzz"), { recursive: true });
  writeFileSync(file, finding.session);
  const path = relative(process.cwd(), file);
  process.stdout.write(
    `execution ${finding.number}: ${finding.what}\nto play it again: npm run fuzz -- --replay ${path}\n`,
  );
  return 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exitCode = 1;
}
