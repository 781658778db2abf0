/** Serves a domain's rings up to a number, and no more: each has its memory, its pages mapped, its event channel. */
import type { AttachedRing, AttachOptions, ReactorStatus, RingHost } from "./ring-host.js";

export class CappedRingHost implements RingHost {
  readonly #host: RingHost;
  readonly #most: number;
  readonly #rings = new Map<number, number>();

  /** `most`: rings of one domain. Takes the host over; `close` closes it. */
  constructor(host: RingHost, most: number) {
    this.#host = host;
    this.#most = most;
  }

  get mappedPages(): number {
    return this.#host.mappedPages;
  }

  get threads(): ReactorStatus[] {
    return this.#host.threads;
  }

  async attach(options: AttachOptions): Promise<AttachedRing> {
    const { domid } = options.config;
    const rings = this.#rings.get(domid) ?? 0;
    if (rings >= this.#most) {
      throw new Error(
        `domain ${domid} has ${rings} rings, as many as it may: detach a disk, or serve with a higher --max-rings`,
      );
    }
    this.#rings.set(domid, rings + 1);
    try {
      const ring = await this.#host.attach(options);
      const detach = ring.detach.bind(ring);
      ring.detach = () => detach().finally(() => this.#drop(domid));
      return ring;
    } catch (error) {
      this.#drop(domid);
      throw error;
    }
  }

  close(): Promise<void> {
    return this.#host.close();
  }

  #drop(domid: number): void {
    const rings = (this.#rings.get(domid) as number) - 1;
    if (rings === 0) this.#rings.delete(domid);
    else this.#rings.set(domid, rings);
  }
}
