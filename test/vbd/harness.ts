/** A loopback machine in this process, with a backend whose ports can be spied on and made to fail. */
import { readdirSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Backend } from "../../host/daemon/backend.js";
import { DEFAULT_PLANE, type PlaneOptions } from "../../host/daemon/serve.js";
import { type Blkfront, type BlkfrontOptions, connectBlkfront } from "../../host/guest/blkfront.js";
import { LoopbackHost, xenstoreSocket } from "../../host/platform/loopback/host.js";
import { type LoopbackDomain, openDomain } from "../../host/platform/loopback/index.js";
import type { EventChannels, GrantTable, GuestPages, Xenstore } from "../../host/platform/ports.js";
import { connectXenstore } from "../../host/platform/xenstore/client.js";
import { LocalRingHost } from "../../host/reactor/local.js";
import { ReactorPool } from "../../host/reactor/pool.js";
import type { RingHost } from "../../host/reactor/ring-host.js";
import { openDevice } from "../../host/storage/open.js";
import { DEFAULT_FEATURES, type Features } from "../../host/vbd/backend-keys.js";
import type { AssumedProtocol } from "../../host/vbd/frontend.js";
import type { VbdHost } from "../../host/vbd/host.js";
import { Journals } from "../../host/vbd/journals.js";
import type { VbdStatus } from "../../host/vbd/status.js";
import { Front } from "./front.js";
import { spyOn } from "./spy.js";

export const LIMIT = { timeout: 120_000 };
export const DOMID = 1;
export const DEVID = 51712;
export const IMAGE_BYTES = 1 << 20;

/** Waits until `condition` holds; rejects with `what` after a minute, the last resort: a machine may be very busy. */
export async function until(what: string, condition: () => unknown, timeoutMs = 60_000): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`it did not come to pass that ${what}`);
    await pause(2);
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export function openFiles(): number {
  return readdirSync("/proc/self/fd").length;
}

export interface MachineOptions {
  /** Rings are served by reactor threads, as in the daemon; `events` and `grants` are for this thread only. */
  readonly threads?: Partial<PlaneOptions>;
  readonly features?: Partial<Features>;
  readonly open?: NonNullable<VbdHost["open"]>;
  readonly hold?: NonNullable<VbdHost["hold"]>;
  readonly release?: NonNullable<VbdHost["release"]>;
  readonly events?: (events: EventChannels) => EventChannels;
  readonly grants?: (grants: GrantTable) => GrantTable;
  /** What is put between the backend and whoever serves rings. */
  readonly between?: (reactor: RingHost) => RingHost;
  readonly kind?: string;
  readonly assumedProtocol?: AssumedProtocol;
  readonly limits?: VbdHost["limits"];
  readonly tell?: VbdHost["tell"];
  /** Guests can be suspended, and their disks are left: as the daemon does it. */
  readonly leave?: NonNullable<VbdHost["leave"]>;
}

/** A guest's domain and what it is connected to. */
export interface Guest {
  readonly domid: number;
  readonly pages: GuestPages;
  readonly events: EventChannels;
  readonly xenstore: Xenstore;
  readonly domain: LoopbackDomain;
}

export interface Plug {
  readonly domid?: number;
  readonly devid?: number;
  readonly path?: string;
  readonly mode?: string;
  /** Other keys of the backend directory; null leaves one out. */
  readonly keys?: Record<string, string | null>;
  /** The hotplug script has not run yet. */
  readonly noHotplug?: boolean;
}

export class Machine {
  readonly host: LoopbackHost;
  readonly spy: ReturnType<typeof spyOn>;
  readonly reactor: RingHost;
  readonly backend: Backend;
  /** What the operator was told. */
  readonly log: string[] = [];
  readonly #domain: LoopbackDomain;
  readonly #guests: Guest[] = [];
  #fences = 0;
  /** Those that were connected, in order. */
  readonly disks: Blkfront[] = [];
  /** The backend's client of xenstored; the toolstack is the host's. */
  readonly own: Xenstore;

