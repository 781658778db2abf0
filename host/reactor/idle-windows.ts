/**
 * Which data windows of a reactor's rings are given back, and when: those of rings that have moved little lately, a
 * portion at a time, so that other rings do not wait.
 */
import type { BlkifCore } from "../core/blkif.js";
import type { DataWindow } from "./data-window.js";

/** How often rings are looked at. */
export const INTERVAL_MS = 5000;
/** Between two portions. */
const PORTION_MS = 10;
/** A ring that has moved no more than this in an interval is quiet: to touch so much anew takes some milliseconds. */
const QUIET_BYTES = 16 << 20;

interface Used {
  readonly core: BlkifCore;
  /** Bytes that it had taken when it was looked at last. */
  taken: number;
}

export class IdleWindows {
  /** When {@link tick} is due, by performance.now(); Infinity while no window holds anything. */
  due = Number.POSITIVE_INFINITY;
  readonly #used = new Map<DataWindow, Used>();
  /** Those that are being given back. */
  #round: DataWindow[] = [];

  /** Something was copied by way of a window. Cheap where that is known. */
  note(window: DataWindow, core: BlkifCore): void {
    window.used();
    if (this.#used.has(window)) return;
    this.#used.set(window, { core, taken: core.bytesTaken });
    this.due = Math.min(this.due, performance.now() + INTERVAL_MS);
  }

  /** The ring has been detached, or its core is not to be believed any more. */
  forget(window: DataWindow): void {
    this.#used.delete(window);
  }

  /** To be called between calls of step(), when it is due. */
  tick(now: number): void {
    if (this.#round.length === 0) this.#round = this.#quiet();
    const window = this.#round.at(-1);
    if (window !== undefined) this.#giveBack(window);
    if (this.#round.length > 0) this.due = now + PORTION_MS;
    else this.due = this.#used.size > 0 ? now + INTERVAL_MS : Number.POSITIVE_INFINITY;
  }

  #giveBack(window: DataWindow): void {
    let state: ReturnType<DataWindow["giveBack"]> = "kept";
    try {
      if (this.#used.has(window)) state = window.giveBack();
    } catch {
      // The kernel takes no page back that is locked (mlockall). Rings go on with what they have.
    }
    if (state === "more") return;
    this.#round.pop();
    if (state === "empty") this.#used.delete(window);
  }

  #quiet(): DataWindow[] {
    const quiet: DataWindow[] = [];
    for (const [window, used] of this.#used) {
      const taken = used.core.bytesTaken;
      if (taken - used.taken <= QUIET_BYTES) quiet.push(window);
      used.taken = taken;
    }
    return quiet;
  }
}
