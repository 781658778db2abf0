/**
 * The backend as a whole: finds vbds in xenstore, gives each a {@link Vbd}, and forgets those that are gone. It tells
 * them of the death and the suspension of their guests, and to look at their stores' sizes.
 */
import type { XenstoreWatch } from "../platform/ports.js";
import { quote } from "../vbd/diagnostics.js";
import type { VbdHost } from "../vbd/host.js";
import { parseVbdPath, type VbdId, vbdName } from "../vbd/name.js";
import type { VbdStatus } from "../vbd/status.js";
import { Vbd } from "../vbd/vbd.js";
import { ControlError } from "./control.js";
import { Guests } from "./guests.js";

export interface BackendOptions extends VbdHost {
  /** Directory below `backend/`: "vbd". */
  readonly kind: string;
  /** Called for each vbd in whose directory something may have changed. */
  readonly changed?: (id: VbdId) => void;
}

/**
 * How often stores are asked for their size. Asking is cheap, and the only way that works for every store: inotify
 * tells nothing of block devices and network file systems.
 */
const STORE_CHECK_MS = 1000;

export class Backend {
  readonly #host: VbdHost;
  readonly #kind: string;
  readonly #tell: (id: VbdId) => void;
  readonly #root: string;
  readonly #vbds = new Map<string, Vbd>();
  readonly #guests: Guests;
  readonly #timer: NodeJS.Timeout;
  #watch: XenstoreWatch | null = null;
  #stopped = false;
  /** Those that have not released everything yet, while all are stopped. */
  readonly #stopping = new Set<Vbd>();

  constructor({ kind, changed = () => {}, ...host }: BackendOptions) {
    this.#host = host;
    this.#kind = kind;
    this.#tell = changed;
    this.#root = `/local/domain/${host.domid}/backend/${kind}`;
    const domids = () => new Set([...this.#vbds.values()].map(({ id }) => id.domid));
    const { xenstore, isSuspended } = host;
    this.#guests = new Guests({
      ...{ xenstore, domids },
      ...(isSuspended && { isSuspended }),
      died: (domid) => this.#died(domid),
      stopped: (domid) => this.#lookAtDisksOf(domid),
    });
    this.#timer = setInterval(() => {
      for (const vbd of this.#vbds.values()) {
        vbd.watchStorage();
        void vbd.checkStore();
      }
    }, STORE_CHECK_MS).unref();
  }

  /** Takes up the vbds that are there, which the watch's first event leads to, and those to come. */
  async start(): Promise<void> {
    this.#watch = await this.#host.xenstore.watch(this.#root, (path) => this.#changed(path));
    await this.#guests.start();
  }

  /** In the order of their numbers. */
  status(): VbdStatus[] {
    const all = [...this.#vbds.values()].map((vbd) => vbd.status());
    return all.sort((a, b) => a.domid - b.domid || a.devid - b.devid);
  }

  /** The store of a vbd was enlarged or cut: resolves with its size in bytes once the guest was told. */
  async resize(name: string): Promise<number> {
    return this.vbd(name).resize();
  }

  /** Throws a {@link ControlError} when there is no vbd of this name. */
  vbd(name: string): Vbd {
    const vbd = this.#vbds.get(name);
    if (vbd) return vbd;
    throw new ControlError(`no such vbd: ${quote(name)}: \`xbdback list\` shows all`, "not-found");
  }

  /** Lets go of every vbd; xenstore stays as it is. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#timer);
    const vbds = [...this.#vbds.values()];
    const outcomes = await Promise.allSettled([
      this.#watch?.remove(),
      this.#guests.stop(),
      ...vbds.map((vbd) => this.#stop(vbd)),
    ]);
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  }

  /** Names of those that have not released everything, while all are stopped. */
  get stopping(): string[] {
    return [...this.#stopping].map(({ name }) => name);
  }

  async #stop(vbd: Vbd): Promise<void> {
    this.#stopping.add(vbd);
    await vbd.stop();
    this.#stopping.delete(vbd);
  }

  #changed(path: string): void {
    if (this.#stopped) return;
    const id = parseVbdPath(path.slice(this.#root.length + 1));
    if (id) this.#look(id);
    else
      void this.#lookAtAll().catch((error: Error) =>
        this.#host.log(`xbdback: ${error.message}`, { level: "warning" }),
      );
  }

  /** Something happened to a directory of vbds: the first event, one that stands for many, or its removal. */
  async #lookAtAll(): Promise<void> {
    const { xenstore } = this.#host;
    for (const { id } of this.#vbds.values()) this.#look(id);
    for (const domid of (await xenstore.directory(this.#root)) ?? []) {
      for (const devid of (await xenstore.directory(`${this.#root}/${domid}`)) ?? []) {
        const id = parseVbdPath(`${domid}/${devid}`);
        if (id && !this.#stopped) this.#look(id);
      }
    }
    if (this.#stopped) return;
    this.#host.journals?.sweep((name) => this.#vbds.has(name));
    this.#host.records?.sweep((name) => this.#vbds.has(name));
  }

  /** A vbd that is not there says so at its first look. */
  #look(id: VbdId): void {
    const name = vbdName(id);
    let vbd = this.#vbds.get(name);
    if (!vbd) {
      vbd = new Vbd(this.#host, this.#kind, id, () => this.#vbds.delete(name));
      this.#vbds.set(name, vbd);
      this.#guests.look();
    }
    vbd.look();
    this.#tell(id);
  }

  #lookAtDisksOf(domid: number): void {
    for (const vbd of this.#vbds.values()) if (vbd.id.domid === domid) vbd.look();
  }

  #died(domid: number): void {
    const theirs = [...this.#vbds.values()].filter((vbd) => vbd.id.domid === domid);
    // A guest that closed its disks before it went is no news.
    if (theirs.some((vbd) => vbd.connected)) {
      this.#host.log(`xbdback: domain ${domid} is gone; its disks are released`, { domid });
    }
    for (const vbd of theirs) vbd.domainDied();
  }
}