  private constructor(
    host: LoopbackHost,
    own: Xenstore,
    domain: LoopbackDomain,
    reactor: RingHost,
    options: MachineOptions,
  ) {
    this.host = host;
    this.own = own;
    this.#domain = domain;
    this.reactor = reactor;
    this.spy = spyOn(own);
    this.backend = new Backend({
      xenstore: this.spy.xenstore,
      reactor,
      features: { ...DEFAULT_FEATURES, ...options.features },
      domid: 0,
      kind: options.kind ?? "vbd",
      ...(options.assumedProtocol && { assumedProtocol: options.assumedProtocol }),
      ...(options.limits && { limits: options.limits }),
      ...(options.tell && { tell: options.tell }),
      log: (line) => void this.log.push(line),
      open: options.open ?? openDevice,
      ...(options.hold && { hold: options.hold }),
      ...(options.release && { release: options.release }),
      ...(options.leave && {
        leave: options.leave,
        isSuspended: (domid) => domain.isSuspended(domid),
        journals: new Journals(host.directory, "vbd"),
      }),
    });
  }

  static async start(options: MachineOptions = {}): Promise<Machine> {
    const host = await LoopbackHost.start();
    const own = await connectXenstore(xenstoreSocket(host.directory, 0));
    const domain = await openDomain(host.directory, 0);
    const events = await domain.eventChannels();
    const grants = await domain.grantTable();
    const local = new LocalRingHost(options.events?.(events) ?? events, options.grants?.(grants) ?? grants);
    const server = options.threads ? await threads(host, options.threads) : local;
    if (server !== local) await local.close();
    const reactor = options.between?.(server) ?? server;
    const machine = new Machine(host, own, domain, reactor, options);
    await machine.backend.start();
    return machine;
  }

