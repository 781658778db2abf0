/** What the hypervisor's sessions share: domains, ports, and the slots of grant tables. */
import { rmSync } from "node:fs";
import { makeFifo } from "../libc.js";
import { Arbiter, type Handle, type PortSpace } from "./arbiter.js";
import { ringOnce } from "./doorbell.js";
import type { HostedDomain } from "./hosted-domain.js";
import { paths } from "./layout.js";
import { SLOTS } from "./maptrack.js";
import { HypervisorError } from "./wire.js";

const RETRY_MS = 1;

export class Machine {
  readonly directory: string;
  readonly domains = new Map<number, HostedDomain>();
  readonly arbiter: Arbiter;
  readonly #freeSlots = Array.from({ length: SLOTS }, (_, i) => SLOTS - 1 - i);
  #nextHandle = 1;
  #stopped = false;

  constructor(directory: string) {
    this.directory = directory;
    this.arbiter = new Arbiter((handle, port) => ringOnce(directory, handle, port));
  }

  domain(domid: number): HostedDomain {
    const domain = this.domains.get(domid);
    if (domain === undefined) throw new HypervisorError("ESRCH", `domain does not exist: ${domid}`);
    return domain;
  }

  openHandle(space: PortSpace): Handle {
    const id = this.#nextHandle++;
    makeFifo(paths.doorbell(this.directory, id));
    return { id, space, ports: new Set(), queued: new Set() };
  }

  closeHandle(handle: Handle): void {
    rmSync(paths.doorbell(this.directory, handle.id), { force: true });
    this.arbiter.closeHandle(handle);
  }

  takeSlot(): number {
    const slot = this.#freeSlots.pop();
    if (slot === undefined) throw new HypervisorError("ENOSPC", `all ${SLOTS} grant tables are open`);
    return slot;
  }

  /** Takes away every pin of a slot, and gives the slot out again when that is done. */
  returnSlot(slot: number): void {
    if (this.#stopped) return;
    let complete = true;
    for (const { track, entries } of this.domains.values()) {
      if (!track.releaseSlot(entries, slot)) complete = false;
    }
    if (complete) this.#freeSlots.push(slot);
    else setTimeout(() => this.returnSlot(slot), RETRY_MS);
  }

  /** Closes the domain's ports and takes its files away. */
  destroy(domain: HostedDomain, handles: Iterable<Handle>): void {
    for (const handle of handles) if (handle.space === domain) this.closeHandle(handle);
    this.domains.delete(domain.domid);
    domain.remove();
  }

  stop(): void {
    this.#stopped = true;
  }
}
