/** The platforms behind the ports, and how a process (or one of its threads) joins one. */
import { xenstoreSocket } from "./loopback/host.js";
import { openDomain as openLoopbackDomain, startMachine } from "./loopback/index.js";
import type { Domain, Xenstore } from "./ports.js";
import { openXenDomain } from "./xen/domain.js";
import { ownDomid } from "./xen/find.js";
import { connectXen } from "./xen/xenstore.js";
import { connectXenstore } from "./xenstore/client.js";

/** A domain of a loopback machine. */
export interface LoopbackPlatform {
  readonly kind: "loopback";
  /** The machine's directory. */
  readonly directory: string;
  readonly domid: number;
}

/** The domain of Xen's that this process runs in. */
export interface XenPlatform {
  readonly kind: "xen";
  readonly domid: number;
}

/** Plain data, so that it can go to another thread. */
export type Platform = LoopbackPlatform | XenPlatform;

/** The Xen below this process. Rejects with a NoXenError that says what is missing. */
export async function findXen(): Promise<XenPlatform> {
  return { kind: "xen", domid: await ownDomid() };
}

/** Joins a domain's hypervisor. Rejects with an error that says what is amiss. */
export async function openDomain(platform: Platform): Promise<Domain> {
  if (platform.kind === "xen") return openXenDomain(platform.domid);
  return openLoopbackDomain(platform.directory, platform.domid);
}

/** Connects to the xenstored of a machine, with a domain's permissions. */
export function openXenstore(platform: Platform): Promise<Xenstore> {
  if (platform.kind === "xen") return connectXen();
  const { directory, domid } = platform;
  return connectXenstore(xenstoreSocket(directory, domid), startMachine(directory));
}
