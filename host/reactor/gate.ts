/**
 * What is in flight at one disk in a reactor thread, of all its rings together: the {@link Activity} hears of it. It starts
 * every I/O at once. (Held back beside others' I/O, it once stood still in a stress run; why is not known yet.)
 */
import type { Activity } from "./activity.js";

/** A ring, of which the gate starts I/Os. */
export interface GateRing {
  /** Starts the I/O of a slot. */
  startIo(slot: number): void;
}

export class Gate {
  readonly #activity: Activity;
  readonly #domid: number;
  #inFlight = 0;

  constructor(activity: Activity, domid: number) {
    this.#activity = activity;
    this.#domid = domid;
  }

  start(ring: GateRing, slot: number): void {
    if (this.#inFlight++ === 0) this.#activity.begin(this.#domid);
    ring.startIo(slot);
  }

  ended(): void {
    if (--this.#inFlight === 0) this.#activity.end(this.#domid);
  }
}
