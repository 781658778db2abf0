/** A round: one daemon, a guest that verifies every byte, and another that is killed in the midst of its I/O again and again. */
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Child, program } from "../../host/cli/child.js";
import { control } from "../../host/daemon/control.js";
import { controlSocket } from "../../host/daemon/serve.js";
import { joinGuest } from "../../host/guest/process.js";
import { Workload } from "../../host/guest/workload.js";
import { LoopbackHost } from "../../host/platform/loopback/host.js";
import { addVbd, removeVbd, type VbdSpec } from "../../host/toolstack/vbd.js";
import { vbdName } from "../../host/vbd/name.js";
import { StressDisk } from "./disks.js";
import { Meddler } from "./meddler.js";
import { Watch } from "./watch.js";
import type { Way } from "./ways.js";

const MIB = 1 << 20;
const DISK_BYTES = 64 * MIB;
const DEVID = 51712;
const OPERATIONS = 2000;
const [GUEST, NEIGHBOUR] = [1, 2];
const VBDS = [GUEST, NEIGHBOUR].map((domid) => vbdName({ domid, devid: DEVID }));

export class Round {
  readonly #way: Way;
  readonly #host: LoopbackHost;
  readonly #backend: Child;
  readonly #directory: string;
  readonly #socket: string;
  readonly #end: number;
  operations = 0;
  connections = 0;
  kills = 0;
  /** What an operator has changed meanwhile. */
  changes = 0;
  #neighbourProcess: ChildProcess | null = null;
  /** Responses that the guest has seen. */
  #responses = (): number => 0;

  private constructor(way: Way, host: LoopbackHost, backend: Child, directory: string, end: number) {
    this.#way = way;
    this.#host = host;
    this.#backend = backend;
    this.#directory = directory;
    this.#socket = controlSocket({ kind: "loopback", directory: host.directory, domid: 0 }, "vbd");
    this.#end = end;
  }

  /** Plays a round until `end`. Rejects with what was wrong, of a standstill with the state of everything. */
  static async play(way: Way, seed: number, end: number): Promise<Round> {
    const directory = mkdtempSync(join(tmpdir(), "xbdback-stress-"));
    const host = await LoopbackHost.start();
    const { engine, cache, pollUs, reactors = 2 } = way;
    const how = ["--engine", engine, "--cache", cache, "--poll-us", `${pollUs}`, "--reactors", `${reactors}`];
    const said: string[] = [];
    const backend = new Child(
      "backend",
      ["serve", "--directory", host.directory, ...how],
      () => {},
      (line) => said.push(line),
    );
    const round = new Round(way, host, backend, directory, end);
    try {
      await round.#play(seed);
      return round;
    } catch (error) {
      (error as Error).message += `\n---- the daemon has said ----\n${said.slice(-20).join("\n")}`;
      // Whatever it waits for, it need not be waited for.
      backend.process.kill("SIGKILL");
      throw error;
    } finally {
      round.#neighbourProcess?.kill("SIGKILL");
      await backend.stop();
      await host.close();
      rmSync(directory, { recursive: true, force: true });
    }
  }

  async #play(seed: number): Promise<void> {
    const { directory } = this.#host;
    const watch = new Watch(directory, this.#backend.process.pid as number, VBDS, () => this.#progress);
    try {
      await Promise.race([this.#serve(seed), watch.standstill(), this.#backend.failed]);
    } finally {
      watch.end();
    }
  }

  /** Anything that moves. */
  get #progress(): number {
    return this.#responses() + this.operations + this.connections;
  }

  async #serve(seed: number): Promise<void> {
    const disk = await StressDisk.make(this.#way.disk, join(this.#directory, "disk.img"), DISK_BYTES);
    try {
      const spec = await this.#plug(GUEST, disk.target);
      const others = Promise.all([this.#neighbour(), this.#meddle()]);
      const seen = await Promise.race([this.#verify(seed), others.then(forEver)]);
      if (!(await removeVbd(this.#host.xenstore, spec)))
        throw new Error("the backend did not close the disk");
      await others;
      await this.#checkClean();
      if (seen !== (await disk.digest())) throw new Error("the image is not what the guest reads");
    } finally {
      await disk.close();
    }
  }

  async #plug(domid: number, path: string): Promise<VbdSpec> {
    await this.#host.createGuest(domid, 256 * MIB);
    const spec = { backendDomid: 0, domid, devid: DEVID, path, mode: "w", dev: "xvda" };
    await addVbd(this.#host.xenstore, spec);
    return spec;
  }

  /** Returns the SHA-256 of what the guest reads at last. */
  async #verify(seed: number): Promise<string> {
    const { persistent } = this.#way;
    const options = { queues: 4, ringPageOrder: 2, persistent };
    const guest = await joinGuest(this.#host.directory, GUEST, DEVID, options);
    this.#responses = () => guest.disk.counters.responses;
    const workload = new Workload(guest.disk, { operations: OPERATIONS, depth: 128, seed });
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
    return seen.digest("hex");
  }

  async #meddle(): Promise<void> {
    const { limits, observers } = this.#way;
    const meddler = new Meddler(this.#socket, VBDS, () => Date.now() >= this.#end);
    if (limits) await meddler.limit();
    if (observers) await meddler.observe();
    this.changes = meddler.changes;
    if ((limits || observers) && this.changes === 0) throw new Error("no limit and no observer was accepted");
  }

  /** Another guest's process, which does I/O; it is killed, and its domain destroyed, every second or two. */
  async #neighbour(): Promise<void> {
    while (Date.now() < this.#end) {
      const disk = await StressDisk.make(undefined, join(this.#directory, "neighbour.img"), DISK_BYTES);
      const spec = await this.#plug(NEIGHBOUR, disk.target);
      const place = ["--directory", this.#host.directory, "--domid", String(NEIGHBOUR)];
      const load = ["--workload", "1000000000", "--depth", "128", "--queues", "4", "--ring-page-order", "2"];
      const child = spawn(process.execPath, [program, "guest", ...place, ...load], { stdio: "ignore" });
      this.#neighbourProcess = child;
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
      const status = await control<{ vbds: unknown[]; mappedPages: number }>(this.#socket, {
        command: "list",
      });
      if (status.vbds.length === 0 && status.mappedPages === 0) return;
      if (tries > 100) throw new Error(`the daemon still has ${JSON.stringify(status)}`);
      await sleep(100);
    }
  }
}

function forEver(): Promise<never> {
  return new Promise(() => {});
}
