/** Many vbds in one daemon: what each costs while it is idle, how fast it is attached, what all do together. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { median } from "../statistics.js";
import { writeImage } from "./image.js";
import { cpuSeconds, type MemoryUse, memoryUse } from "./processes.js";
import { per100k } from "./sample.js";
import { Machine } from "./xbdback.js";

export interface ScaleSamples {
  readonly vbds: number;
  /** Growth of the daemon for each vbd that is attached and idle, in bytes. */
  readonly memoryPerVbd: MemoryUse;
  /** Milliseconds of each, one after the other. */
  readonly attach: { readonly median: number; readonly max: number };
  readonly loads: readonly LoadSamples[];
}

/** All vbds together, 4 KiB random reads with O_DIRECT; one value a repeat. */
export interface LoadSamples {
  /** On each vbd. */
  readonly depth: number;
  readonly iops: readonly number[];
  /** CPU seconds of the daemon for 100,000 I/Os. */
  readonly serverCpu: readonly number[];
}

/** A guest's xenstore quota has room for so many disks. */
const DISKS_PER_GUEST = 16;
const GUEST_MEMORY = 64 << 20;
const IN_FLIGHT = 2 << 20;
const IMAGE_BYTES = 4 << 20;
/** I/Os under way at once over all vbds, but at least one for each; and four times as many. */
const TOTAL_DEPTH = 32;
const DEEPER = 4;
const SETTLE_MS = 1000;
const WARM_UP_SECONDS = 2;

export async function measureScale(
  vbds: number,
  {
    scratch,
    seconds,
    repeats,
    serveOptions,
  }: {
    readonly scratch: string;
    readonly seconds: number;
    readonly repeats: number;
    readonly serveOptions: readonly string[];
  },
): Promise<ScaleSamples> {
  const images = Array.from({ length: vbds }, (_, i) => join(scratch, `vbd-${i}.img`));
  const machine = await Machine.start("none", serveOptions);
  try {
    for (const image of images) await writeImage(image, IMAGE_BYTES);
    for (let guest = 0; guest * DISKS_PER_GUEST < vbds; guest++)
      await machine.createGuest(guest + 1, GUEST_MEMORY);
    await machine.status();
    await sleep(SETTLE_MS);
    const before = memoryUse(machine.backendPid);
    const attach: number[] = [];
    for (const [i, image] of images.entries()) {
      const domid = Math.floor(i / DISKS_PER_GUEST) + 1;
      attach.push(await machine.attach(domid, image, { ringPageOrder: 2, inFlightBytes: IN_FLIGHT }));
    }
    await sleep(SETTLE_MS);
    const after = memoryUse(machine.backendPid);
    const depth = Math.max(1, Math.floor(TOTAL_DEPTH / vbds));
    const loads: LoadSamples[] = [];
    for (const each of [depth, depth * DEEPER]) loads.push(await throughput(machine, each, seconds, repeats));
    return {
      vbds,
      memoryPerVbd: { rss: (after.rss - before.rss) / vbds, pss: (after.pss - before.pss) / vbds },
      attach: { median: median(attach), max: Math.max(...attach) },
      loads,
    };
  } finally {
    await machine.stop();
    for (const image of images) rmSync(image, { force: true });
  }
}

async function throughput(
  machine: Machine,
  depth: number,
  seconds: number,
  repeats: number,
): Promise<LoadSamples> {
  const job = { blockSize: 4096, depth, readPercent: 100, sequential: false, seconds };
  // Every ring maps its pages in its first requests, and V8 compiles.
  await machine.load({ ...job, seconds: WARM_UP_SECONDS });
  const iops: number[] = [];
  const serverCpu: number[] = [];
  for (let repeat = 0; repeat < repeats; repeat++) {
    const cpu = cpuSeconds(machine.backendPid);
    const { operations } = await machine.load(job);
    iops.push(operations / seconds);
    serverCpu.push(per100k(cpuSeconds(machine.backendPid) - cpu, operations));
  }
  return { depth, iops, serverCpu };
}
