/**
 * The guests of a benchmark as one process: reads commands on stdin and answers on stdout, one JSON object a line
 * each. It ends when stdin does.
 */
import { createInterface } from "node:readline";
import {
  type Blkfront,
  type BlkfrontOptions,
  connectBlkfront,
  type GuestPlatform,
} from "../../host/guest/blkfront.js";
import { xenstoreSocket } from "../../host/platform/loopback/host.js";
import { openDomain } from "../../host/platform/loopback/index.js";
import { connectXenstore } from "../../host/platform/xenstore/client.js";
import { type LoadJob, runLoad } from "./load.js";

export type GuestCommand =
  | { command: "connect"; domid: number; devid: number; options: Partial<BlkfrontOptions> }
  /** On all disks at once. */
  | { command: "load"; job: LoadJob }
  | { command: "close" };

export type GuestAnswer = { ok: true; result: unknown } | { ok: false; error: string };

const directory = process.argv[2];
const disks: Blkfront[] = [];
const domains = new Map<number, GuestPlatform>();

/** A domain is joined once, for all of its disks. */
async function platformOf(domid: number): Promise<GuestPlatform> {
  const known = domains.get(domid);
  if (known) return known;
  const domain = await openDomain(directory, domid);
  const [pages, events, xenstore] = await Promise.all([
    domain.pages(),
    domain.eventChannels(),
    connectXenstore(xenstoreSocket(directory, domid)),
  ]);
  const platform = { pages, events, xenstore };
  domains.set(domid, platform);
  return platform;
}

async function obey(command: GuestCommand): Promise<unknown> {
  if (command.command === "load") return runLoad(disks, command.job);
  if (command.command === "close") {
    for (const disk of disks.splice(0)) await disk.close();
    return null;
  }
  const disk = await connectBlkfront(await platformOf(command.domid), command.devid, command.options);
  disks.push(disk);
  return disk.negotiated;
}

async function answer(line: string): Promise<GuestAnswer> {
  try {
    return { ok: true, result: await obey(JSON.parse(line) as GuestCommand) };
  } catch (error) {
    return { ok: false, error: (error as Error).message };
  }
}

// A terminal sends SIGINT to all; the benchmark ends us in its own time.
process.on("SIGINT", () => {});
for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await answer(line))}\n`);
}
process.exit();
