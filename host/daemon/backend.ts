/** The backend as a whole: finds vbds in xenstore, gives each a {@link Vbd}, and forgets those that are gone. */
import type { Xenstore, XenstoreWatch } from "../platform/ports.js";
import type { Reactor } from "../reactor/reactor.js";
import type { Features } from "../vbd/backend-keys.js";
import { parseVbdPath, type VbdId, vbdName } from "../vbd/name.js";
import { Vbd, type VbdHost, type VbdStatus } from "../vbd/vbd.js";

export interface BackendOptions {
  readonly xenstore: Xenstore;
  readonly reactor: Reactor;
  readonly features: Features;
  /** The domain that we run in. */
  readonly domid: number;
  /** Directory below `backend/`: "vbd". */
  readonly kind: string;
  readonly log: (line: string) => void;
}

export class Backend {
  readonly #host: VbdHost;
  readonly #kind: string;
  readonly #root: string;
  readonly #vbds = new Map<string, Vbd>();
  readonly #starting = new Set<string>();
  #watch: XenstoreWatch | null = null;
  #stopped = false;

  constructor({ kind, ...host }: BackendOptions) {
    this.#host = host;
    this.#kind = kind;
    this.#root = `/local/domain/${host.domid}/backend/${kind}`;
  }

  /** Takes up the vbds that are there, and those to come. */
  async start(): Promise<void> {
    this.#watch = await this.#host.xenstore.watch(this.#root, (path) => this.#changed(path));
    const { xenstore } = this.#host;
    for (const domid of (await xenstore.directory(this.#root)) ?? []) {
      for (const devid of (await xenstore.directory(`${this.#root}/${domid}`)) ?? []) {
        this.#changed(`${this.#root}/${domid}/${devid}`);
      }
    }
  }

  status(): VbdStatus[] {
    return [...this.#vbds.values()].map((vbd) => vbd.status());
  }

  /** Lets go of every vbd; xenstore stays as it is. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#watch?.remove();
    await Promise.all([...this.#vbds.values()].map((vbd) => vbd.stop()));
    this.#vbds.clear();
  }

  #changed(path: string): void {
    const id = parseVbdPath(path.slice(this.#root.length + 1));
    if (!id || this.#stopped) return;
    const vbd = this.#vbds.get(vbdName(id));
    if (vbd) vbd.look();
    else void this.#begin(id);
  }

  async #begin(id: VbdId): Promise<void> {
    const name = vbdName(id);
    if (this.#starting.has(name)) return;
    this.#starting.add(name);
    try {
      // Events come for directories that are being removed, too.
      const state = await this.#host.xenstore.read(`${this.#root}/${id.domid}/${id.devid}/state`);
      if (state === null || this.#stopped) return;
      const vbd = new Vbd(this.#host, this.#kind, id, () => this.#vbds.delete(name));
      this.#vbds.set(name, vbd);
      await vbd.start();
    } catch (error) {
      this.#vbds.delete(name);
      this.#host.log(`${name}: ${(error as Error).message}`);
    } finally {
      this.#starting.delete(name);
    }
  }
}
