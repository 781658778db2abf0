/** The backend as a whole: finds vbds in xenstore, gives each a {@link Vbd}, and forgets those that are gone. */
import type { XenstoreWatch } from "../platform/ports.js";
import { parseVbdPath, type VbdId, vbdName } from "../vbd/name.js";
import { Vbd, type VbdHost, type VbdStatus } from "../vbd/vbd.js";

export interface BackendOptions extends VbdHost {
  /** Directory below `backend/`: "vbd". */
  readonly kind: string;
}

export class Backend {
  readonly #host: VbdHost;
  readonly #kind: string;
  readonly #root: string;
  readonly #vbds = new Map<string, Vbd>();
  #watch: XenstoreWatch | null = null;
  #stopped = false;

  constructor({ kind, ...host }: BackendOptions) {
    this.#host = host;
    this.#kind = kind;
    this.#root = `/local/domain/${host.domid}/backend/${kind}`;
  }

  /** Takes up the vbds that are there, which the watch's first event leads to, and those to come. */
  async start(): Promise<void> {
    this.#watch = await this.#host.xenstore.watch(this.#root, (path) => this.#changed(path));
  }

  status(): VbdStatus[] {
    return [...this.#vbds.values()].map((vbd) => vbd.status());
  }

  /** Lets go of every vbd; xenstore stays as it is. */
  async stop(): Promise<void> {
    this.#stopped = true;
    const vbds = [...this.#vbds.values()];
    const outcomes = await Promise.allSettled([this.#watch?.remove(), ...vbds.map((vbd) => vbd.stop())]);
    this.#vbds.clear();
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  }

  #changed(path: string): void {
    if (this.#stopped) return;
    const id = parseVbdPath(path.slice(this.#root.length + 1));
    if (id) this.#look(id);
    else void this.#lookAtAll().catch((error: Error) => this.#host.log(`xbdback: ${error.message}`));
  }

  /** Something happened to a directory of vbds: the first event, one that stands for many, or its removal. */
  async #lookAtAll(): Promise<void> {
    const { xenstore } = this.#host;
    for (const vbd of this.#vbds.values()) vbd.look();
    for (const domid of (await xenstore.directory(this.#root)) ?? []) {
      for (const devid of (await xenstore.directory(`${this.#root}/${domid}`)) ?? []) {
        const id = parseVbdPath(`${domid}/${devid}`);
        if (id && !this.#stopped) this.#look(id);
      }
    }
  }

  /** A vbd that is not there says so at its first look. */
  #look(id: VbdId): void {
    const name = vbdName(id);
    let vbd = this.#vbds.get(name);
    if (!vbd) {
      vbd = new Vbd(this.#host, this.#kind, id, () => this.#vbds.delete(name));
      this.#vbds.set(name, vbd);
    }
    vbd.look();
  }
}
