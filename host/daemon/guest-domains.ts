/** What xenstore has of the domains that disks are for: the toolstack's keys, which no guest writes. */
import { type Domain, type Xenstore, XenstoreError } from "../platform/ports.js";
import type { VbdId } from "../vbd/name.js";
import { bootId, type GuestDisk } from "./replaced-images.js";

export class GuestDomains {
  readonly #xenstore: Xenstore;
  readonly #isSuspended: Domain["isSuspended"];

  constructor(xenstore: Xenstore, isSuspended: Domain["isSuspended"]) {
    this.#xenstore = xenstore;
    this.#isSuspended = isSuspended;
  }

  /** The toolstack's name of a domain; null where it cannot be read. */
  nameOf(domid: number): Promise<string | null> {
    return this.#readable(`/local/domain/${domid}/name`);
  }

  /** By what a vbd's disk is known at the guest's next start, too. */
  async diskOf({ domid, devid }: VbdId): Promise<GuestDisk> {
    const [name, vm] = await Promise.all([this.nameOf(domid), this.#vmOf(domid)]);
    return { domid, devid, name, vm, boot: bootId() };
  }

  /** libxl's word; in a driver domain, where it cannot be read, there is no QEMU either. */
  async hasDeviceModel(domid: number): Promise<boolean> {
    return (await this.#readable(`/libxl/${domid}/type`)) === "hvm";
  }

  /** A guest that migrates within this host: the domain that it leaves releases the disk when it is suspended. */
  async takeTurns(one: number, other: number): Promise<boolean> {
    const [ones, others] = await Promise.all([this.#targetOf(one), this.#targetOf(other)]);
    return ones === null && others === null && (await this.#isSuspended(one)) !== null;
  }

  /** A guest and the stub domain that runs its device model are one machine, and so is a guest that migrates here. */
  async areOneMachine(one: number, other: number): Promise<boolean> {
    if (one === other) return false;
    const machines = await this.#machinesOf(one);
    return (await this.#machinesOf(other)).some((machine) => machines.includes(machine));
  }

  /** The /vm/UUID of a domain, and of the one that it is a stub domain for. None where they cannot be read. */
  async #machinesOf(domid: number): Promise<string[]> {
    const target = await this.#targetOf(domid);
    const domids = target === null ? [domid] : [domid, target];
    const machines = await Promise.all(domids.map((id) => this.#vmOf(id)));
    return machines.filter((machine) => machine !== null);
  }

  #vmOf(domid: number): Promise<string | null> {
    return this.#readable(`/local/domain/${domid}/vm`);
  }

  /** The domain that one is a stub domain for; null where it is none. */
  async #targetOf(domid: number): Promise<number | null> {
    const target = await this.#readable(`/local/domain/${domid}/target`);
    return target !== null && /^[0-9]{1,5}$/.test(target) ? Number(target) : null;
  }

  /** A key; null where a driver domain may not read it. */
  #readable(path: string): Promise<string | null> {
    return this.#xenstore.read(path).catch((error: unknown) => {
      if (error instanceof XenstoreError) return null;
      throw error;
    });
  }
}