  async close(): Promise<void> {
    for (const disk of this.disks) await disk.close().catch(() => {});
    await this.backend.stop();
    await this.reactor.close();
    await this.#domain.close();
    this.own.close();
    for (const guest of this.#guests) await leave(guest);
    await this.host.close();
  }

  get xenstore(): Xenstore {
    return this.host.xenstore;
  }

  /** An image of zeros. */
  image(name = "disk.img", bytes = IMAGE_BYTES): string {
    const path = join(this.host.directory, name);
    writeFileSync(path, "");
    truncateSync(path, bytes);
    return path;
  }

  async guest(domid = DOMID, memoryBytes = 32 << 20): Promise<Guest> {
    await this.host.createGuest(domid, memoryBytes);
    const domain = await openDomain(this.host.directory, domid);
    const xenstore = await connectXenstore(xenstoreSocket(this.host.directory, domid));
    const guest = {
      domid,
      domain,
      xenstore,
      pages: await domain.pages(),
      events: await domain.eventChannels(),
    };
    this.#guests.push(guest);
    return guest;
  }

  /** Writes both directories of a vbd as the toolstack does, and does not wait. */
  async plug(plug: Plug = {}): Promise<string> {
    const { domid = DOMID, devid = DEVID, mode = "w" } = plug;
    const backend = backendPath(devid, domid);
    const frontend = frontendPath(devid, domid);
    const path = plug.path ?? join(this.host.directory, "disk.img");
    const keys: Record<string, string | null> = {
      frontend,
      "frontend-id": String(domid),
      params: path,
      online: "1",
      state: "1",
      mode,
      "device-type": "disk",
      ...(plug.noHotplug ? {} : { "physical-device-path": path, "hotplug-status": "connected" }),
      ...plug.keys,
    };
    await this.xenstore.transaction(async (t) => {
      await t.mkdir(frontend);
      await t.setPermissions(frontend, [`n${domid}`, "r0"]);
      const own = { backend, "backend-id": "0", "virtual-device": String(devid), state: "1" };
      for (const [key, value] of Object.entries(own)) {
        await t.write(`${frontend}/${key}`, value);
        await t.setPermissions(`${frontend}/${key}`, [`n${domid}`, "r0"]);
      }
      await t.mkdir(backend);
      await t.setPermissions(backend, ["n0", `r${domid}`]);
      for (const [key, value] of Object.entries(keys)) {
        if (value !== null) await t.write(`${backend}/${key}`, value);
      }
    });
    return backend;
  }

  /** As the hotplug script does. */
  async hotplug(path: string, devid = DEVID, domid = DOMID): Promise<void> {
    await this.xenstore.write(`${backendPath(devid, domid)}/physical-device-path`, path);
    await this.xenstore.write(`${backendPath(devid, domid)}/hotplug-status`, "connected");
  }

  async unplug(devid = DEVID, domid = DOMID): Promise<void> {
    await this.xenstore.remove(frontendPath(devid, domid));
    await this.xenstore.remove(backendPath(devid, domid));
  }

  async connect(guest: Guest, options: Partial<BlkfrontOptions> = {}, devid = DEVID): Promise<Blkfront> {
    const disk = await connectBlkfront(guest, devid, {
      closeTimeoutMs: 3000,
      inFlightBytes: 2 << 20,
      ...options,
    });
    this.disks.push(disk);
    return disk;
  }

  /** A frontend by hand. */
  front(guest: Guest, devid = DEVID): Front {
    return new Front(guest, frontendPath(devid, guest.domid));
  }

  async state(devid = DEVID, domid = DOMID): Promise<number> {
    return Number((await this.xenstore.read(`${backendPath(devid, domid)}/state`)) ?? 0);
  }

  async untilState(state: number, devid = DEVID, domid = DOMID): Promise<void> {
    try {
      await until("", async () => (await this.state(devid, domid)) === state);
    } catch {
      const now = await this.state(devid, domid);
      throw new Error(`the backend is at ${now}, not ${state}; its log:\n${this.log.join("\n")}`);
    }
  }

  /**
   * Resolves when the backend has looked at a vbd, from begin to end, after whatever was written before the call: what has
   * not happened by then does not happen. A key comes after it, and a look at that is ended when the next begins; the third
   * is for what the backend has asked xenstore meanwhile. For vbds whose looks wait for nothing else.
   */
  async looked(devid = DEVID, domid = DOMID): Promise<void> {
    const directory = backendPath(devid, domid);
    for (let round = 0; round < 3; round++) {
      const key = `${directory}/fence${this.#fences++}`;
      await this.xenstore.write(key, "");
      await until("the backend looks", () => {
        const before = this.spy.heard.get(key);
        return before !== undefined && (this.spy.looks.get(directory) ?? 0) > before;
      });
    }
  }

  /**
   * Makes more requests on the backend's connection with xenstore, one after the other, than a look at a vbd does: what
   * waits for nothing but xenstore has happened by then.
   */
  async turns(): Promise<void> {
    for (let i = 0; i < 100; i++) await this.own.read("/local");
  }

  status(devid = DEVID, domid = DOMID): VbdStatus | undefined {
    return this.backend.status().find((vbd) => vbd.devid === devid && vbd.domid === domid);
  }

  error(devid = DEVID, domid = DOMID): Promise<string | null> {
    return this.xenstore.read(`/local/domain/0/error/backend/vbd/${domid}/${devid}/error`);
  }

  /** Waits until the backend holds nothing of any guest. */
  async untilClean(): Promise<void> {
    await until("the backend lets go of pages and ports", () => {
      return this.reactor.mappedPages === 0 && this.host.hypervisor.portsInUse(0) === 0;
    });
  }
}

function threads(host: LoopbackHost, options: Partial<PlaneOptions>): Promise<RingHost> {
  return ReactorPool.start({
    ...DEFAULT_PLANE,
    ...options,
    platform: { kind: "loopback", directory: host.directory, domid: 0 },
    log: (line) => console.error(line),
    onFailure: (error) => {
      throw error;
    },
  });
}

/** A domain that was destroyed has nothing to give back. */
async function leave({ pages, events, xenstore, domain }: Guest): Promise<void> {
  xenstore.close();
  for (const part of [events, pages, domain]) await part.close().catch(() => {});
}

export function backendPath(devid = DEVID, domid = DOMID): string {
  return `/local/domain/0/backend/vbd/${domid}/${devid}`;
}

export function frontendPath(devid = DEVID, domid = DOMID): string {
  return `/local/domain/${domid}/device/vbd/${devid}`;
}

/** A test's body with a machine, and a look at what is left behind. */
export function onMachine(
  body: (machine: Machine) => Promise<void>,
  options: MachineOptions = {},
): () => Promise<void> {
  return async () => {
    const machine = await Machine.start(options);
    try {
      await body(machine);
    } finally {
      await machine.close();
    }
  };
}
