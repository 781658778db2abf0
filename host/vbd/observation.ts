/** A ring's passes, observed for the operator until the observation is closed or the ring is. */
import { ObservationQueue } from "../reactor/observation.js";
import type { ObserverKind } from "../reactor/observer.js";
import type { AttachedRing } from "../reactor/ring-host.js";

export class Observation {
  /** The ring's number in its vbd. */
  readonly ring: number;
  readonly queue: ObservationQueue;
  readonly #attached: AttachedRing;

  private constructor(ring: number, queue: ObservationQueue, attached: AttachedRing) {
    this.ring = ring;
    this.queue = queue;
    this.#attached = attached;
  }

  /** Rejects where somebody observes one of the rings already; then none is observed. */
  static async ofRings(
    rings: ReadonlyMap<number, AttachedRing>,
    kind: ObserverKind,
  ): Promise<readonly Observation[]> {
    const begun: Observation[] = [];
    try {
      for (const [number, ring] of rings) {
        const queue = ObservationQueue.for(kind);
        await ring.observe({ kind, buffer: queue.buffer });
        begun.push(new Observation(number, queue, ring));
      }
      return begun;
    } catch (error) {
      await Promise.all(begun.map((observation) => observation.close()));
      throw error;
    }
  }

  async close(): Promise<void> {
    // A ring that is let go meanwhile is observed no more.
    await this.#attached.observe(null).catch(() => {});
  }
}
