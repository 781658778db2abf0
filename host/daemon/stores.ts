/**
 * Which vbd has which store, over all that this daemon serves: Xen's rules for sharing (a store that somebody writes has
 * one user, unless the mode says "!" or the users are one virtual machine), and stores that are held from the hotplug
 * script's question until their frontend connects.
 */
import { constants } from "node:os";
import type { Xenstore } from "../platform/ports.js";
import type { BlockDevice } from "../storage/device.js";
import { type Use, usesOf } from "../storage/disk.js";
import { DeviceError, type OpenOptions } from "../storage/open.js";
import { type VbdId, vbdName } from "../vbd/name.js";
import type { Open } from "../vbd/store-opener.js";

/** A vbd has the store, or is about to open it. */
interface Claim {
  readonly vbd: VbdId;
  /** The files or block devices themselves, whatever they are called; "" is nobody else's. */
  uses: readonly Use[];
  readonly path: string;
  readonly readOnly: boolean;
}

interface Held {
  readonly claim: Claim;
  readonly device: BlockDevice;
}

export class Stores {
  readonly #xenstore: Xenstore;
  readonly #open: Open;
  /** In the order in which they came. */
  readonly #claims = new Set<Claim>();
  readonly #held = new Map<string, Held>();

  constructor(xenstore: Xenstore, open: Open) {
    this.#xenstore = xenstore;
    this.#open = open;
  }

  /** Opens a vbd's store, or hands over what is held for it. Rejects with a {@link DeviceError}. */
  async open(path: string, options: OpenOptions, vbd: VbdId): Promise<BlockDevice> {
    const held = this.#held.get(vbdName(vbd));
    if (held) {
      this.#held.delete(vbdName(vbd));
      const { claim } = held;
      if (claim.path === path && claim.readOnly === options.readOnly) return held.device;
      await held.device.close();
    }
    return (await this.#use(path, options, vbd)).device;
  }

  /** Opens a vbd's store and keeps it until `open` asks for it or `release` lets it go. Rejects as `open` does. */
  async hold(path: string, options: OpenOptions, vbd: VbdId): Promise<void> {
    await this.release(vbd);
    this.#held.set(vbdName(vbd), await this.#use(path, options, vbd));
  }

  /** Lets go of what is held for a vbd. */
  async release(vbd: VbdId): Promise<void> {
    const held = this.#held.get(vbdName(vbd));
    this.#held.delete(vbdName(vbd));
    await held?.device.close();
  }

  async close(): Promise<void> {
    for (const { claim } of [...this.#held.values()]) await this.release(claim.vbd);
  }

  async #use(path: string, options: OpenOptions, vbd: VbdId): Promise<Held> {
    const { readOnly } = options;
    const claim: Claim = { vbd, uses: await usesOf(path, readOnly), path, readOnly };
    // Before it is opened: a server lets two in that come at the same time.
    this.#claims.add(claim);
    try {
      const shared = options.shared || (await this.#sharedWith(claim));
      const user = vbd.domid * 2 ** 32 + vbd.devid;
      const device = await this.#open(path, { ...options, shared, user }, vbd);
      // Opening may have made a file.
      claim.uses = await usesOf(path, readOnly);
      // Whoever has the device closes it; that is when it is free.
      const close = device.close.bind(device);
      device.close = () => close().finally(() => this.#claims.delete(claim));
      return { claim, device };
    } catch (error) {
      this.#claims.delete(claim);
      throw error;
    }
  }

  /** True when the same machine has the store already. Throws EBUSY when another one is in the way. */
  async #sharedWith(claim: Claim): Promise<boolean> {
    let same = false;
    for (const other of this.#claims) {
      // Those behind it came later, and see it.
      if (other === claim) break;
      if (!conflict(claim, other)) continue;
      if (!(await this.#sameMachine(other.vbd.domid, claim.vbd.domid))) throw inUse(claim.path, other);
      same = true;
    }
    return same;
  }

  /** A guest and the stub domain that runs its device model are one machine, and so is a guest that migrates here. */
  async #sameMachine(one: number, other: number): Promise<boolean> {
    if (one === other) return false;
    const machines = await this.#machinesOf(one);
    return (await this.#machinesOf(other)).some((machine) => machines.includes(machine));
  }

  /** The /vm/UUID of a domain, and of the one that it is a stub domain for. The toolstack's keys: no guest writes them. */
  async #machinesOf(domid: number): Promise<string[]> {
    const target = await this.#xenstore.read(`/local/domain/${domid}/target`);
    const domids = target !== null && /^[0-9]{1,5}$/.test(target) ? [domid, Number(target)] : [domid];
    const machines = await Promise.all(domids.map((id) => this.#xenstore.read(`/local/domain/${id}/vm`)));
    return machines.filter((machine) => machine !== null);
  }
}

function conflict(one: Claim, other: Claim): boolean {
  return one.uses.some(({ identity, readOnly }) =>
    other.uses.some((use) => identity !== "" && identity === use.identity && !(readOnly && use.readOnly)),
  );
}

function inUse(path: string, { vbd }: Claim): DeviceError {
  const name = `${vbdName(vbd)}, a disk of domain ${vbd.domid}`;
  return new DeviceError(constants.errno.EBUSY, path, `in use by ${name}; detach it there first`);
}
