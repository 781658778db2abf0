/** How a ring is begun: anew, or where another process was killed or has handed it over (docs/restart.md). */
import { setTimeout as sleep } from "node:timers/promises";
import { ATTACH_BAD_JOURNAL, ATTACH_BAD_RING, ATTACH_OK } from "../../assembly/abi.js";
import type { BlkifCore, RingConfig } from "../core/blkif.js";
import type { EventChannels } from "../platform/ports.js";

/**
 * - `attach`: the frontend has made the ring anew.
 * - `recover`: another process has left a journal, which lies in the memory.
 * - `resume`: there is no journal, and the frontend goes on with the ring: that works while nothing is in flight.
 */
export type Start = "attach" | "recover" | "resume";

/** The ring is not what it must be. To try again would not help. */
export class RingError extends Error {}

/** The kernel, or the loopback hypervisor, closes the ports of a dead process a little after its files. */
const BIND_MS = 5000;
const BIND_RETRY_MS = 2;

/** Starts the core on the ring that is mapped. Throws a {@link RingError}. */
export function begin(core: BlkifCore, config: RingConfig, start: Start): void {
  const unanswered = (core.reqProd - core.rspProd) >>> 0;
  if (start === "resume" && unanswered !== 0) {
    throw new RingError(
      `${unanswered} requests wait for responses, and there is no journal of the responses already given`,
    );
  }
  const code = start === "recover" ? core.recover(config) : core.attach(config);
  if (code === ATTACH_BAD_RING) throw new RingError("req_prod is more than a ring ahead of rsp_prod");
  if (code === ATTACH_BAD_JOURNAL) throw new RingError("the journal is damaged, or not this ring's");
  if (code !== ATTACH_OK) throw new RingError(`the core rejected its configuration (${code})`);
}

/** Binds a ring's event channel; one that a dead process had is waited for, a bounded time. */
export async function bind(
  events: EventChannels,
  domid: number,
  remotePort: number,
  start: Start,
): Promise<number> {
  const end = performance.now() + (start === "attach" ? 0 : BIND_MS);
  for (;;) {
    try {
      return await events.bindInterdomain(domid, remotePort);
    } catch (error) {
      if (performance.now() >= end) throw error;
      await sleep(BIND_RETRY_MS);
    }
  }
}
