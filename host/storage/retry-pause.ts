/** Pauses between attempts to connect again: short ones at first, then longer and longer. */
const FIRST_MS = 10;
const LONGEST_MS = 1000;

export class RetryPause {
  #next = FIRST_MS;
  #cut: () => void = () => {};

  /** Resolves after the next pause, or when it is {@link cut} short. */
  async wait(): Promise<void> {
    const milliseconds = this.#next;
    this.#next = Math.min(2 * milliseconds, LONGEST_MS);
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#cut = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** The server has answered: the next pause is a short one again. */
  reset(): void {
    this.#next = FIRST_MS;
  }

  cut(): void {
    this.#cut();
  }
}
