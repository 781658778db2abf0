/** Backend and guest as processes for tests that kill them, on a loopback machine of this process. */
import { type ChildProcess, fork, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createReadStream, mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { control } from "../../host/daemon/control.js";
import { controlSocket } from "../../host/daemon/serve.js";
import { LoopbackHost } from "../../host/platform/loopback/host.js";
import { paths } from "../../host/platform/loopback/layout.js";
import { addVbd, type VbdSpec } from "../../host/toolstack/vbd.js";
import { monotonicMs } from "../../host/vbd/journals.js";
import type { VbdStatus } from "../../host/vbd/status.js";
import type { FakeServiceManager } from "../support/service-manager.js";
import type { GuestArguments, GuestHears, GuestSays } from "./guest.js";

export const DEVID = 51712;
export const command = fileURLToPath(new URL("../../../bin/xbdback.mjs", import.meta.url));
const guestModule = fileURLToPath(new URL("./guest.js", import.meta.url));

/** A machine and its images' directory. */
export class Site {
  readonly host: LoopbackHost;
  readonly images = mkdtempSync(join(tmpdir(), "xbdback-restart-"));
  /** What backends have said, the last lines. */
  readonly log: string[] = [];
  backend: Backend | null = null;
  /** Who starts the backends; null: nobody in particular. */
  service: FakeServiceManager | null = null;
  closed = false;
  /** Those that were started here. */
  readonly #guests: Guest[] = [];

  private constructor(host: LoopbackHost) {
    this.host = host;
  }

  static async start(): Promise<Site> {
    return new Site(await LoopbackHost.start());
  }

  async close(): Promise<void> {
    this.closed = true;
    await Promise.all([this.backend?.kill(), ...this.#guests.map((guest) => guest.kill())]);
    await this.host.close();
    rmSync(this.images, { recursive: true, force: true });
  }

  /** Starts a backend; the one before must be dead. */
  serve(...how: string[]): Backend {
    return this.run(command, "serve", "--directory", this.host.directory, ...how);
  }

  /** Starts a module that serves as a backend. */
  run(module: string, ...args: string[]): Backend {
    return this.start(process.execPath, module, ...args);
  }

  /** Starts any program that serves as a backend. Throws when the site is closed. */
  start(program: string, ...args: string[]): Backend {
    if (this.closed) throw new Error("the site is closed");
    const log = (line: string): void => {
      this.log.push(line);
      if (this.log.length > 1000) this.log.splice(0, 500);
    };
    const started = this.service?.start(program, args) ?? { program, args, environment: {} };
    this.backend = new Backend(started.program, started.args, log, started);
    return this.backend;
  }

  /** Starts a guest's process, in a domain that is there. */
  startGuest(args: Omit<GuestArguments, "directory">): Guest {
    if (this.closed) throw new Error("the site is closed");
    const guest = new Guest({ directory: this.host.directory, ...args });
    this.#guests.push(guest);
    return guest;
  }

  /** Makes a guest's domain and its disk, an image of zeros. */
  async plug(domid: number, bytes: number, mode = "w"): Promise<VbdSpec> {
    const path = join(this.images, `disk${domid}.img`);
    writeFileSync(path, "");
    truncateSync(path, bytes);
    return this.plugTarget(domid, path, mode);
  }

  /** Makes a guest's domain with a disk that is there. */
  async plugTarget(domid: number, path: string, mode = "w"): Promise<VbdSpec> {
    await this.host.createGuest(domid, 256 << 20);
    const spec = { backendDomid: 0, domid, devid: DEVID, path, mode, dev: "xvda" };
    await addVbd(this.host.xenstore, spec);
    return spec;
  }

  get journals(): string[] {
    return readdirSync(paths.journals(this.host.directory));
  }

  /** Logs of writes that were not flushed. */
  get keptWrites(): string[] {
    return readdirSync(paths.keptWrites(this.host.directory));
  }

  list(): Promise<{ vbds: VbdStatus[]; mappedPages: number }> {
    const socket = controlSocket({ kind: "loopback", directory: this.host.directory, domid: 0 }, "vbd");
    return control(socket, { command: "list" });
  }

  /** Rejects, with what is left, unless the backend lets go of every vbd and all that it held for it. */
  async untilClean(): Promise<void> {
    for (let tries = 0; ; tries++) {
      const { vbds, mappedPages } = await this.list();
      const { hypervisor } = this.host;
      const held = [
        hypervisor.grantsInUse(),
        hypervisor.portsInUse(0),
        mappedPages,
        vbds.length,
        this.journals.length,
        this.keptWrites.length,
      ];
      if (held.every((count) => count === 0)) return;
      if (tries > 1200) {
        const [grants, ports] = held;
        throw new Error(
          `left: ${grants} grants, ${ports} ports, ${mappedPages} pages, vbds ${JSON.stringify(vbds)}, journals ${this.journals}, kept writes ${this.keptWrites}`,
        );
      }
      await sleep(50);
    }
  }
}

export class Backend {
  readonly process: ChildProcess;
  /** {@link monotonicMs} at its start. */
  readonly started = monotonicMs();
  readonly #exited: Promise<unknown>;
  #ending = false;
  /** Rejects if it ends by itself. */
  readonly failed: Promise<never>;

  constructor(
    program: string,
    args: readonly string[],
    log: (line: string) => void,
    { environment = {}, descriptors = [] }: { environment?: NodeJS.ProcessEnv; descriptors?: number[] } = {},
  ) {
    this.process = spawn(program, args, {
      env: { ...process.env, ...environment },
      stdio: ["ignore", "inherit", "pipe", ...descriptors],
    });
    this.#exited = once(this.process, "exit");
    this.failed = this.#exited.then(() => {
      if (this.#ending) return new Promise<never>(() => {});
      throw new Error(`the backend ended by itself: ${this.process.exitCode ?? this.process.signalCode}`);
    });
    this.failed.catch(() => {});
    let rest = "";
    this.process.stderr?.setEncoding("utf8").on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() as string;
      for (const line of lines) log(line);
    });
  }

  /** Resolves when the process is gone. */
  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    this.#ending = true;
    this.process.kill(signal);
    await this.#exited;
  }
}

