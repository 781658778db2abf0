/** What a vbd has done: counters and latency of its rings, those that are gone included. */
import { addCounters, type Counters, noCounters } from "../core/counters.js";
import { type Latency, noLatency, sumOfLatency } from "../reactor/latency.js";
import type { AttachedRing } from "../reactor/ring-host.js";

export class Totals {
  readonly counters: Counters = noCounters();
  latency: Latency = noLatency();

  add(rings: readonly Pick<AttachedRing, "counters" | "latency">[]): void {
    for (const ring of rings) {
      addCounters(this.counters, ring.counters());
      this.latency = sumOfLatency(this.latency, ring.latency());
    }
  }

  /** A copy. */
  copy(): Totals {
    const copy = new Totals();
    addCounters(copy.counters, this.counters);
    copy.latency = this.latency;
    return copy;
  }
}
