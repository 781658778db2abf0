/** One guest's life through many deaths of its backend, of its disk's server, and of both at once. */
import { setTimeout as sleep } from "node:timers/promises";
import { random } from "../../host/guest/workload.js";
import { removeVbd } from "../../host/toolstack/vbd.js";
import { DEVID, hashFile, Site } from "./processes.js";
import { type Served, type ServedDisk, startServed } from "./served.js";

const DOMID = 1;
const DISK_BYTES = 32 << 20;

export const WAYS = [
  { name: "persistent grants", options: { persistent: true, ringPageOrder: 2 } },
  { name: "grant copy, x86_32", options: { persistent: false, ringPageOrder: 0, abi: "x86_32" } },
  { name: "persistent grants, 16-page rings", options: { persistent: true, ringPageOrder: 4 } },
  { name: "grant copy, 2-page rings", options: { persistent: false, ringPageOrder: 1 } },
] as const;

export type Way = (typeof WAYS)[number];

/** Each start is one of these: what served a ring before need not be what goes on with it. */
export const STARTS = [
  ["--engine", "io_uring", "--cache", "writeback"],
  ["--engine", "io_uring", "--cache", "none", "--reactors", "2"],
  ["--engine", "libuv", "--cache", "writeback", "--reactors", "1"],
  ["--engine", "io_uring", "--cache", "writeback", "--no-persistent", "--max-queues", "1"],
];

/** Who is killed. */
export type Death = "backend" | "server" | "both";

export interface Slice {
  readonly operations: number;
  /** Milliseconds from the start of a process to the guest's next response, where it lived so long. */
  readonly pauses: number[];
}

/**
 * Rejects with whatever a guest, or anybody, could see of a death that is not a pause, and when it is interrupted. Servers are
 * killed where `disk` has one.
 */
export async function playSlice(
  way: Way,
  deaths: readonly Death[],
  seed: number,
  disk: Served | "raw" = "raw",
  interrupt?: AbortSignal,
): Promise<Slice> {
  const site = await Site.start();
  const dice = random(seed);
  const pauses: number[] = [];
  let server: ServedDisk | null = null;
  try {
    if (disk !== "raw") server = await startServed(disk, site.images, DISK_BYTES);
    site.serve(...STARTS[0]);
    const spec = server ? await site.plugTarget(DOMID, server.target) : await site.plug(DOMID, DISK_BYTES);
    const guest = site.startGuest({
      domid: DOMID,
      devid: DEVID,
      depth: 64,
      seed,
      options: { queues: 4, ...way.options },
    });
    const lives = async (): Promise<void> => {
      await guest.working;
      for (const death of deaths) {
        await sleep(dice() % 100);
        await die(site, server, death);
        const { first } = await guest.watch();
        const started = await live(site, server, death, dice);
        // One of five is killed while it starts.
        if (dice() % 5 === 0) await sleep(dice() % 400);
        else {
          const at = await soon(first);
          if (started !== null) pauses.push(at - started);
        }
      }
      guest.end();
      const { operations, sha256, grantsInUse } = await guest.verified;
      if (grantsInUse !== 0) throw new Error(`the backend kept ${grantsInUse} grants of the guest`);
      seen = sha256;
      total = operations;
    };
    let total = 0;
    let seen = "";
    await Promise.race([lives(), guest.failed, backendFails(site, interrupt)]);
    if ((await removeVbd(site.host.xenstore, spec)) !== "closed") throw new Error("the disk was not closed");
    await site.untilClean();
    await server?.kill();
    const stored = server ? await server.sha256() : await hashFile(spec.path);
    if (seen !== stored) throw new Error("the image is not what the guest reads");
    return { operations: total, pauses };
  } catch (error) {
    process.stderr.write(`${site.log.slice(-20).join("\n")}\n`);
    throw error;
  } finally {
    await site.close();
    await server?.close();
  }
}

async function die(site: Site, server: ServedDisk | null, death: Death): Promise<void> {
  await Promise.all([
    death === "server" ? null : site.backend?.kill(),
    death === "backend" ? null : server?.kill(),
  ]);
}

/** Starts what is dead, the one or the other first; resolves with when the backend began, where it was dead alone. */
async function live(
  site: Site,
  server: ServedDisk | null,
  death: Death,
  dice: () => number,
): Promise<number | null> {
  const serverFirst = dice() % 2 === 0;
  if (death !== "backend" && serverFirst) await server?.serve();
  const how = STARTS[dice() % STARTS.length];
  const backend = death === "server" ? null : site.serve(...how);
  if (death !== "backend" && !serverFirst) {
    await sleep(dice() % 300);
    await server?.serve();
  }
  return death === "backend" && backend ? backend.started : null;
}

/** Rejects after a minute: on the slowest of machines, a guest is served by then. */
export function soon<T>(promise: Promise<T>): Promise<T> {
  const late = sleep(60_000, undefined, { ref: false }).then(() => {
    throw new Error("the guest had no response for a minute");
  });
  return Promise.race([promise, late]);
}

/** Rejects when a backend ends that nobody has killed, and when it is interrupted; resolves with the site's end. */
export async function backendFails(site: Site, interrupt?: AbortSignal): Promise<void> {
  while (!site.closed) {
    interrupt?.throwIfAborted();
    const { backend } = site;
    await Promise.race([backend?.failed, sleep(100)]);
  }
}
