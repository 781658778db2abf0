/** A loopback machine with one daemon and one process for all guests. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Child } from "../../host/cli/child.js";
import { control } from "../../host/daemon/control.js";
import { controlSocket } from "../../host/daemon/serve.js";
import type { BlkfrontOptions } from "../../host/guest/blkfront.js";
import { LoopbackHost } from "../../host/platform/loopback/host.js";
import { addVbd, backendOf, removeVbd, type VbdSpec } from "../../host/toolstack/vbd.js";
import { vbdName } from "../../host/vbd/name.js";
import type { VbdStatus } from "../../host/vbd/status.js";
import { atExit } from "./cleanup.js";
import type { GuestAnswer, GuestCommand } from "./guest.js";
import type { LoadJob, LoadResult } from "./load.js";
import { cpuSeconds, pin } from "./processes.js";
import type { Cache, Row } from "./rows.js";
import { CLIENT_CPUS, type Contestant, per100k, type Sample, SERVER_CPUS } from "./sample.js";

/** xvda; a disk has sixteen minor numbers. */
const FIRST_DEVID = 51712;
const MINORS = 16;
const START_MS = 20_000;

/** The process that plays the guests. */
class Guests {
  readonly process: ChildProcess;
  readonly #waiting: ((answer: GuestAnswer) => void)[] = [];

