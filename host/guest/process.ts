/** A guest as a process of its own on the loopback platform: joins its domain and connects its disk. */

import { xenstoreSocket } from "../platform/loopback/host.js";
import { openDomain, startMachine } from "../platform/loopback/index.js";
import { connectXenstore } from "../platform/xenstore/client.js";
import { type Blkfront, type BlkfrontOptions, connectBlkfront, type GuestPlatform } from "./blkfront.js";

export interface GuestProcess {
  readonly disk: Blkfront;
  /** Closes the disk as a guest that shuts down does, and leaves the domain. Tells how many grants leaked. */
  stop(): Promise<{ grantsInUse: number }>;
}

export interface GuestDomain extends GuestPlatform {
  /** After the last disk is closed. */
  leave(): Promise<void>;
}

/** Becomes a guest of the machine in `directory`. */
export async function joinDomain(directory: string, domid: number): Promise<GuestDomain> {
  const domain = await openDomain(directory, domid);
  const opening = [
    domain.pages(),
    domain.eventChannels(),
    connectXenstore(xenstoreSocket(directory, domid), startMachine(directory)),
  ] as const;
  const [pages, events, xenstore] = await Promise.all(opening).catch(async (error: Error) => {
    // What is left open would keep the process alive.
    for (const part of await Promise.allSettled(opening)) {
      if (part.status === "fulfilled") await part.value.close();
    }
    await domain.close();
    throw error;
  });
  return {
    ...{ pages, events, xenstore },
    async leave() {
      await events.close();
      await pages.close();
      xenstore.close();
      await domain.close();
    },
  };
}

export async function joinGuest(
  directory: string,
  domid: number,
  devid: number,
  options: Partial<BlkfrontOptions>,
): Promise<GuestProcess> {
  const domain = await joinDomain(directory, domid);
  const disk = await connectBlkfront(domain, devid, options).catch(async (error: Error) => {
    await domain.leave();
    throw error;
  });
  return {
    disk,
    async stop() {
      try {
        return await disk.close();
      } finally {
        await domain.leave();
      }
    },
  };
}
