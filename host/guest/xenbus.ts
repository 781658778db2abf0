/** The frontend's side of the xenbus state machine (xen/include/public/io/xenbus.h). */
import { type Xenstore, XenstoreError, type XenstoreWatch } from "../platform/ports.js";
import { parseState, stateName, XenbusState } from "../platform/xenbus-state.js";

export async function readState(xenstore: Xenstore, directory: string): Promise<number> {
  return parseState(await xenstore.read(`${directory}/state`));
}

/** Writes our state. False, and nothing written, when the toolstack has taken the device away meanwhile. */
export function switchState(xenstore: Xenstore, directory: string, state: number): Promise<boolean> {
  return xenstore.transaction(async (t) => {
    if ((await t.read(`${directory}/state`)) === null) return false;
    await t.write(`${directory}/state`, String(state));
    return true;
  });
}

interface Waiter {
  wanted: readonly number[];
  hopeless: readonly number[];
  resolve: (state: number) => void;
  /** Rejects with the reason, in front of which both states are put. */
  give: (why: string) => void;
}

/** Follows the state of a backend. */
export class BackendState {
  /** The state that was seen last. */
  current: number = XenbusState.Unknown;
  /** Called whenever the state was written, also with the value that it had. */
  onWrite: ((state: number) => void) | null = null;

  readonly #xenstore: Xenstore;
  readonly #backend: string;
  readonly #waiters = new Set<Waiter>();
  #watch: XenstoreWatch | null = null;

  private constructor(xenstore: Xenstore, backend: string) {
    this.#xenstore = xenstore;
    this.#backend = backend;
  }

  static async follow(xenstore: Xenstore, backend: string): Promise<BackendState> {
    const state = new BackendState(xenstore, backend);
    state.current = await readState(xenstore, backend);
    state.#watch = await xenstore.watch(`${backend}/state`, () => void state.#look());
    return state;
  }

  /**
   * Resolves with the first of the `wanted` states. Rejects after `timeoutMs`, or as soon as the backend is in one
   * of the `hopeless` states, with an error that names the backend's state and ours.
   */
  wait(
    wanted: readonly number[],
    hopeless: readonly number[],
    ours: number,
    timeoutMs: number,
  ): Promise<number> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => waiter.give(`after ${timeoutMs} ms: is it running?`), timeoutMs);
      const settle = (act: () => void) => {
        clearTimeout(timer);
        this.#waiters.delete(waiter);
        act();
      };
      const waiter: Waiter = {
        wanted,
        hopeless,
        resolve: (state) => settle(() => resolve(state)),
        give: (why) =>
          settle(() => {
            const states = `at ${stateName(this.current)}, not at ${wanted.map(stateName).join(" or ")}`;
            const what = `backend ${this.#backend} is ${states}, while the frontend is at ${stateName(ours)}`;
            reject(new Error(`${what}, ${why}`));
          }),
      };
      this.#waiters.add(waiter);
      this.#decide(waiter);
    });
  }

  async close(): Promise<void> {
    this.onWrite = null;
    await this.#watch?.remove();
  }

  async #look(): Promise<void> {
    try {
      this.current = await readState(this.#xenstore, this.#backend);
    } catch (error) {
      // Without xenstored I/O goes on all the same; a waiter runs into its time-out.
      if (!(error instanceof XenstoreError) || error.code !== "EACCES") return;
      // Of a directory that is gone, xenstored says EACCES to who may not read what is above it.
      this.current = XenbusState.Unknown;
    }
    for (const waiter of [...this.#waiters]) this.#decide(waiter);
    this.onWrite?.(this.current);
  }

  #decide(waiter: Waiter): void {
    if (waiter.wanted.includes(this.current)) waiter.resolve(this.current);
    else if (waiter.hopeless.includes(this.current)) waiter.give("and will not get there: see its log");
  }
}
