/** Operations that begin later, or all at once where nobody wants to wait for them any more. */

/** Longer than this no timer runs. */
const LONGEST_MS = 2 ** 31 - 1;

export class Timers {
  /** In the order in which they came, each with its timer. */
  readonly #waiting = new Map<() => void, NodeJS.Timeout>();
  #enabled = true;

  /** False: everything begins at once, also what waits now. */
  set enabled(enabled: boolean) {
    this.#enabled = enabled;
    if (enabled) return;
    for (const [begin, timer] of this.#waiting) {
      clearTimeout(timer);
      this.#waiting.delete(begin);
      begin();
    }
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  /** Calls `begin` at `due`, by performance.now(). */
  at(due: number, begin: () => void): void {
    const left = due - performance.now();
    if (!this.#enabled || left <= 0) {
      begin();
      return;
    }
    // Timers count from when this thread last slept: where it has been busy since, they end early.
    const timer = setTimeout(
      () => {
        this.#waiting.delete(begin);
        this.at(due, begin);
      },
      Math.min(left, LONGEST_MS),
    );
    this.#waiting.set(begin, timer);
  }
}
