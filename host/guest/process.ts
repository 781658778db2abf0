/** A guest as a process of its own on the loopback platform: joins its domain and connects its disk. */

import { xenstoreSocket } from "../platform/loopback/host.js";
import { openDomain } from "../platform/loopback/index.js";
import { connectXenstore } from "../platform/xenstore/client.js";
import { type Blkfront, type BlkfrontOptions, connectBlkfront } from "./blkfront.js";

export interface GuestProcess {
  readonly disk: Blkfront;
  /** Closes the disk as a guest that shuts down does, and leaves the domain. Tells how many grants leaked. */
  stop(): Promise<{ grantsInUse: number }>;
}

export async function joinGuest(
  directory: string,
  domid: number,
  devid: number,
  options: Partial<BlkfrontOptions>,
): Promise<GuestProcess> {
  const domain = await openDomain(directory, domid);
  const [pages, events, xenstore] = await Promise.all([
    domain.pages(),
    domain.eventChannels(),
    connectXenstore(xenstoreSocket(directory, domid)),
  ]);
  const disk = await connectBlkfront({ pages, events, xenstore }, devid, options);
  return {
    disk,
    async stop() {
      const report = await disk.close();
      await events.close();
      await pages.close();
      xenstore.close();
      await domain.close();
      return report;
    },
  };
}
