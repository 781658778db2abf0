/** The platforms behind the ports, and how a process (or one of its threads) joins one. */
import { xenstoreSocket } from "./loopback/host.js";
import { openDomain as openLoopbackDomain } from "./loopback/index.js";
import type { Domain, Xenstore } from "./ports.js";
import { connectXenstore } from "./xenstore/client.js";

/** A domain of a machine. Plain data, so that it can go to another thread. */
export interface Platform {
  readonly kind: "loopback";
  /** The loopback machine's directory. */
  readonly directory: string;
  readonly domid: number;
}

/** Joins a domain's hypervisor. Rejects with an error that says what is amiss. */
export function openDomain({ directory, domid }: Platform): Promise<Domain> {
  return openLoopbackDomain(directory, domid);
}

/** Connects to the xenstored of a machine, with a domain's permissions. */
export function openXenstore({ directory, domid }: Platform): Promise<Xenstore> {
  return connectXenstore(xenstoreSocket(directory, domid));
}
