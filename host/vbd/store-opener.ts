/**
 * Opens a vbd's store while the vbd goes on: a file server that hangs may keep it for as long as it likes. One store at
 * a time, or a store that was given up could be found in use by its own successor.
 */
import type { BlockDevice } from "../storage/device.js";
import type { OpenOptions } from "../storage/open.js";
import type { VbdId } from "./name.js";

export type Open = (path: string, options: OpenOptions, vbd: VbdId) => Promise<BlockDevice>;

interface Attempt {
  readonly path: string;
  readonly mode: string;
  given: boolean;
  outcome: BlockDevice | Error | null;
  /** Never rejects. */
  readonly ended: Promise<void>;
}

export class StoreOpener {
  readonly #changed: () => void;
  #attempt: Attempt | null = null;
  #givenUp: Promise<void> | null = null;

  /** `changed` is called when a store is open, or cannot be opened, or one that was given up is closed. */
  constructor(changed: () => void) {
    this.#changed = changed;
  }

  /** The store that is being opened. */
  get path(): string | null {
    return this.#attempt?.path ?? null;
  }

  /** Settles when what was given up is closed; null when it is. */
  get givenUp(): Promise<void> | null {
    return this.#givenUp;
  }

  isFor(path: string, mode: string): boolean {
    return this.#attempt?.path === path && this.#attempt.mode === mode;
  }

  /** Gives up what there is and begins anew. */
  begin(path: string, mode: string, open: () => Promise<BlockDevice>): void {
    this.giveUp();
    const free = this.#givenUp;
    this.#run(path, mode, async (attempt) => {
      await free;
      return attempt.given ? null : open();
    });
  }

  /** Gives up what there is; this one is being opened. */
  expect(path: string, mode: string, opening: Promise<BlockDevice>): void {
    this.giveUp();
    this.#run(path, mode, () => opening);
  }

  #run(path: string, mode: string, open: (attempt: Attempt) => Promise<BlockDevice | null>): void {
    const run = async (): Promise<void> => {
      try {
        attempt.outcome = await open(attempt);
      } catch (error) {
        attempt.outcome = error as Error;
      }
      if (!attempt.given) this.#changed();
    };
    const attempt: Attempt = { path, mode, given: false, outcome: null, ended: Promise.resolve().then(run) };
    this.#attempt = attempt;
  }

  /** Gives up what there is; this one is open. */
  put(path: string, mode: string, device: BlockDevice): void {
    this.giveUp();
    this.#attempt = { path, mode, given: false, outcome: device, ended: Promise.resolve() };
  }

  /** True once the store is open. Throws why it cannot be. */
  ready(): boolean {
    const outcome = this.#attempt?.outcome ?? null;
    if (outcome instanceof Error) throw outcome;
    return outcome !== null;
  }

  /** Hands the open store over. Only once it is {@link ready}. */
  take(): { readonly path: string; readonly device: BlockDevice } {
    const { path, outcome } = this.#attempt as Attempt;
    this.#attempt = null;
    return { path, device: outcome as BlockDevice };
  }

  /** The store, if any, is closed as soon as it is open. */
  giveUp(): void {
    const attempt = this.#attempt;
    if (!attempt) return;
    this.#attempt = null;
    attempt.given = true;
    // There is nothing to close, and to tell of it would lead to the next attempt at once.
    if (attempt.outcome instanceof Error) return;
    const close = async (): Promise<void> => {
      await attempt.ended;
      const { outcome } = attempt;
      // A store that cannot be closed is the kernel's affair now.
      if (outcome && !(outcome instanceof Error)) await outcome.close().catch(() => {});
      if (this.#givenUp !== closed) return;
      this.#givenUp = null;
      this.#changed();
    };
    const closed = close();
    this.#givenUp = closed;
  }
}
