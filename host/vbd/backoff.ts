/** How long to wait before what failed is tried again: a second at first, then longer and longer. */
const FIRST_MS = 1000;
const LONGEST_MS = 8000;

export class Backoff {
  #ms = 0;

  /** The next wait. `again`: it has failed for the same reason as before. */
  next(again: boolean): number {
    this.#ms = again ? Math.min(2 * this.#ms, LONGEST_MS) : FIRST_MS;
    return this.#ms;
  }
}
