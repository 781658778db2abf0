/** A process' way into the loopback hypervisor: it becomes a process of one domain. */
import type { EventChannels, GrantTable, GuestPages } from "../ports.js";
import { Connection } from "./connection.js";
import { LoopbackEventChannels } from "./event-channels.js";
import { LoopbackGrantTable } from "./grant-table.js";
import { LoopbackGuestPages } from "./guest-pages.js";

/**
 * Each call opens a handle of its own. What is open when the process ends, however it ends, the hypervisor
 * closes: ports, mappings, and the claim on the guest's memory.
 */
export interface LoopbackDomain {
  readonly domid: number;
  /** A handle on event channels, which gets the events of its own ports only. */
  eventChannels(): Promise<EventChannels>;
  /** Access to what other domains grant to this one. */
  grantTable(): Promise<GrantTable>;
  /** The domain's own memory. Rejects with EBUSY while another process has it. */
  pages(): Promise<GuestPages>;
  /** To be called when the handles are closed. */
  close(): Promise<void>;
}

/** Joins domain `domid` of the hypervisor in `directory`. Rejects with a HypervisorError that says what is amiss. */
export async function openDomain(directory: string, domid: number): Promise<LoopbackDomain> {
  const connection = await Connection.open(directory);
  try {
    await connection.request("hello", { domid });
  } catch (error) {
    await connection.close();
    throw error;
  }
  return {
    domid,
    async eventChannels() {
      const { handle } = await connection.request("openEvtchn");
      return new LoopbackEventChannels(directory, domid, connection, handle as number);
    },
    async grantTable() {
      const { slot } = await connection.request("openGntdev");
      const release = () => void connection.release("closeGntdev", { slot });
      return new LoopbackGrantTable(directory, domid, slot as number, release);
    },
    async pages() {
      await connection.request("openPages");
      return new LoopbackGuestPages(directory, domid, () => connection.release("closePages"));
    },
    close: () => connection.close(),
  };
}
