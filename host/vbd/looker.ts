/** Looks at something, one look at a time: however often one is asked for, one more follows the present one. */
import { Backoff } from "./backoff.js";

export class Looker {
  /** Why the last look failed; null when it did not. */
  trouble: string | null = null;
  readonly #once: () => Promise<void>;
  readonly #failed: (trouble: string, again: boolean) => void;
  readonly #idle: () => void;
  #dirty = false;
  #looking: Promise<void> | null = null;
  #retry: NodeJS.Timeout | null = null;
  readonly #backoff = new Backoff();
  #stopped = false;

  /**
   * `failed` is called after each look that rejected, with whether the one before did for the same reason, `idle` when no
   * look is wanted any more.
   */
  constructor(
    once: () => Promise<void>,
    failed: (trouble: string, again: boolean) => void,
    idle: () => void,
  ) {
    this.#once = once;
    this.#failed = failed;
    this.#idle = idle;
  }

  get stopped(): boolean {
    return this.#stopped;
  }

  /** Something may have changed. Returns at once. */
  look(): void {
    if (this.#stopped) return;
    this.#dirty = true;
    this.#looking ??= this.#lookWhileDirty();
  }

  /** Resolves when no look is under way. */
  async settled(): Promise<void> {
    await this.#looking;
  }

  /** No look begins any more. */
  stop(): void {
    this.#stopped = true;
    this.dropRetry();
  }

  dropRetry(): void {
    if (this.#retry) clearTimeout(this.#retry);
    this.#retry = null;
  }

  async #lookWhileDirty(): Promise<void> {
    while (this.#dirty && !this.#stopped) {
      this.#dirty = false;
      try {
        await this.#once();
        this.trouble = null;
      } catch (error) {
        const { message } = error as Error;
        const again = this.trouble === message;
        this.trouble = message;
        this.#failed(message, again);
        this.#lookLater(this.#backoff.next(again));
      }
    }
    this.#looking = null;
    if (!this.#stopped) this.#idle();
  }

  #lookLater(ms: number): void {
    this.dropRetry();
    this.#retry = setTimeout(() => {
      this.#retry = null;
      this.look();
    }, ms).unref();
  }
}