  constructor(directory: string) {
    const program = fileURLToPath(new URL("./guest.js", import.meta.url));
    this.process = spawn(process.execPath, [...profiling(), program, directory], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    createInterface({ input: this.process.stdout! }).on("line", (line) =>
      this.#waiting.shift()?.(JSON.parse(line) as GuestAnswer),
    );
    this.process.on("close", () => {
      for (const settle of this.#waiting.splice(0)) settle({ ok: false, error: "the guests' process ended" });
    });
    this.process.stdin!.on("error", () => {});
  }

  async ask<T>(command: GuestCommand): Promise<T> {
    if (this.process.exitCode !== null) throw new Error("the guests' process has ended");
    const answered = new Promise<GuestAnswer>((resolve) => this.#waiting.push(resolve));
    this.process.stdin!.write(`${JSON.stringify(command)}\n`);
    const answer = await answered;
    if (!answer.ok) throw new Error(`guest: ${answer.error}`);
    return answer.result as T;
  }

  async stop(): Promise<void> {
    if (this.process.exitCode !== null) return;
    const closed = once(this.process, "close");
    this.process.stdin!.end();
    await closed;
  }
}

/** `XBDBACK_CPU_PROF=DIRECTORY npm run bench` leaves a CPU profile of the guests there. */
function profiling(): string[] {
  const directory = process.env["XBDBACK_CPU_PROF"];
  return directory ? ["--cpu-prof", "--cpu-prof-dir", directory] : [];
}

export class Machine {
  readonly #host: LoopbackHost;
  readonly #backend: Child;
  readonly #guests: Guests;
  readonly #vbds: VbdSpec[] = [];
  /** There is nothing to clear up any more. */
  readonly #closed: () => void;

  private constructor(host: LoopbackHost, backend: Child, guests: Guests, closed: () => void) {
    this.#host = host;
    this.#closed = closed;
    this.#backend = backend;
    this.#guests = guests;
  }

  static async start(cache: Cache, serveOptions: readonly string[]): Promise<Machine> {
    const host = await LoopbackHost.start();
    const closed = atExit(() => rmSync(host.directory, { recursive: true, force: true }));
    const args = ["serve", "--directory", host.directory, "--cache", cache, ...serveOptions];
    const backend = new Child("backend", args, () => {});
    const machine = new Machine(host, backend, new Guests(host.directory), closed);
    try {
      await machine.#answers();
      return machine;
    } catch (error) {
      await machine.stop();
      throw error;
    }
  }

  get directory(): string {
    return this.#host.directory;
  }

  /** Of the first vbd. */
  get vbdName(): string {
    return vbdName(this.#vbds[0]);
  }

  get backendPid(): number {
    return this.#backend.process.pid!;
  }

  get guestsPid(): number {
    return this.#guests.process.pid!;
  }

  async createGuest(domid: number, memoryBytes: number): Promise<void> {
    await this.#host.createGuest(domid, memoryBytes);
  }

  /** From the toolstack's first word to the guest's disk: resolves with the milliseconds that it took. */
  async attach(domid: number, image: string, options: Partial<BlkfrontOptions>): Promise<number> {
    const index = this.#vbds.filter((vbd) => vbd.domid === domid).length;
    const devid = FIRST_DEVID + index * MINORS;
    const spec: VbdSpec = { backendDomid: 0, domid, devid, path: image, mode: "w!", dev: `xvd${index}` };
    const start = performance.now();
    await this.#alive(addVbd(this.#host.xenstore, spec));
    this.#vbds.push(spec);
    await this.#alive(this.#guests.ask({ command: "connect", domid, devid, options }));
    return performance.now() - start;
  }

  /** Of a disk that is added and removed: milliseconds from the hotplug script's question to the daemon's answer. */
  async answer(domid: number, image: string): Promise<number> {
    const { xenstore } = this.#host;
    const place = { backendDomid: 0, domid, devid: FIRST_DEVID };
    const status = `${backendOf(place)}/hotplug-status`;
    const times = new Map<string | null, number>();
    const look = async (): Promise<void> => {
      const value = await xenstore.read(status);
      if (!times.has(value)) times.set(value, performance.now());
    };
    const watch = await xenstore.watch(status, () => void look());
    await this.#alive(addVbd(xenstore, { ...place, path: image, mode: "w", dev: "xvda", ask: true }));
    await watch.remove();
    await this.#alive(removeVbd(xenstore, place));
    return (times.get("connected") ?? Number.NaN) - (times.get("checking") ?? Number.NaN);
  }

  /** A disk of a guest that another process plays. */
  async plug(domid: number, image: string): Promise<void> {
    const spec: VbdSpec = {
      backendDomid: 0,
      domid,
      devid: FIRST_DEVID,
      path: image,
      mode: "w!",
      dev: "xvda",
    };
    await this.#alive(addVbd(this.#host.xenstore, spec));
    this.#vbds.push(spec);
  }

  /** On all disks at once. `looks`: whether guests may look for responses before they sleep; not on one CPU. */
  load(job: LoadJob, looks = true): Promise<LoadResult> {
    return this.#alive(this.#guests.ask<LoadResult>({ command: "load", job, looks }));
  }

  async status(): Promise<VbdStatus[]> {
    const socket = controlSocket({ kind: "loopback", directory: this.#host.directory, domid: 0 }, "vbd");
    return (await control<{ vbds: VbdStatus[] }>(socket, { command: "list" })).vbds;
  }

  /** Of the guest's first disk. */
  async statusOf(domid: number): Promise<VbdStatus> {
    const status = (await this.status()).find((vbd) => vbd.domid === domid);
    if (!status) throw new Error(`the daemon has no disk of domain ${domid}`);
    return status;
  }

  /** Of the process that the daemon has started for a guest's disk; null where there is none. */
  async helperPid(domid: number): Promise<number | null> {
    const { through } = await this.statusOf(domid);
    const pid = /, process ([0-9]+)/.exec(through ?? "")?.[1];
    return pid === undefined ? null : Number(pid);
  }

  async stop(): Promise<void> {
    try {
      if (!this.#backend.ended) {
        await this.#guests.ask({ command: "close" }).catch(() => {});
        await Promise.all(this.#vbds.map((vbd) => removeVbd(this.#host.xenstore, vbd)));
      }
    } finally {
      await this.#guests.stop();
      await this.#backend.stop();
      await this.#host.close();
      this.#closed();
    }
  }

  /** Resolves when the daemon is there. */
  async #answers(): Promise<void> {
    const end = Date.now() + START_MS;
    for (;;) {
      try {
        await this.#alive(this.status());
        return;
      } catch (error) {
        if (this.#backend.ended || Date.now() > end) throw error;
        await sleep(20);
      }
    }
  }

  #alive<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#backend.failed]);
  }
}

/** What the daemon has counted over all of its vbds. */
async function countersOf(machine: Machine): Promise<{ requests: number; notifications: number }> {
  let requests = 0;
  let notifications = 0;
  for (const { counters } of await machine.status()) {
    requests += Number(counters.responses);
    notifications += Number(counters.notifications);
  }
  return { requests, notifications };
}

export class Xbdback implements Contestant {
  readonly name = "xbdback";
  readonly warmUpSeconds = 0.5;
  readonly machine: Machine;
  readonly #behind: number | null;

  /** `behind`: the process behind the daemon that serves the disk, if there is one. */
  constructor(machine: Machine, behind: number | null) {
    this.machine = machine;
    this.#behind = behind;
  }

  get pids(): readonly number[] {
    return [...this.#servers, this.machine.guestsPid];
  }

  get #servers(): number[] {
    return [this.machine.backendPid, ...(this.#behind === null ? [] : [this.#behind])];
  }

  #cpuSeconds(): number {
    return this.#servers.reduce((sum, pid) => sum + cpuSeconds(pid), 0);
  }

  /** From now on neither ever waits for a CPU that the other has. */
  keepApart(): void {
    for (const pid of this.#servers) pin(pid, SERVER_CPUS);
    pin(this.machine.guestsPid, CLIENT_CPUS);
  }

  async run({ blockSize, depth, readPercent, sequential, pinned }: Row, seconds: number): Promise<Sample> {
    const { machine } = this;
    const before = await countersOf(machine);
    const cpu = this.#cpuSeconds();
    const job = { blockSize, depth, readPercent, sequential, seconds };
    const result = await machine.load(job, !pinned);
    const serverCpu = this.#cpuSeconds() - cpu;
    const after = await countersOf(machine);
    const requests = Math.max(1, after.requests - before.requests);
    return {
      iops: result.operations / result.seconds,
      latency: result.latency,
      clientCpu: per100k(result.cpuSeconds, result.operations),
      serverCpu: per100k(serverCpu, result.operations),
      notifications: {
        sent: (after.notifications - before.notifications) / requests,
        received: result.notificationsSent / requests,
      },
    };
  }
}
