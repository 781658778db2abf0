/** Guests that are killed at any moment of their lives, alone or with their backend: nothing of them stays, and the next is served. */
import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { random } from "../../host/guest/workload.js";
import { removeVbd, type VbdSpec } from "../../host/toolstack/vbd.js";
import { DEVID, type Guest, hashFile, Site } from "./processes.js";
import { backendFails, STARTS, soon, type Way } from "./slice.js";

const DISK_BYTES = 32 << 20;
const DOMID = 1;
/** Longer than a guest takes to begin its work, so that it is killed before, in the midst of it and after. */
const YOUNG_MS = 600;
const AT_WORK_MS = 100;
/** What the garbage collector has not come to yet. */
const SPARE_BYTES = 128 << 20;
/** Mapped files, with their descriptors, of a guest that each reactor keeps until it meets the next of that number. */
const KEPT = 4 * availableParallelism();

export type Victim = "guest" | "both";

/** What a process has of the kernel's. */
interface Holdings {
  readonly descriptors: number;
  /** Of the machine's files: guests' pages, journals, grant tables. */
  readonly mappings: number;
  readonly bytes: number;
}

/** Rejects with whatever is left of one of the guests, or what the last one, which lives, could see of them. */
export async function playVictims(
  victim: Victim,
  way: Way,
  kills: number,
  seed: number,
  interrupt?: AbortSignal,
): Promise<void> {
  const site = await Site.start();
  const dice = random(seed);
  try {
    site.serve(...STARTS[dice() % STARTS.length]);
    const lives = async (): Promise<void> => {
      let before: Holdings | null = null;
      for (let done = 0; done < kills; done++) {
        // The first has made the backend start and allocate what it keeps.
        await killOne(site, victim, way, dice, done === 0);
        if (done === 0) before = holdingsOf(site);
      }
      if (victim === "guest" && before !== null) await untilNoMore(site, before);
      await serveOne(site, way, dice());
    };
    await Promise.race([lives(), backendFails(site, interrupt)]);
  } catch (error) {
    process.stderr.write(`${site.log.slice(-20).join("\n")}\n`);
    throw error;
  } finally {
    await site.close();
  }
}

async function killOne(
  site: Site,
  victim: Victim,
  way: Way,
  dice: () => number,
  atWork: boolean,
): Promise<void> {
  const spec = await site.plug(DOMID, DISK_BYTES);
  const guest = startGuest(site, way, dice());
  if (!atWork && dice() % 2 === 0) await sleep(dice() % YOUNG_MS);
  else {
    await soon(Promise.race([guest.working, guest.failed]));
    await sleep(dice() % AT_WORK_MS);
  }
  if (victim === "guest") await guest.kill();
  else {
    await Promise.all([guest.kill(), site.backend?.kill()]);
    // The toolstack may come before the next backend, or after.
    if (dice() % 2 === 0) {
      await site.host.destroyGuest(DOMID);
      site.serve(...STARTS[dice() % STARTS.length]);
      return removed(site, spec);
    }
    site.serve(...STARTS[dice() % STARTS.length]);
    await sleep(dice() % YOUNG_MS);
  }
  await site.host.destroyGuest(DOMID);
  return removed(site, spec);
}

async function removed(site: Site, spec: VbdSpec): Promise<void> {
  const removal = await removeVbd(site.host.xenstore, spec, 60_000);
  if (removal !== "closed") throw new Error(`the disk of a dead guest was not closed: ${removal}`);
  await site.untilClean();
}

/** The next guest of the same number, for which all is as for the first. */
async function serveOne(site: Site, way: Way, seed: number): Promise<void> {
  const spec = await site.plug(DOMID, DISK_BYTES);
  const guest = startGuest(site, way, seed);
  await soon(Promise.race([guest.working, guest.failed]));
  await sleep(200);
  guest.end();
  const { sha256, grantsInUse } = await soon(Promise.race([guest.verified, guest.failed]));
  if (grantsInUse !== 0) throw new Error(`the backend kept ${grantsInUse} grants of the guest`);
  if (sha256 !== (await hashFile(spec.path))) throw new Error("the image is not what the guest reads");
  await removed(site, spec);
}

function startGuest(site: Site, { options }: Way, seed: number): Guest {
  return site.startGuest({
    ...{ domid: DOMID, devid: DEVID, depth: 64, seed },
    options: { queues: 4, ...options },
  });
}

function holdingsOf(site: Site): Holdings {
  const place = `/proc/${site.backend?.process.pid}`;
  const [, kib] = readFileSync(`${place}/status`, "utf8").match(/^VmRSS:\s+([0-9]+) kB$/m) ?? [];
  return {
    descriptors: readdirSync(`${place}/fd`).length,
    mappings: readFileSync(`${place}/maps`, "utf8").split(site.host.directory).length - 1,
    bytes: Number(kib) * 1024,
  };
}

/** Rejects unless the backend gives back what it has more than before. */
async function untilNoMore(site: Site, before: Holdings): Promise<void> {
  for (let tries = 0; ; tries++) {
    const now = holdingsOf(site);
    const held = now.descriptors > before.descriptors + KEPT || now.mappings > before.mappings + KEPT;
    if (!held && now.bytes <= before.bytes + SPARE_BYTES) return;
    if (tries > 1200) {
      throw new Error(`the backend has ${JSON.stringify(now)}, and had ${JSON.stringify(before)}`);
    }
    await sleep(50);
  }
}
