/**
 * `npm run stress`: a guest that verifies every byte at depth 128 over four queues, and connects and disconnects in
 * between, beside a guest that is killed in the midst of its I/O again and again. One daemon serves both; rounds go
 * through the engines, cache modes, persistent grants or copies, with and without polling.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createReadStream, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Child } from "../../host/cli/child.js";
import { control } from "../../host/daemon/control.js";
import { controlSocket } from "../../host/daemon/serve.js";
import { joinGuest } from "../../host/guest/process.js";
import { Workload } from "../../host/guest/workload.js";
import { LoopbackHost } from "../../host/platform/loopback/host.js";
import { addVbd, removeVbd, type VbdSpec } from "../../host/toolstack/vbd.js";

const MIB = 1 << 20;
const DISK_BYTES = 64 * MIB;
const DEVID = 51712;
const OPERATIONS = 2000;
const ROUND_MS = 30_000;
const [GUEST, NEIGHBOUR] = [1, 2];
const command = fileURLToPath(new URL("../../../bin/xbdback.mjs", import.meta.url));

interface Way {
  readonly engine: string;
  readonly cache: string;
  readonly persistent: boolean;
  readonly pollUs: number;
}

const WAYS: Way[] = [
  { engine: "io_uring", cache: "none", persistent: true, pollUs: 0 },
  { engine: "io_uring", cache: "writeback", persistent: false, pollUs: 0 },
  { engine: "io_uring", cache: "none", persistent: true, pollUs: 30 },
  { engine: "libuv", cache: "writeback", persistent: true, pollUs: 0 },
  { engine: "io_uring", cache: "writeback", persistent: true, pollUs: 0 },
  { engine: "libuv", cache: "none", persistent: false, pollUs: 0 },
  { engine: "io_uring", cache: "none", persistent: false, pollUs: 0 },
  { engine: "io_uring", cache: "writeback", persistent: false, pollUs: 200 },
];

const { values } = parseArgs({
  options: { minutes: { type: "string", default: "10" }, seed: { type: "string", default: "1" } },
});
const minutes = Number(values.minutes);
const seed = Number(values.seed);
if (!(minutes > 0) || !Number.isInteger(seed)) {
  process.stderr.write("npm run stress -- --minutes N --seed S: how long, and of which random numbers\n");
  process.exit(2);
}

class Round {
  readonly #way: Way;
  readonly #host: LoopbackHost;
  readonly #backend: Child;
  readonly #directory: string;
  readonly #end: number;
  operations = 0;
  connections = 0;
  kills = 0;

  constructor(way: Way, host: LoopbackHost, backend: Child, directory: string, end: number) {
    this.#way = way;
    this.#host = host;
    this.#backend = backend;
    this.#directory = directory;
    this.#end = end;
  }

  async play(roundSeed: number): Promise<void> {
    const spec = await this.#plug(GUEST);
    const neighbour = this.#neighbour();
    await Promise.race([this.#verify(spec.path, roundSeed), neighbour.then(forEver), this.#backend.failed]);
    if (!(await removeVbd(this.#host.xenstore, spec))) throw new Error("the backend did not close the disk");
    await neighbour;
    await this.#checkClean();
  }

  async #plug(domid: number): Promise<VbdSpec> {
    const path = join(this.#directory, `disk${domid}.img`);
    writeFileSync(path, "");
    truncateSync(path, DISK_BYTES);
    await this.#host.createGuest(domid, 256 * MIB);
    const spec = { backendDomid: 0, domid, devid: DEVID, path, mode: "w", dev: "xvda" };
    await addVbd(this.#host.xenstore, spec);
    return spec;
  }

  async #verify(path: string, roundSeed: number): Promise<void> {
    const { persistent } = this.#way;
    const options = { queues: 4, ringPageOrder: 2, persistent };
    const guest = await joinGuest(this.#host.directory, GUEST, DEVID, options);
    const workload = new Workload(guest.disk, { operations: OPERATIONS, depth: 128, seed: roundSeed });
    while (Date.now() < this.#end) {
      await workload.run();
      this.operations += OPERATIONS;
      this.connections++;
      const { grantsInUse } = await guest.disk.reconnect();
      if (grantsInUse !== 0) throw new Error(`the backend kept ${grantsInUse} grants of the guest`);
    }
    await guest.disk.flush();
    const seen = createHash("sha256");
    await workload.verifyAll((data) => seen.update(data));
    const { grantsInUse } = await guest.stop();
    if (grantsInUse !== 0) throw new Error(`the backend kept ${grantsInUse} grants of the guest`);
    if (seen.digest("hex") !== (await hashFile(path)))
      throw new Error("the image is not what the guest reads");
  }

  /** Another guest's process at work; it is killed, and its domain destroyed, every second or two. */
  async #neighbour(): Promise<void> {
    while (Date.now() < this.#end) {
      const spec = await this.#plug(NEIGHBOUR);
      const place = ["--directory", this.#host.directory, "--domid", String(NEIGHBOUR)];
      const load = ["--workload", "1000000000", "--depth", "128", "--queues", "4", "--ring-page-order", "2"];
      const child = spawn(process.execPath, [command, "guest", ...place, ...load], { stdio: "ignore" });
      const exited = once(child, "exit");
      await sleep(1000 + (this.kills % 5) * 300);
      if (child.exitCode !== null) throw new Error(`the neighbour ended with status ${child.exitCode}`);
      child.kill("SIGKILL");
      await exited;
      this.kills++;
      await this.#host.destroyGuest(NEIGHBOUR);
      await removeVbd(this.#host.xenstore, spec);
    }
  }

  /** Nothing of a guest's is held any more. */
  async #checkClean(): Promise<void> {
    for (let tries = 0; ; tries++) {
      const status = await control<{ vbds: unknown[]; mappedPages: number }>(
        controlSocket({ kind: "loopback", directory: this.#host.directory, domid: 0 }, "vbd"),
        { command: "list" },
      );
      if (status.vbds.length === 0 && status.mappedPages === 0) return;
      if (tries > 100) throw new Error(`the daemon still has ${JSON.stringify(status)}`);
      await sleep(100);
    }
  }
}

function forEver(): Promise<never> {
  return new Promise(() => {});
}

async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

async function playRound(way: Way, roundSeed: number, end: number): Promise<Round> {
  const directory = mkdtempSync(join(tmpdir(), "xbdback-stress-"));
  const host = await LoopbackHost.start();
  const { engine, cache, pollUs } = way;
  const how = ["--engine", engine, "--cache", cache, "--poll-us", String(pollUs), "--reactors", "2"];
  const said: string[] = [];
  const backend = new Child(
    "backend",
    ["serve", "--directory", host.directory, ...how],
    () => {},
    (line) => said.push(line),
  );
  try {
    const round = new Round(way, host, backend, directory, end);
    await round.play(roundSeed);
    return round;
  } catch (error) {
    process.stderr.write(`${said.slice(-20).join("\n")}\n`);
    throw error;
  } finally {
    await backend.stop();
    await host.close();
    rmSync(directory, { recursive: true, force: true });
  }
}

const end = Date.now() + minutes * 60_000;
let operations = 0;
for (let i = 0; Date.now() < end; i++) {
  const way = WAYS[i % WAYS.length];
  const grants = way.persistent ? "persistent grants" : "grant copy";
  const polling = way.pollUs > 0 ? `, ${way.pollUs} µs of polling` : "";
  const name = `${way.engine}, cache ${way.cache}, ${grants}${polling}`;
  try {
    const round = await playRound(way, seed + i, Math.min(end, Date.now() + ROUND_MS));
    operations += round.operations;
    const { connections, kills } = round;
    console.log(
      `${name}: ${round.operations} operations, ${connections} connections, ${kills} guests killed`,
    );
  } catch (error) {
    process.stderr.write(`stress: ${name}, seed ${seed + i}: ${(error as Error).message}\n`);
    process.exit(1);
  }
}
console.log(`data verified: ${operations} operations, every sector read is the one last written`);
process.exit(0);
