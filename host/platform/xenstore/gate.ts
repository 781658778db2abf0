/** Who may have a transaction open: several at once, or one that has met too many conflicts alone. First come, first served. */

interface Waiter {
  readonly alone: boolean;
  readonly enter: () => void;
}

export class Gate {
  readonly #room: number;
  readonly #waiting: Waiter[] = [];
  #inside = 0;
  #closed = false;

  /** `room` is how many may be inside at once. */
  constructor(room: number) {
    this.#room = room;
  }

  /** Resolves when the caller is inside; `alone` keeps all others out until it leaves. */
  enter(alone: boolean): Promise<void> {
    return new Promise((enter) => {
      this.#waiting.push({ alone, enter });
      this.#admit();
    });
  }

  leave(): void {
    this.#inside--;
    this.#closed = false;
    this.#admit();
  }

  #admit(): void {
    for (;;) {
      const next = this.#waiting[0];
      if (!next || this.#closed || this.#inside >= (next.alone ? 1 : this.#room)) return;
      this.#waiting.shift();
      this.#inside++;
      this.#closed = next.alone;
      next.enter();
    }
  }
}
