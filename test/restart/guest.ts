/**
 * A guest in a process of its own, whose work every restart of the backend must be invisible to: it checks each response and
 * each byte. It speaks to its parent through Node's channel; see {@link GuestSays} and {@link GuestHears}.
 */
import { createHash } from "node:crypto";
import type { BlkfrontOptions } from "../../host/guest/blkfront.js";
import { joinGuest } from "../../host/guest/process.js";
import { Workload } from "../../host/guest/workload.js";
import { monotonicMs } from "../../host/vbd/journals.js";

export interface GuestArguments {
  readonly directory: string;
  readonly domid: number;
  readonly devid: number;
  readonly depth: number;
  readonly seed: number;
  readonly options: Partial<BlkfrontOptions>;
}

export type GuestHears =
  /** While the backend is dead: to be answered with `watching`, and with `first` at the next response. */
  | { readonly say: "watch" }
  /** Ends the work, reads the whole disk, closes it, and says `verified`. */
  | { readonly say: "end" };

export type GuestSays =
  | { readonly event: "working" }
  | { readonly event: "watching" }
  /** `at`: milliseconds of the monotonic clock. */
  | { readonly event: "first"; readonly at: number }
  | {
      readonly event: "verified";
      readonly operations: number;
      readonly sha256: string;
      readonly grantsInUse: number;
    };

const HEARD_MS = 10;

const say = (said: GuestSays): void => void process.send?.(said);

async function work({ directory, domid, devid, depth, seed, options }: GuestArguments): Promise<void> {
  const guest = await joinGuest(directory, domid, devid, options);
  const { disk } = guest;
  const failed = new Promise<never>((_, reject) => {
    disk.onFailure = reject;
  });
  const workload = new Workload(disk, { operations: Number.POSITIVE_INFINITY, depth, seed });
  let timer: NodeJS.Timeout | undefined;
  process.on("message", (heard: GuestHears) => {
    clearInterval(timer);
    if (heard.say === "end") return workload.stop();
    // What the dead one has said is heard first.
    setTimeout(() => {
      const before = disk.counters.responses;
      say({ event: "watching" });
      timer = setInterval(() => {
        if (disk.counters.responses === before) return;
        clearInterval(timer);
        say({ event: "first", at: monotonicMs() });
      }, 1);
    }, HEARD_MS);
  });
  say({ event: "working" });
  await Promise.race([workload.run(), failed]);
  const hash = createHash("sha256");
  await disk.flush();
  await workload.verifyAll((data) => hash.update(data));
  disk.onFailure = null;
  const { reads, writes, flushes, discards } = workload.result;
  const operations = reads + writes + flushes + discards;
  const { grantsInUse } = await guest.stop();
  say({ event: "verified", operations, sha256: hash.digest("hex"), grantsInUse });
  process.disconnect();
}

await work(JSON.parse(process.argv[2]) as GuestArguments);
