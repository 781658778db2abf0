/**
 * The operator's hand on a vbd: limits and pause, for the connection of now and those to come. They are kept in the vbd's own
 * directory, so that they last as long as the disk is attached, whatever becomes of this process.
 */
import type { Xenstore } from "../platform/ports.js";
import { type Limits, NO_LIMITS, Throttle } from "../reactor/throttle.js";
import type { Connection } from "./connection.js";

export interface ThrottleStatus {
  readonly limits: Limits;
  readonly paused: boolean;
}

/** What is to be another than before. */
export interface ThrottleChange {
  readonly limits?: Partial<Limits>;
  readonly paused?: boolean;
}

/** Keys of the backend directory: numbers, and `paused` = 1. One that is not there is as it would be without. */
const LIMIT_KEYS = { iops: "limit-iops", bps: "limit-bps", burst: "limit-burst" } as const;
const PAUSED_KEY = "paused";

export class Throttling {
  readonly #xenstore: Xenstore;
  readonly #directory: string;
  readonly #throttle = new Throttle();
  #limits = NO_LIMITS;
  #paused = false;
  #known = false;
  #closing = false;

  /** `directory` is the vbd's backend directory. */
  constructor(xenstore: Xenstore, directory: string) {
    this.#xenstore = xenstore;
    this.#directory = directory;
  }

  get status(): ThrottleStatus {
    return { limits: this.#limits, paused: this.#paused };
  }

  /** Takes up what the directory says, once. Rejects when xenstore does not tell. */
  async recall(): Promise<void> {
    if (this.#known) return;
    const read = (key: string): Promise<string | null> => this.#xenstore.read(`${this.#directory}/${key}`);
    const [iops, bps, burst, paused] = await Promise.all(
      [...Object.values(LIMIT_KEYS), PAUSED_KEY].map(read),
    );
    // Another has asked at the same time, and may have changed it since.
    if (this.#known) return;
    this.#limits = {
      iops: parseLimit(iops, NO_LIMITS.iops),
      bps: parseLimit(bps, NO_LIMITS.bps),
      burst: parseLimit(burst, NO_LIMITS.burst),
    };
    this.#paused = paused === "1";
    this.#apply();
    this.#known = true;
  }

  /** The directory is another one, or will be: what it says is to be taken up anew. */
  forget(): void {
    this.#known = false;
  }

  /** Resolves when the connection's rings keep to it, and it will outlast this process. What is not named stays. */
  async set(change: ThrottleChange, connection: Connection | null): Promise<void> {
    // Only then is it known what stays.
    await this.recall();
    this.#limits = { ...this.#limits, ...change.limits };
    this.#paused = change.paused ?? this.#paused;
    this.#apply();
    await connection?.throttle(this.throttle);
    await this.#remember();
  }

  /** A vbd that the toolstack closes has no limits, here or in its disk: its guest waits for its last requests. */
  async setClosing(closing: boolean, connection: Connection | null): Promise<void> {
    if (closing === this.#closing) return;
    this.#closing = closing;
    this.#apply();
    connection?.device.setDelays?.(!closing);
    await connection?.throttle(this.throttle);
  }

  #apply(): void {
    this.#throttle.set(this.#closing ? NO_LIMITS : this.#limits, this.#paused);
  }

  /** For a connection that begins; null: without a limit, rings do not even look. */
  get throttle(): Throttle | null {
    const limited = !this.#closing && (this.#limits.iops > 0 || this.#limits.bps > 0);
    return this.#paused || limited ? this.#throttle : null;
  }

  /** For a connection that has begun, and may have begun with other limits. */
  async begin(connection: Connection): Promise<void> {
    if (this.throttle) await connection.throttle(this.throttle);
  }

  /** A directory that the toolstack has removed meanwhile is not made anew. */
  #remember(): Promise<void> {
    const values: [key: string, value: number, none: number][] = [
      [LIMIT_KEYS.iops, this.#limits.iops, NO_LIMITS.iops],
      [LIMIT_KEYS.bps, this.#limits.bps, NO_LIMITS.bps],
      [LIMIT_KEYS.burst, this.#limits.burst, NO_LIMITS.burst],
      [PAUSED_KEY, this.#paused ? 1 : 0, 0],
    ];
    return this.#xenstore.transaction(async (t) => {
      if ((await t.read(`${this.#directory}/state`)) === null) return;
      for (const [key, value, none] of values) {
        const path = `${this.#directory}/${key}`;
        if (value !== none) await t.write(path, String(value));
        else if ((await t.read(path)) !== null) await t.remove(path);
      }
    });
  }
}

/** What is no number of a limit's is as if it were not there: a mistake must not stop a disk. */
function parseLimit(text: string | null, none: number): number {
  if (text === null || !/^[0-9]+(\.[0-9]+)?$/.test(text)) return none;
  return Math.min(Number(text), MAX_LIMIT);
}

/** Far above what any disk does. */
const MAX_LIMIT = 1e15;
