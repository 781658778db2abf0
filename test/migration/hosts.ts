/** Two hosts, each a machine with a daemon of its own, and one image under locks that hold for both. */
import { readdirSync, readlinkSync } from "node:fs";
import { type Blkfront, type BlkfrontOptions, connectBlkfront } from "../../host/guest/blkfront.js";
import { type GuestDomain, joinDomain } from "../../host/guest/process.js";
import { addVbd } from "../../host/toolstack/vbd.js";
import type { VbdStatus } from "../../host/vbd/status.js";
import { DEVID, Site } from "../restart/processes.js";
import { until } from "../vbd/harness.js";

export class Host {
  readonly site: Site;
  readonly name: string;
  readonly #serve: readonly string[];

  constructor(site: Site, name: string, serve: readonly string[]) {
    this.site = site;
    this.name = name;
    this.#serve = serve;
  }

  serve(): void {
    this.site.serve(...this.#serve);
  }

  /** A module serves instead of the daemon. */
  async serveBy(module: string, ...args: string[]): Promise<void> {
    await this.kill();
    this.site.run(module, this.site.host.directory, ...args);
  }

  async kill(): Promise<void> {
    await this.site.backend?.kill();
  }

  /** As a toolstack does for a guest that comes: its domain and its disk. Rejects with what the daemon says of the disk. */
  async receive(domid: number, target: string, name = "guest--incoming"): Promise<void> {
    const { host } = this.site;
    await host.createGuest(domid, 64 << 20);
    await host.xenstore.write(`/local/domain/${domid}/name`, name);
    await addVbd(host.xenstore, {
      ...{ backendDomid: 0, domid, devid: DEVID, path: target, mode: "w", dev: "xvda", ask: true },
    });
  }

  join(domid: number): Promise<GuestDomain> {
    return joinDomain(this.site.host.directory, domid);
  }

  /** The domain is destroyed, in the midst of whatever it does; resolves when the daemon has forgotten its disk. */
  async destroy(domid: number): Promise<void> {
    const { host } = this.site;
    await host.destroyGuest(domid);
    await host.xenstore.remove(`/local/domain/0/backend/vbd/${domid}`);
    await until(
      `${this.name} has forgotten the disk of ${domid}`,
      async () => (await this.shown(domid)) === undefined,
    );
  }

  /** Rejects while no daemon answers. */
  async shown(domid: number): Promise<VbdStatus | undefined> {
    return (await this.site.list()).vbds.find((vbd) => vbd.domid === domid);
  }

  async untilShown(domid: number, what: RegExp): Promise<void> {
    let last = "nothing";
    await until(`${this.name} shows ${what} of ${domid}`, async () => {
      const vbd = await this.shown(domid).catch(() => undefined);
      last = `${vbd?.waitsFor} ${vbd?.storage.reason}`;
      return what.test(last);
    }).catch((error: Error) => {
      throw new Error(`${error.message}; last ${last}; log:\n${this.site.log.slice(-20).join("\n")}`);
    });
  }
}

export interface Scene {
  readonly hosts: readonly [Host, Host];
  /** What a guest's disk names. */
  readonly target: string;
  readonly image: string;
}

/** `make` makes an image of zeros in a directory: what names it, and its path. */
export async function onTwoHosts(
  make: (directory: string) => Promise<{ target: string; image: string }>,
  body: (scene: Scene) => Promise<void>,
): Promise<void> {
  const sites = [await Site.start(), await Site.start()] as const;
  const hosts = [
    new Host(sites[0], "one host", ["--engine", "io_uring", "--reactors", "1"]),
    new Host(sites[1], "the other host", ["--engine", "libuv", "--reactors", "1"]),
  ] as const;
  try {
    for (const host of hosts) host.serve();
    await body({ hosts, ...(await make(sites[0].images)) });
  } catch (error) {
    const logs = hosts.map(({ name, site }) => `${name}:\n${site.log.slice(-30).join("\n")}`);
    throw new Error(`${(error as Error).stack}\n${logs.join("\n")}`);
  } finally {
    for (const site of sites) await site.close();
  }
}

/** The guest's disk, whichever host it is on. */
export async function connectAt(
  host: Host,
  domid: number,
  options: Partial<BlkfrontOptions> = {},
): Promise<{ disk: Blkfront; domain: GuestDomain }> {
  const domain = await host.join(domid);
  const disk = await connectBlkfront(domain, DEVID, {
    ...{ queues: 2, inFlightBytes: 2 << 20, timeoutMs: 60_000 },
    ...options,
  });
  return { disk, domain };
}

/** Process ids of those who have a file open. */
export function openersOf(path: string): number[] {
  const pids = readdirSync("/proc").filter((entry) => /^\d+$/.test(entry));
  return pids.map(Number).filter((pid) => pid !== process.pid && filesOf(pid).includes(path));
}

function filesOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map((fd) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`);
      } catch {
        return "";
      }
    });
  } catch {
    return [];
  }
}
