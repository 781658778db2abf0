/** A process' way into the loopback hypervisor: it becomes a process of one domain. */
import type { Domain, GuestPages } from "../ports.js";
import { Connection } from "./connection.js";
import { refuseForeign } from "./directory.js";
import { LoopbackEventChannels } from "./event-channels.js";
import { LoopbackGrantTable } from "./grant-table.js";
import { LoopbackGuestPages } from "./guest-pages.js";

/** A domain as a process of its own sees it; the guest's side has its memory, too. */
export interface LoopbackDomain extends Domain {
  /** The domain's own memory. Rejects with EBUSY while another process has it. */
  pages(): Promise<GuestPages>;
}

/** Joins domain `domid` of the hypervisor in `directory`. Rejects with a HypervisorError that says what is amiss. */
export async function openDomain(directory: string, domid: number): Promise<LoopbackDomain> {
  refuseForeign(directory);
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
    async isSuspended(domid) {
      return (await connection.request("isSuspended", { domid }))["suspended"] === true;
    },
    async pages() {
      await connection.request("openPages");
      return new LoopbackGuestPages(directory, domid, () => connection.release("closePages"));
    },
    close: () => connection.close(),
  };
}
