/** Where the loopback hypervisor keeps things: one directory D, and the shapes of the files in it. */
import { accessSync, constants } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** The paths in a hypervisor's directory. */
export const paths = {
  /** Locked (flock) as long as the hypervisor lives; holds its process id. */
  lock: (directory: string) => join(directory, "lock"),
  /** Unix socket: one JSON object a line, see session.ts. */
  socket: (directory: string) => join(directory, "hypervisor"),
  domains: (directory: string) => join(directory, "domains"),
  domain: (directory: string, domid: number) => join(directory, "domains", `${domid}`),
  /** The guest's pages. */
  memory: (directory: string, domid: number) => join(directory, "domains", `${domid}`, "memory"),
  /** The guest's grant table, which it writes itself: see gnttab.ts. */
  gnttab: (directory: string, domid: number) => join(directory, "domains", `${domid}`, "gnttab"),
  /** Who has which of the guest's grants in use: see maptrack.ts. */
  maptrack: (directory: string, domid: number) => join(directory, "domains", `${domid}`, "maptrack"),
  /** The guest's event channels: see evtchn-words.ts. */
  evtchn: (directory: string, domid: number) => join(directory, "domains", `${domid}`, "evtchn"),
  doorbells: (directory: string) => join(directory, "evtchn"),
  /** What the backend keeps of rings that are at work, beyond its own life. */
  images: (directory: string) => join(directory, "images"),
  keptWrites: (directory: string) => join(directory, "kept-writes"),
  replacedImages: (directory: string) => join(directory, "replaced-images"),
  helpers: (directory: string) => join(directory, "helpers"),
  journals: (directory: string) => join(directory, "journals"),
  /** FIFO of u32 port numbers: what a read of /dev/xen/evtchn would give to this handle. */
  doorbell: (directory: string, handle: number) => join(directory, "evtchn", `${handle}`),
};

/** Domain ids from here on are Xen's own (DOMID_FIRST_RESERVED of xen/include/public/xen.h). */
export const FIRST_RESERVED_DOMID = 0x7ff0;

/** Where a directory for a hypervisor is best made: memory where there is some, else the disk. */
export function runtimeParent(): string {
  try {
    accessSync("/dev/shm", constants.W_OK);
    return "/dev/shm";
  } catch {
    return tmpdir();
  }
}
