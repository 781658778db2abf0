/**
 * The guests of a benchmark as one process: reads commands on stdin and answers on stdout, one JSON object a line
 * each. It ends when stdin does.
 */
import { createInterface } from "node:readline";
import { type Blkfront, type BlkfrontOptions, connectBlkfront } from "../../host/guest/blkfront.js";
import { PortDispatcher } from "../../host/guest/events.js";
import { type GuestDomain, joinDomain } from "../../host/guest/process.js";
import { type LoadJob, runLoad } from "./load.js";

export type GuestCommand =
  | { command: "connect"; domid: number; devid: number; options: Partial<BlkfrontOptions> }
  /** On all disks at once. */
  | { command: "load"; job: LoadJob; looks: boolean }
  | { command: "close" };

export type GuestAnswer = { ok: true; result: unknown } | { ok: false; error: string };

const directory = process.argv[2];
const disks: Blkfront[] = [];
const domains = new Map<number, GuestDomain>();

/** A domain is joined once, for all of its disks. */
async function domainOf(domid: number): Promise<GuestDomain> {
  const domain = domains.get(domid) ?? (await joinDomain(directory, domid));
  domains.set(domid, domain);
  return domain;
}

async function obey(command: GuestCommand): Promise<unknown> {
  if (command.command === "load") {
    PortDispatcher.looks = command.looks;
    return runLoad(disks, command.job);
  }
  if (command.command === "close") {
    for (const disk of disks.splice(0)) await disk.close();
    return null;
  }
  const disk = await connectBlkfront(await domainOf(command.domid), command.devid, command.options);
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
// In the midst of a load, too: its disks may never answer again.
process.stdin.on("end", () => process.exit());
for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await answer(line))}\n`);
}
