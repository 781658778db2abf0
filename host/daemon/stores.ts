/**
 * Which vbd has which disk, over all that this daemon serves: Xen's rules for sharing (a disk that somebody writes has
 * one user, unless the mode says "!" or the users are one virtual machine). What a vbd was given is its own until it is
 * removed, whether a frontend is connected or not: from GRUB to Linux, or over a kexec, nobody else can take it.
 */
import { constants } from "node:os";
import type { Domain, Xenstore } from "../platform/ports.js";
import { DEFAULT_CAPS } from "../reactor/capped.js";
import { Place } from "../storage/calls/place.js";
import type { BlockDevice, Outage } from "../storage/device.js";
import { identityOf, placesOf, type Use, usesOf } from "../storage/disk.js";
import { DeviceError, errnoOf, type OpenOptions, refusal } from "../storage/open.js";
import type { Prepared } from "../vbd/exchange.js";
import { type VbdId, vbdName } from "../vbd/name.js";
import { DiskGone, StillUsed } from "../vbd/snapshot.js";
import type { Open } from "../vbd/store-opener.js";
import { GuestDomains } from "./guest-domains.js";
import type { HelperPlaces } from "./helper-places.js";
import {
  describeDifference,
  differenceFrom,
  type ImageRecord,
  type ImageRecords,
  identitiesOf,
} from "./image-records.js";
import type { OpenImage } from "./image-watch.js";
import { Incoming } from "./incoming.js";
import type { KeptDescriptors, VbdClaims } from "./kept-descriptors.js";
import type { KeptPlaces } from "./kept-places.js";
import type { OtherBackends } from "./other-backends.js";
import type { ReplacedImages } from "./replaced-images.js";

/** A vbd has the store, or is about to open it. */
interface Claim {
  readonly vbd: VbdId;
  /** The files or block devices themselves, whatever they are called; "" is nobody else's. */
  uses: readonly Use[];
  readonly path: string;
  readonly readOnly: boolean;
  /** The disk is closed, and its locks are being given back; null before. */
  releasing: Promise<void> | null;
}

/** A vbd's disk, open from the hotplug script's question, or the first connection, to the vbd's removal. */
interface Held {
  readonly claim: Claim;
  /** As it was asked for; a snapshot may have replaced that: see {@link ReplacedImages}. */
  readonly named: string;
  readonly shared: boolean;
  readonly image: OpenImage;
  readonly device: BlockDevice;
  /** Closes the device for good. */
  readonly end: () => Promise<void>;
  /** A connection uses it; settles when it does no more. */
  inUse: Promise<void> | null;
  /** False once the vbd is to be without it: it ends when no connection uses it. */
  kept: boolean;
}

/** What is done while a vbd's disk is closed and opened again; each may reject with why it is not to be opened like this. */
export interface Between {
  /** What {@link Stores.releasesOf} said when the operation began. */
  readonly releases: number;
  /** Before it is closed, when no connection uses it any more. */
  readonly closing?: () => Promise<void>;
  readonly closed?: (device: BlockDevice | null) => Promise<void>;
}

export interface StoresOptions {
  /** None are kept, where it is left out. */
  readonly records?: ImageRecords;
  /** Of one domain. */
  readonly maxVbds?: number | undefined;
  /** Left out without a service manager. */
  readonly descriptors?: KeptDescriptors | undefined;
  /** No other backends are looked at, where it is left out. */
  readonly others?: OtherBackends;
  /** Unflushed writes end with this process, where it is left out. */
  readonly kept?: KeptPlaces;
  /** Helper programs end with this process, where it is left out. */
  readonly helpers?: HelperPlaces;
  /** Where it is left out, or says nothing, the domains of one guest that migrates within this host share a disk. */
  readonly isSuspended?: Domain["isSuspended"];
  /** No image is taken to have been replaced, where it is left out. */
  readonly replaced?: ReplacedImages;
}

/** Opening a disk takes longer than this only where its storage is in trouble. */
const SLOW_MS = 5000;

export class Stores {
  /** Whom the disks are for. */
  readonly guests: GuestDomains;
  readonly #open: Open;
  /** In the order in which they came. */
  readonly #claims = new Set<Claim>();
  readonly #held = new Map<string, Held>();
  /** What is under way for each vbd: one thing at a time, however long it takes. */
  readonly #tails = new Map<string, Promise<unknown>>();
  /** By the vbd's name: see {@link releasesOf}. */
  readonly #releases = new Map<string, number>();
  /** By the vbd's name, the disk that is being opened or closed, and since when, in milliseconds since 1970. */
  readonly #pending = new Map<string, { readonly path: string; readonly since: number }>();
  readonly #records: ImageRecords | null;
  readonly #maxVbds: number;
  readonly #descriptors: KeptDescriptors | null;
  readonly #others: OtherBackends | null;
  readonly #kept: KeptPlaces | null;
  readonly #helpers: HelperPlaces | null;
  readonly #incoming: Incoming;
  readonly #replaced: ReplacedImages | null;
  #keeping = true;
  #closed = false;

