/**
 * Which guests live. xenstored fires @releaseDomain when a domain shuts down or dies, and says of none which it was;
 * so it is asked for all of them. In a driver domain it may not be asked: there the toolstack's removal of the guest's
 * directory has to do.
 */
import type { Xenstore, XenstoreWatch } from "../platform/ports.js";
import { Looker } from "../vbd/looker.js";

export class Guests {
  readonly #xenstore: Xenstore;
  readonly #domids: () => ReadonlySet<number>;
  readonly #died: (domid: number) => void;
  /** Those that xenstored knew when it was asked last. */
  #alive = new Set<number>();
  readonly #looker: Looker;
  #watches: XenstoreWatch[] = [];

  /** `domids` are those that have disks here. `died` is called for each of them that was seen alive and is no more. */
  constructor(xenstore: Xenstore, domids: () => ReadonlySet<number>, died: (domid: number) => void) {
    this.#xenstore = xenstore;
    this.#domids = domids;
    this.#died = died;
    this.#looker = new Looker(
      () => this.#ask(),
      () => {},
      () => {},
    );
  }

  async start(): Promise<void> {
    for (const name of ["@introduceDomain", "@releaseDomain"]) {
      this.#watches.push(await this.#xenstore.watch(name, () => this.#looker.look()));
    }
  }

  /** There may be other domids than before. */
  look(): void {
    this.#looker.look();
  }

  async stop(): Promise<void> {
    this.#looker.stop();
    await Promise.all(this.#watches.map((watch) => watch.remove()));
    await this.#looker.settled();
  }

  async #ask(): Promise<void> {
    const before = this.#alive;
    const alive = new Set<number>();
    const died: number[] = [];
    const ask = async (domid: number): Promise<void> => {
      const now = await this.#xenstore.isDomainIntroduced(domid);
      if (now) alive.add(domid);
      else if (now === false && before.has(domid)) died.push(domid);
    };
    await Promise.all([...this.#domids()].map(ask));
    this.#alive = alive;
    for (const domid of died) this.#died(domid);
  }
}
