/**
 * Whoever looks at a ring's passes, for the operator: a trace (tracer.ts) or a recording (recorder.ts). A ring without one
 * compares a field with null a few times a pass, and that is all it costs.
 */
import { MAX_SLOTS } from "../../assembly/abi.js";
import type { RingView } from "../core/ring-view.js";

export type ObserverKind = "trace" | "record";

/** Called in the midst of a pass: nothing here may throw, wait or take long. */
export interface RingObserver {
  /** It begins when nothing is in flight and no page is mapped; until then the ring takes nothing. */
  readonly wantsRest: boolean;
  /** From now on it hears of every pass. */
  begin(ring: RingView): void;
  /** A pass begins with so many completions. */
  passBegins(completions: number): void;
  /** The core has come back from a call. */
  stepped(): void;
  /** What the call has asked for of grants was carried out, and the statuses are there. */
  granted(flags: number): void;
  /** The pass has ended with these flags, and its I/Os are under way. */
  passEnds(flags: number): void;
  /** Between passes: `now` in tenths of a second, or the disk's new size in 512-byte sectors. */
  trimmed(now: number): void;
  resized(sectors: number): void;
  /** There will be no more passes; `why` for the operator. */
  end(why: string): void;
}

/** What a call of the core took from the ring and answered, read from what it leaves in the ring's memory. */
export class CallReader {
  readonly #view: RingView;
  #taken = 0;
  #answered = 0;

  constructor(view: RingView) {
    this.#view = view;
    this.skip();
  }

  /** Whatever was taken or answered until now is not to be told. */
  skip(): void {
    this.#taken = this.#view.reqCons;
    this.#answered = this.#view.rspProdPvt;
  }

  /** After each call: the slots of the requests that it took, in their order, and of those that it answered, in theirs. */
  read(): { taken: number[]; answered: number[] } {
    const view = this.#view;
    const answered = this.#readAnswered();
    const from = this.#taken;
    this.#taken = view.reqCons;
    const count = (this.#taken - from) >>> 0;
    const taken: number[] = new Array(count);
    if (count === 0) return { taken, answered };
    for (let slot = 0; slot < MAX_SLOTS; slot++) {
      const place = (view.requestIndex(slot) - from) >>> 0;
      if (place >= count) continue;
      // A request that was put back on the ring and taken again in another slot has left its number in the first one.
      if (view.isBusy(slot) || answered.includes(slot)) taken[place] = slot;
    }
    return { taken, answered };
  }

  /** A slot is not given away again before the call ends, so all of them still are what they were. */
  #readAnswered(): number[] {
    const view = this.#view;
    const from = this.#answered;
    this.#answered = view.rspProdPvt;
    return Array.from({ length: (this.#answered - from) >>> 0 }, (_, i) => view.answeredSlot(i));
  }
}
