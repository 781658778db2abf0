/** `xbdback guest`: a guest's kernel and what runs on it, as one process. */
import { createHash } from "node:crypto";
import type { Abi } from "../guest/blkfront.js";
import { NbdServer } from "../guest/nbd/server.js";
import { type GuestProcess, joinGuest } from "../guest/process.js";
import { runWorkload, type WorkloadResult } from "../guest/workload.js";
import { CliError, signalled } from "./errors.js";
import { untilStopped } from "./lifetime.js";
import { machineStarted } from "./machine-start.js";

export interface GuestOptions {
  directory: string;
  domid: number;
  devid: number;
  abi: Abi;
  ringPageOrder: number;
  queues: number;
  indirect: boolean;
  persistent: boolean;
  nbd?: string;
  workload?: number;
  depth: number;
  seed: number;
  exitWithParent: boolean;
}

/** What the process says on stdout, one JSON object a line. */
export type GuestEvent =
  | {
      event: "connected";
      size: number;
      queues: number;
      ringEntries: number;
      indirect: number;
      persistent: boolean;
    }
  | { event: "listening"; uri: string }
  | { event: "progress"; done: number }
  | { event: "verified"; result: WorkloadResult; sha256: string }
  | { event: "closed"; grantsInUse: number };

function say(event: GuestEvent): void {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

export async function guest(options: GuestOptions): Promise<void> {
  const { directory, domid, devid, abi, ringPageOrder, queues, indirect, persistent } = options;
  await machineStarted(directory, domid);
  const stopped = untilStopped(options.exitWithParent);
  const joined = await joinGuest(directory, domid, devid, {
    abi,
    ringPageOrder,
    queues,
    indirect,
    persistent,
  });
  const failed = new Promise<never>((_, reject) => {
    joined.disk.onFailure = reject;
  });
  const { negotiated } = joined.disk;
  say({
    event: "connected",
    size: joined.disk.size,
    queues: negotiated.queues,
    ringEntries: negotiated.ringEntries,
    indirect: negotiated.indirectSegments,
    persistent: negotiated.persistent,
  });
  const work =
    options.workload === undefined
      ? exportDisk(joined, options.nbd, Promise.race([stopped, failed]))
      : Promise.race([verify(joined, options.workload, options), stopped.then(cutShort)]);
  try {
    await Promise.race([work, failed]);
  } finally {
    say({ event: "closed", ...(await joined.stop()) });
  }
  process.exit();
}

/** A workload that was stopped proves nothing. */
function cutShort(signal: NodeJS.Signals): never {
  throw new CliError(`stopped by ${signal} before the workload was done`, signalled(signal));
}

async function verify(
  joined: GuestProcess,
  operations: number,
  { depth, seed }: GuestOptions,
): Promise<void> {
  const hash = createHash("sha256");
  let told = 0;
  const progress = (done: number): void => {
    const now = performance.now();
    if (now - told < 100) return;
    told = now;
    say({ event: "progress", done });
  };
  const result = await runWorkload(joined.disk, { operations, depth, seed, progress }, (data) =>
    hash.update(data),
  );
  say({ event: "verified", result, sha256: hash.digest("hex") });
}

async function exportDisk(
  joined: GuestProcess,
  path: string | undefined,
  stopped: Promise<unknown>,
): Promise<void> {
  const server =
    path === undefined ? null : await NbdServer.listen(joined.disk, path, { description: "xbdback guest" });
  if (server) say({ event: "listening", uri: server.uri });
  try {
    await stopped;
  } finally {
    // A server that still listens keeps the process after its disk was detached.
    await server?.close();
  }
}
