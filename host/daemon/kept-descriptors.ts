/**
 * The open files with the disks' locks, in the service manager's descriptor store. They outlive this process there, so that
 * nobody takes an image between a kill and the next start, and a deleted image is kept. They do no I/O: what the next
 * process is given has the locks already, and would not tell it when the last I/O of this process has ended.
 */
import { constants, readlinkSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { FileLocks } from "../storage/calls/locks.js";
import { Place } from "../storage/calls/place.js";
import type { Claims } from "../storage/claims.js";
import type { Use } from "../storage/disk.js";
import { openFileIdentity } from "../storage/identity.js";
import { type VbdId, vbdName } from "../vbd/name.js";
import { identitiesOf } from "./image-records.js";
import type { ServiceManager } from "./service-manager.js";

/** How long the service manager may take to close what it was told to remove. */
const REMOVAL_MS = 2000;
const POLL_MS = 2;

type Manager = Pick<ServiceManager, "storeDescriptor" | "removeDescriptors" | "inherited">;

export class KeptDescriptors {
  readonly #manager: Manager;
  readonly #vbds = new Map<string, VbdClaims>();
  /** By name; while a vbd's disk is exchanged there are two. */
  readonly #all = new Map<string, Set<VbdClaims>>();
  #leaving = false;

  /** Takes what an earlier process has left; names are those of vbds. */
  constructor(manager: Manager) {
    this.#manager = manager;
    for (const { name, fd } of manager.inherited)
      if (name.startsWith("xbdback")) this.#of(name).inherited.push(fd);
  }

  of(vbd: VbdId): VbdClaims {
    return this.#of(vbdName(vbd));
  }

  /** For a disk that is opened while the vbd still has another one. */
  beside(vbd: VbdId): VbdClaims {
    return this.#make(vbdName(vbd));
  }

  /** The vbd has that disk from now on; the other one's are to be released. */
  replace(vbd: VbdId, claims: VbdClaims): void {
    this.#vbds.set(vbdName(vbd), claims);
  }

  /** The vbd is without its disk, or without the one whose claims they are. Resolves when nobody has its locks any more. */
  async release(vbd: VbdId, claims = this.#vbds.get(vbdName(vbd))): Promise<void> {
    const name = vbdName(vbd);
    if (this.#vbds.get(name) === claims) this.#vbds.delete(name);
    await claims?.release();
    const all = this.#all.get(name);
    if (claims) all?.delete(claims);
    if (all?.size === 0) this.#all.delete(name);
  }

  /** Gives back what an earlier process has left of vbds that do not exist any more. */
  sweep(exists: (name: string) => boolean): void {
    for (const [name, claims] of this.#vbds) if (!exists(name)) void claims.sweep();
  }

  /** From now on nothing is removed: another process is to have it. */
  leave(): void {
    this.#leaving = true;
  }

  #of(name: string): VbdClaims {
    let claims = this.#vbds.get(name);
    if (!claims) {
      claims = this.#make(name);
      this.#vbds.set(name, claims);
    }
    return claims;
  }

  #make(name: string): VbdClaims {
    const all = this.#all.get(name) ?? new Set();
    this.#all.set(name, all);
    const claims = new VbdClaims(name, this.#manager, () => this.#leaving, all);
    all.add(claims);
    return claims;
  }
}

/** Those of one disk of a vbd. */
export class VbdClaims implements Claims {
  /** Left by an earlier process, and not looked at yet. */
  readonly inherited: number[] = [];
  readonly #name: string;
  readonly #manager: Manager;
  readonly #leaving: () => boolean;
  /** Those of the vbd's disks, which have one name in the store: these, and others while it is exchanged. */
  readonly #all: ReadonlySet<VbdClaims>;
  /** By the path that led to it. */
  readonly #open = new Map<string, number>();
  /** Those of {@link #open} that an earlier process has opened. */
  readonly #older = new Set<number>();

  constructor(name: string, manager: Manager, leaving: () => boolean, all: ReadonlySet<VbdClaims>) {
    this.#name = name;
    this.#all = all;
    this.#manager = manager;
    this.#leaving = leaving;
  }

  get(path: string): number | null {
    return this.#open.get(path) ?? null;
  }

  add(path: string, fd: number): void {
    if (this.#open.get(path) === fd) return;
    this.#open.set(path, fd);
    this.#manager.storeDescriptor(this.#name, fd);
  }

  /** Takes over what an earlier process has left of these files, each with its path, and gives the rest back. */
  async inherit(files: readonly { readonly path: string; readonly identity: string }[]): Promise<void> {
    const rest: number[] = [];
    // What an attempt to open other files has left.
    for (const [path, fd] of this.#open) {
      if (files.some((one) => one.path === path)) continue;
      this.#open.delete(path);
      this.#older.delete(fd);
      rest.push(fd);
    }
    for (const fd of this.inherited.splice(0)) {
      // Of a file that cannot be looked at any more (its server is gone) nothing is known: it is nobody's disk.
      const [identity] = identitiesOf([{ identity: await openFileIdentity(fd, pathOf(fd)).catch(() => "") }]);
      const file = files.find(
        (one) => identity !== "" && one.identity === identity && !this.#open.has(one.path),
      );
      if (!file) {
        rest.push(fd);
        continue;
      }
      this.#open.set(file.path, fd);
      this.#older.add(fd);
    }
    await this.#giveBack(rest);
  }

  /** Gives back what an earlier process has left, and nothing that is in use. */
  async sweep(): Promise<void> {
    await this.#giveBack(this.inherited.splice(0));
  }

  /** What a disk uses, with the files that are open here instead of those to which their paths lead. */
  async own(uses: readonly Use[]): Promise<Use[]> {
    return Promise.all(
      uses.map(async (use) => {
        const fd = this.#open.get(use.path);
        return fd === undefined
          ? use
          : { ...use, identity: await openFileIdentity(fd, use.path), missing: false };
      }),
    );
  }

  /** The disk was not opened: gives back what was opened for it. */
  async undo(): Promise<void> {
    const fresh = [...this.#open].filter(([, fd]) => !this.#older.has(fd));
    for (const [path] of fresh) this.#open.delete(path);
    await this.#giveBack(fresh.map(([, fd]) => fd));
  }

  async release(): Promise<void> {
    const all = [...this.inherited.splice(0), ...this.#open.values()];
    this.#open.clear();
    this.#older.clear();
    await this.#giveBack(all);
  }

  /** Resolves when nobody has them any more. */
  async #giveBack(fds: readonly number[]): Promise<void> {
    if (fds.length === 0) return;
    if (this.#leaving()) {
      for (const fd of fds) await Place.of(pathOf(fd)).close(fd);
      return;
    }
    const files = fds.map((fd) => ({ fd, place: Place.of(pathOf(fd)) }));
    // The service manager has them for some time yet. What cannot be unlocked is closed all the same.
    for (const { fd, place } of files) await new FileLocks(fd, place).unlock().catch(() => {});
    this.#manager.removeDescriptors(this.#name);
    for (const claims of this.#all)
      for (const fd of claims.#open.values()) this.#manager.storeDescriptor(this.#name, fd);
    for (const { fd, place } of files) await place.close(fd).catch(() => {});
    for (const { place } of files) await untilFree(place);
  }
}

/** What an open file is called, told by the kernel and not by its file system. */
function pathOf(fd: number): string {
  return readlinkSync(`/proc/self/fd/${fd}`);
}

/** Exclusive opening of a block device ends when the last descriptor is closed, and not before. */
async function untilFree(place: Place): Promise<void> {
  if (!place.path.startsWith("/dev/")) return;
  const { O_RDONLY, O_EXCL, O_NONBLOCK } = constants;
  for (const start = performance.now(); performance.now() - start < REMOVAL_MS; await sleep(POLL_MS)) {
    try {
      await place.close(await place.open(O_RDONLY | O_EXCL | O_NONBLOCK));
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EBUSY") return;
    }
  }
}
