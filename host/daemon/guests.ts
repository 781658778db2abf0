/**
 * Which guests live, and which are suspended. xenstored fires @releaseDomain when a domain shuts down or dies, and says of
 * none which it was, nor why; so it is asked for all of them, and so is the hypervisor. That a suspended one goes on is told by
 * nobody: it is looked for. In a driver domain neither may be asked: there the toolstack's removal of the guest's directory
 * has to do.
 */
import type { Domain, Xenstore, XenstoreWatch } from "../platform/ports.js";
import { Looker } from "../vbd/looker.js";

/** How often the hypervisor is asked whether a suspended guest goes on, whose requests wait for that. */
const SUSPENDED_MS = 20;

export interface GuestsOptions {
  readonly xenstore: Xenstore;
  /** Where it is left out, nothing is known of suspension. */
  readonly isSuspended?: Domain["isSuspended"];
  /** Those that have disks here. */
  readonly domids: () => ReadonlySet<number>;
  /** Called for each of them that was seen alive and is no more. */
  readonly died: (domid: number) => void;
  /** Called for each that may have been suspended, or may go on. */
  readonly stopped: (domid: number) => void;
}

export class Guests {
  readonly #options: GuestsOptions;
  /** Those that xenstored knew when it was asked last. */
  #alive = new Set<number>();
  /** Those that the hypervisor said are suspended. */
  #suspended = new Set<number>();
  /** Something was heard since it was asked last. */
  #heard = true;
  readonly #looker: Looker;
  #timer: NodeJS.Timeout | null = null;
  #watches: XenstoreWatch[] = [];

  constructor(options: GuestsOptions) {
    this.#options = options;
    this.#looker = new Looker(
      () => this.#ask(),
      () => {},
      () => {},
    );
  }

  async start(): Promise<void> {
    const { xenstore } = this.#options;
    for (const name of ["@introduceDomain", "@releaseDomain"])
      this.#watches.push(await xenstore.watch(name, () => this.look()));
  }

  /** There may be other domids than before. */
  look(): void {
    this.#heard = true;
    this.#looker.look();
  }

  async stop(): Promise<void> {
    this.#looker.stop();
    if (this.#timer) clearTimeout(this.#timer);
    await Promise.all(this.#watches.map((watch) => watch.remove()));
    await this.#looker.settled();
  }

  async #ask(): Promise<void> {
    const heard = this.#heard;
    this.#heard = false;
    try {
      await this.#askForSuspended(heard);
      if (heard) await this.#askForDead();
    } catch (error) {
      this.#heard ||= heard;
      throw error;
    }
  }

  async #askForDead(): Promise<void> {
    const { xenstore, domids, died } = this.#options;
    const before = this.#alive;
    const alive = new Set<number>();
    const gone: number[] = [];
    const ask = async (domid: number): Promise<void> => {
      const now = await xenstore.isDomainIntroduced(domid);
      if (now) alive.add(domid);
      else if (now === false && before.has(domid)) gone.push(domid);
    };
    await Promise.all([...domids()].map(ask));
    this.#alive = alive;
    for (const domid of gone) died(domid);
  }

  /** One that may have gone on and be suspended again since it was asked for is looked at, too. */
  async #askForSuspended(heard: boolean): Promise<void> {
    const { isSuspended, domids, stopped } = this.#options;
    if (!isSuspended) return;
    const before = this.#suspended;
    const asked = [...(heard ? domids() : before)];
    const answers = await Promise.all(asked.map((domid) => isSuspended(domid)));
    const suspended = new Set(asked.filter((_, i) => answers[i] === true));
    this.#suspended = suspended;
    for (const domid of asked)
      if (before.has(domid) !== suspended.has(domid) || (heard && suspended.has(domid))) stopped(domid);
    if (suspended.size > 0 && !this.#looker.stopped) this.#askAgain();
  }

  #askAgain(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#looker.look();
    }, SUSPENDED_MS).unref();
  }
}