  constructor(xenstore: Xenstore, open: Open, options: StoresOptions = {}) {
    this.guests = new GuestDomains(xenstore, options.isSuspended ?? (async () => null));
    this.#open = open;
    this.#records = options.records ?? null;
    this.#maxVbds = options.maxVbds ?? DEFAULT_CAPS.vbds;
    this.#descriptors = options.descriptors ?? null;
    this.#others = options.others ?? null;
    this.#kept = options.kept ?? null;
    this.#helpers = options.helpers ?? null;
    this.#incoming = new Incoming((domid) => this.guests.nameOf(domid));
    this.#replaced = options.replaced ?? null;
  }

  /**
   * A vbd's disk for a connection: the one that is held, with its size as it is now, or else opened. It is the
   * connection's until that closes it, and then held for the vbd's next one. Rejects with a {@link DeviceError}.
   */
  open(path: string, options: OpenOptions, vbd: VbdId): Promise<BlockDevice> {
    return this.#inTurn(vbd, async () => {
      const held = await this.#hold(path, options, vbd);
      // Whoever follows no resize must hear the right size at first.
      if (held.inUse === null) await held.device.refreshSize();
      return this.#lend(held, vbd);
    });
  }

  /**
   * Opens another disk beside the one that a connection of the vbd uses. Until it is taken it is nobody else's, and the
   * vbd has the other one; from then on, that is closed as soon as the connection gives it back. Rejects as `open` does.
   */
  prepare(path: string, options: OpenOptions, vbd: VbdId): Promise<Prepared> {
    return this.#inTurn(vbd, async () => {
      const before = this.#heldFor(path, vbd);
      const claims = this.#descriptors?.beside(vbd);
      const using = this.#noting(vbd, path, () => this.#use(path, options, vbd, claims));
      const fresh = await using.catch(async (error: unknown) => {
        if (claims) await this.#descriptors?.release(vbd, claims);
        throw error;
      });
      return {
        device: fresh.device,
        take: () => {
          if (this.#held.get(vbdName(vbd)) !== before || !before.kept || this.#closed) return null;
          this.#record(fresh);
          if (claims) this.#descriptors?.replace(vbd, claims);
          before.kept = false;
          this.#held.set(vbdName(vbd), fresh);
          return this.#lend(fresh, vbd);
        },
        drop: fresh.end,
      };
    });
  }

  /**
   * Closes a vbd's disk, which no connection is to use any more, and opens it again for one: it may be another one by then.
   * Rejects with {@link StillUsed} or {@link DiskGone}, and nothing was done; or as `open` or what is done meanwhile does, and the
   * disk is closed.
   */
  reopen(
    path: string,
    options: OpenOptions,
    vbd: VbdId,
    { releases, closing = async () => {}, closed = async () => {} }: Between,
  ): Promise<BlockDevice> {
    return this.#inTurn(vbd, async () => {
      if (releases !== this.releasesOf(vbd))
        throw new DiskGone(constants.errno.ENODEV, path, "the disk was closed meanwhile");
      const before = this.#held.get(vbdName(vbd)) ?? null;
      if (before && before.inUse !== null)
        throw new StillUsed(constants.errno.EBUSY, path, "the guest is just connecting; try again");
      try {
        await closing();
      } finally {
        // Also where it has failed: nobody is to get a disk with which something is half done.
        if (before) await this.#end(before, vbd);
      }
      await closed(before?.device ?? null);
      return this.#lend(await this.#hold(path, options, vbd), vbd);
    });
  }

  /** For a connection, until it closes the device. */
  #lend(held: Held, vbd: VbdId): BlockDevice {
    let returned = (): void => {};
    held.inUse = new Promise((resolve) => {
      returned = resolve;
    });
    held.device.close = async () => {
      try {
        // After a flush that failed, the next connection begins with a disk that is opened anew.
        if (!held.kept || !this.#keeping || (held.device.flushErrno ?? 0) !== 0) await this.#end(held, vbd);
      } finally {
        held.inUse = null;
        returned();
      }
    };
    return held.device;
  }

  /** Opens a vbd's disk, unless it is open, and keeps it until `release`. Rejects as `open` does. */
  async hold(path: string, options: OpenOptions, vbd: VbdId): Promise<void> {
    await this.#inTurn(vbd, () => this.#hold(path, options, vbd));
  }

  /** The disk that is open for a vbd; null where none is. */
  deviceOf(vbd: VbdId): BlockDevice | null {
    return this.#held.get(vbdName(vbd))?.device ?? null;
  }

  /**
   * The disk that is open for a vbd; what it was opened by, where a snapshot has replaced what was asked for as well; and what
   * {@link releasesOf} says. Throws a {@link DeviceError} about `path` where none is open.
   */
  current(path: string, vbd: VbdId): { target: string; device: BlockDevice; releases: number } {
    const { claim, device } = this.#heldFor(path, vbd);
    return { target: claim.path, device, releases: this.releasesOf(vbd) };
  }

  #heldFor(path: string, vbd: VbdId): Held {
    const held = this.#held.get(vbdName(vbd));
    if (held) return held;
    throw new DeviceError(constants.errno.ENODEV, path, `${vbdName(vbd)} has no disk by now`);
  }

  /** The name of another vbd that has a file open, whatever for; null where none has. */
  async otherUser(path: string, vbd: VbdId): Promise<string | null> {
    const identity = await identityOf(path);
    const name = vbdName(vbd);
    for (const { vbd: other, uses } of this.#claims)
      if (vbdName(other) !== name && uses.some((use) => use.identity === identity)) return vbdName(other);
    return null;
  }

  /** What opening or closing a vbd's disk waits for, if that takes long; null where it does not. */
  outageOf(vbd: VbdId): Outage | null {
    const incoming = this.#incoming.outageOf(vbd);
    if (incoming) return incoming;
    const pending = this.#pending.get(vbdName(vbd));
    if (!pending) return null;
    const { path, since } = pending;
    for (const place of placesOf(path)) {
      const outage = Place.outageAt(place);
      if (outage) return outage;
    }
    return Date.now() - since < SLOW_MS ? null : { reason: `${path} is being opened or closed`, since };
  }

  /** What path led to it; null where none is open. */
  imageOf(vbd: VbdId): OpenImage | null {
    return this.#held.get(vbdName(vbd))?.image ?? null;
  }

  /** Of all vbds. */
  images(): OpenImage[] {
    return [...this.#held.values()].map(({ image }) => image);
  }

  /** The vbd is to be without its disk. Resolves when it is closed, or is to be closed by the connection that uses it. */
  release(vbd: VbdId): Promise<void> {
    this.#incoming.giveUp(vbd);
    this.#releases.set(vbdName(vbd), this.releasesOf(vbd) + 1);
    return this.#inTurn(vbd, async () => {
      const held = this.#held.get(vbdName(vbd));
      if (!held) {
        await this.#helpers?.end(vbd);
        return this.#descriptors?.release(vbd);
      }
      held.kept = false;
      if (held.inUse === null) await this.#end(held, vbd);
    });
  }

  /** How often the vbd was to be without its disk: what was begun before that is not to open one. */
  releasesOf(vbd: VbdId): number {
    return this.#releases.get(vbdName(vbd)) ?? 0;
  }

  /** The vbd is removed, or made anew: as `release`, and nothing is known of what it had. */
  async forget(vbd: VbdId): Promise<void> {
    await this.release(vbd);
    this.#records?.remove(vbd);
    this.#kept?.forget(vbd);
  }

  /** What connections give back is closed from now on: another process is to have it. */
  keepNothing(): void {
    this.#keeping = false;
    this.#descriptors?.leave();
  }

  /** Each disk is closed when its connection has ended. Nothing is opened any more. */
  async close(): Promise<void> {
    this.keepNothing();
    this.#closed = true;
    await Promise.all([...this.#held.values()].map(({ claim }) => this.release(claim.vbd)));
    await Promise.all(this.#tails.values());
  }

  /** Names of the vbds whose disks are open, or being opened or closed. */
  get unreleased(): string[] {
    return [...new Set([...this.#held.keys(), ...this.#tails.keys()])];
  }

  #inTurn<T>(vbd: VbdId, work: () => Promise<T>): Promise<T> {
    const name = vbdName(vbd);
    const turn = (this.#tails.get(name) ?? Promise.resolve()).then(work);
    const tail = turn
      .catch(() => {})
      .then(() => {
        if (this.#tails.get(name) === tail) this.#tails.delete(name);
      });
    this.#tails.set(name, tail);
    return turn;
  }

  async #hold(path: string, options: OpenOptions, vbd: VbdId): Promise<Held> {
    const name = vbdName(vbd);
    const { readOnly, shared = false } = options;
    // A vbd of this name that was removed gives its disk back first.
    let held = this.#held.get(name);
    if (held?.kept === false) await held.inUse;
    held = this.#held.get(name);
    if (held) {
      const { claim, named } = held;
      if (named === path && claim.readOnly === readOnly && held.shared === shared) return held;
      if (held.inUse !== null)
        throw new DeviceError(constants.errno.EBUSY, path, `${name} still uses ${claim.path}`);
      await this.#end(held, vbd);
    }
    if (this.#closed) throw new DeviceError(constants.errno.EBUSY, path, "the daemon is stopping");
    const claims = this.#descriptors?.of(vbd);
    const using = (): Promise<Held> => this.#openAs(path, options, vbd, claims);
    const warn = options.warn ?? (() => {});
    const fresh = await this.#noting(vbd, path, () => this.#incoming.open(vbd, using, warn));
    try {
      this.#record(fresh);
    } catch (error) {
      await fresh.end();
      throw await refusal(path, errnoOf(error));
    }
    this.#held.set(name, fresh);
    return fresh;
  }

  /** What is asked for, or what has replaced it. */
  async #openAs(
    path: string,
    options: OpenOptions,
    vbd: VbdId,
    claims: VbdClaims | undefined,
  ): Promise<Held> {
    const { readOnly, warn = console.warn } = options;
    const target =
      (await this.#replaced?.follow(path, readOnly, () => this.guests.diskOf(vbd), warn)) ?? path;
    const lasting = await this.#lasting(target, options, vbd);
    const held = await this.#use(target, lasting, vbd, claims);
    // Nobody writes the base now. The mark that remains where it cannot be written does no harm.
    if (!options.writesBase)
      await this.#replaced?.settle(target).catch(({ message }: Error) => warn(`${target}: ${message}`));
    return { ...held, named: path };
  }

  /** With a place for a helper that outlives this process. A disk beside another of the same vbd has none. */
  async #lasting(path: string, options: OpenOptions, vbd: VbdId): Promise<OpenOptions> {
    if (!this.#helpers) return options;
    const helperPlace = this.#helpers.of(vbd);
    // Of another disk, which a vbd of this name had under another daemon; or one that was writing the base of this disk.
    if (!this.#records?.read(vbd, path) || helperPlace.takesJobs) await this.#helpers.end(vbd);
    return { ...options, helperPlace };
  }

  #record({ claim, image: { bases } }: Held): void {
    const { vbd, path, readOnly, uses } = claim;
    this.#records?.write(vbd, path, readOnly, uses, bases);
  }

  async #end(held: Held, vbd: VbdId): Promise<void> {
    const name = vbdName(vbd);
    try {
      await this.#noting(vbd, held.claim.path, held.end);
    } finally {
      if (this.#held.get(name) === held) this.#held.delete(name);
    }
  }

  async #noting<T>(vbd: VbdId, path: string, work: () => Promise<T>): Promise<T> {
    this.#pending.set(vbdName(vbd), { path, since: Date.now() });
    try {
      return await work();
    } finally {
      this.#pending.delete(vbdName(vbd));
    }
  }

  async #use(path: string, options: OpenOptions, vbd: VbdId, claims: VbdClaims | undefined): Promise<Held> {
    const { readOnly } = options;
    const record = this.#records?.read(vbd, path) ?? null;
    await claims?.inherit(record?.readOnly === readOnly ? filesOf(record, await usesOf(path, readOnly)) : []);
    const look = async (bases: readonly string[] = []): Promise<Use[]> => {
      const uses = await usesOf(path, readOnly, bases);
      // An overlay's base comes after it.
      if (options.writesBase) uses[1] = { ...uses[1], readOnly: false };
      return claims?.own(uses) ?? uses;
    };
    const claim: Claim = { vbd, uses: await look(record?.bases), path, readOnly, releasing: null };
    // Before it is opened: a server lets two in that come at the same time.
    this.#claims.add(claim);
    try {
      // Before anything is opened or made.
      if (record) checkSame(record, claim.uses);
      const again = record !== null;
      // What a guest had before this process began is its own in any case.
      if (!again) this.#checkCount(claim);
      const shared = options.shared || (await this.#sharedWith(claim));
      if (!again && !options.shared) await this.#checkOthers(claim);
      const how = { ...options, shared, again, ...(claims && { claims }) };
      const device = await this.#open(path, { ...how, ...(await this.#known(vbd, path, again)) }, vbd);
      const { bases = [] } = device;
      try {
        // Opening may have made a file, and has shown an image's bases.
        claim.uses = await look(bases);
        if (record?.bases) checkSame(record, claim.uses);
      } catch (error) {
        await device.close();
        throw error instanceof DeviceError ? error : await refusal(path, errnoOf(error));
      }
      const close = device.close.bind(device);
      const end = async (): Promise<void> => {
        try {
          await close();
          // What is left to the next daemon is empty, or what could not be flushed.
          if (this.#keeping) this.#kept?.remove(this.#kept.of(vbd, path, false));
        } finally {
          const released = claims ? this.#descriptors?.release(vbd, claims) : undefined;
          claim.releasing = (released ?? Promise.resolve()).finally(() => this.#claims.delete(claim));
          await claim.releasing;
        }
      };
      const locked = claims !== undefined && claim.uses.every((use) => claims.get(use.path) !== null);
      const image: OpenImage = {
        vbd,
        path,
        readOnly,
        bases,
        kept: locked,
        identities: identitiesOf(claim.uses),
      };
      return {
        claim,
        named: path,
        shared: options.shared ?? false,
        image,
        device,
        end,
        inUse: null,
        kept: true,
      };
    } catch (error) {
      await claims?.undo();
      this.#claims.delete(claim);
      throw error;
    }
  }

  /** What opening a vbd's disk is to know of the vbd. */
  async #known(
    vbd: VbdId,
    path: string,
    again: boolean,
  ): Promise<Pick<OpenOptions, "user" | "deviceModel" | "kept">> {
    const user = vbd.domid * 2 ** 32 + vbd.devid;
    const deviceModel = await this.guests.hasDeviceModel(vbd.domid);
    return { user, deviceModel, ...(this.#kept && { kept: this.#kept.of(vbd, path, again) }) };
  }

  /** Throws when the domain has as many disks as it may, before it is promised one that it would never get. */
  #checkCount(claim: Claim): void {
    const { vbd, path } = claim;
    const others = new Set<number>();
    for (const other of this.#claims) {
      // Those behind it came later.
      if (other === claim) break;
      // A disk that is exchanged is one disk.
      if (other.vbd.domid === vbd.domid && other.vbd.devid !== vbd.devid) others.add(other.vbd.devid);
    }
    if (others.size < this.#maxVbds) return;
    const why = `domain ${vbd.domid} has ${others.size} disks, as many as it may`;
    throw new DeviceError(
      constants.errno.EDQUOT,
      path,
      `${why}: detach a disk, or serve with a higher --max-vbds`,
    );
  }

  /** Throws EBUSY when another backend has the disk for another machine. */
  async #checkOthers(claim: Claim): Promise<void> {
    const { vbd, path } = claim;
    for (const other of (await this.#others?.disks()) ?? []) {
      if (!conflict(claim, other) || (await this.guests.areOneMachine(other.domid, vbd.domid))) continue;
      const why = `in use by ${other.name}, a disk of domain ${other.domid} that another backend serves`;
      throw new DeviceError(constants.errno.EBUSY, path, `${why}; detach it there first`);
    }
  }

  /** True when the same machine has the store already. Throws EBUSY when another one is in the way. */
  async #sharedWith(claim: Claim): Promise<boolean> {
    let same = false;
    for (const other of this.#claims) {
      // Those behind it came later, and see it.
      if (other === claim) break;
      if (!conflict(claim, other)) continue;
      await other.releasing;
      if (!this.#claims.has(other)) continue;
      const pair = [other.vbd.domid, claim.vbd.domid] as const;
      if (!(await this.guests.areOneMachine(...pair)) || (await this.guests.takeTurns(...pair)))
        throw inUse(claim.path, other);
      same = true;
    }
    return same;
  }
}

/** Throws when a path leads to another file by now than to the one that the vbd has had. */
function checkSame(record: ImageRecord, uses: readonly Use[]): void {
  const difference = differenceFrom(record, uses);
  if (difference) throw new DeviceError(constants.errno.ESTALE, record.path, describeDifference(difference));
}

/** The files that a vbd has had, with the paths that led to them. */
function filesOf({ identities }: ImageRecord, uses: readonly Use[]): { path: string; identity: string }[] {
  return uses.map(({ path }, i) => ({ path, identity: identities[i] ?? "" }));
}

function conflict(one: Pick<Claim, "uses">, other: Pick<Claim, "uses">): boolean {
  return one.uses.some(({ identity, readOnly }) =>
    other.uses.some((use) => identity !== "" && identity === use.identity && !(readOnly && use.readOnly)),
  );
}

function inUse(path: string, { vbd }: Claim): DeviceError {
  const name = `${vbdName(vbd)}, a disk of domain ${vbd.domid}`;
  return new DeviceError(constants.errno.EBUSY, path, `in use by ${name}; detach it there first`);
}