export class Guest {
  readonly process: ChildProcess;
  readonly working: Promise<unknown>;
  readonly verified: Promise<Extract<GuestSays, { event: "verified" }>>;
  /** Rejects if it ends before it was told to; never resolves. */
  readonly failed: Promise<never>;
  readonly #exited: Promise<unknown>;
  #watching: () => void = () => {};
  #first: (at: number) => void = () => {};

  constructor(args: GuestArguments) {
    this.process = fork(guestModule, [JSON.stringify(args)], { stdio: ["ignore", "inherit", "pipe", "ipc"] });
    this.#exited = once(this.process, "exit");
    let errors = "";
    this.process.stderr?.setEncoding("utf8").on("data", (text: string) => {
      errors += text;
    });
    const heard = <E extends GuestSays["event"]>(event: E): Promise<Extract<GuestSays, { event: E }>> =>
      new Promise((resolve) => {
        this.process.on("message", (said: GuestSays) => {
          if (said.event === event) resolve(said as Extract<GuestSays, { event: E }>);
        });
      });
    this.process.on("message", (said: GuestSays) => {
      if (said.event === "watching") this.#watching();
      else if (said.event === "first") this.#first(said.at);
      else if (said.event === "verified") ended = true;
    });
    let ended = false;
    this.working = heard("working");
    this.verified = heard("verified");
    this.failed = once(this.process, "close").then(() => {
      if (ended) return new Promise<never>(() => {});
      throw new Error(`the guest ended: ${errors}`);
    });
    this.failed.catch(() => {});
  }

  /** While the backend is dead. The next response is that of another one; `first` resolves with when it came. */
  async watch(): Promise<{ first: Promise<number> }> {
    const first = new Promise<number>((resolve) => {
      this.#first = resolve;
    });
    await new Promise<void>((resolve) => {
      this.#watching = resolve;
      this.#say({ say: "watch" });
    });
    return { first };
  }

  end(): void {
    this.#say({ say: "end" });
  }

  /** Resolves when the process is gone. */
  async kill(): Promise<void> {
    this.process.kill("SIGKILL");
    await this.#exited;
  }

  #say(hears: GuestHears): void {
    this.process.send(hears);
  }
}

export async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}
