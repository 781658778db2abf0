/**
 * How long requests have been in flight, without a clock in the way of each: whoever looks now and then remembers what
 * it saw. An age is at most one interval between looks too short, and right for what matters: a request that hangs.
 */
import type { AttachedRing } from "../reactor/ring-host.js";
import type { RingState } from "../reactor/ring-state.js";

export interface AgedRing extends RingState {
  /** Seconds since its oldest request was first seen; null when none is in flight. */
  readonly oldestSeconds: number | null;
}

interface Seen {
  readonly number: number;
  readonly at: number;
}

export class RequestAges {
  /** By ring, the oldest request of the last look. */
  readonly #seen = new Map<AttachedRing, Seen>();

  look(rings: readonly AttachedRing[]): AgedRing[] {
    const now = performance.now();
    return rings.flatMap((ring) => {
      const state = ring.state();
      if (state === null) return [];
      const oldest = state.requests[0]?.number;
      if (oldest === undefined) this.#seen.delete(ring);
      else if (this.#seen.get(ring)?.number !== oldest) this.#seen.set(ring, { number: oldest, at: now });
      const seen = this.#seen.get(ring);
      return [{ ...state, oldestSeconds: seen ? (now - seen.at) / 1000 : null }];
    });
  }
}
