/** A process' way into Xen: the kernel's devices, as one of the processes of this domain. */
import type { Domain } from "../ports.js";
import { DomainStates } from "./domain-states.js";
import { XenEventChannels } from "./event-channels.js";
import { XenGrantTable } from "./grant-table.js";

/** Handles on this domain's devices; each call opens a file of its own. */
export function openXenDomain(domid: number): Domain {
  const states = new DomainStates();
  return {
    domid,
    eventChannels: async () => new XenEventChannels(),
    grantTable: async () => new XenGrantTable(),
    isSuspended: async (other) => states.isSuspended(other),
    close: async () => states.close(),
  };
}
