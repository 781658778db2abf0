/**
 * The operator's hand on a vbd: limits and pause, for the connection of now and those to come. They are kept in the vbd's own
 * directory, so that they last as long as the disk is attached, whatever becomes of this process.
 */
import type { Xenstore } from "../platform/ports.js";
import { type Limits, NO_LIMITS, Throttle } from "../reactor/throttle.js";
import type { Connection } from "./connection.js";
import { type DefaultLimits, type LimitSource, NO_DEFAULT } from "./limit-defaults.js";

export interface ThrottleStatus {
  readonly limits: Limits;
  readonly limitsFrom: LimitSource;
  readonly paused: boolean;
}

/** What is to be another than before. */
export interface ThrottleChange {
  /** Null: those of the configuration, and none of its own. */
  readonly limits?: Partial<Limits> | null;
  readonly paused?: boolean;
}

/** Keys of the backend directory: numbers, and `paused` = 1. A disk with none of the limits has the configuration's. */
const LIMIT_KEYS = { iops: "limit-iops", bps: "limit-bps", burst: "limit-burst" } as const;
const PAUSED_KEY = "paused";

export class Throttling {
  readonly #xenstore: Xenstore;
  readonly #directory: string;
  readonly #throttle = new Throttle();
  /** What the directory says; null where it says nothing of limits. */
  #own: Limits | null = null;
  #default = NO_DEFAULT;
  #paused = false;
  #known = false;
  #closing = false;

  /** `directory` is the vbd's backend directory. */
  constructor(xenstore: Xenstore, directory: string) {
    this.#xenstore = xenstore;
    this.#directory = directory;
  }

  get status(): ThrottleStatus {
    const { limitsFrom } = this.#default;
    return {
      limits: this.#limits,
      limitsFrom: this.#own === null ? limitsFrom : "disk",
      paused: this.#paused,
    };
  }

  get #limits(): Limits {
    return this.#own ?? this.#default.limits;
  }

  /** What counts where the directory has no limits. For connections to come: one that there is keeps what it has. */
  setDefault(limits: DefaultLimits): void {
    this.#default = limits;
    this.#apply();
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
    const own = { iops: parseLimit(iops), bps: parseLimit(bps), burst: parseLimit(burst) };
    const some = Object.values(own).some((limit) => limit !== null);
    this.#own = some ? { iops: own.iops ?? 0, bps: own.bps ?? 0, burst: own.burst ?? NO_LIMITS.burst } : null;
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
    if (change.limits === null) this.#own = null;
    else if (Object.keys(change.limits ?? {}).length > 0) this.#own = { ...this.#limits, ...change.limits };
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
    const own = this.#own;
    // A limit of 0 is written, too: it says that the configuration's does not count.
    const values: [key: string, value: number | null][] = [
      [LIMIT_KEYS.iops, own?.iops ?? null],
      [LIMIT_KEYS.bps, own?.bps ?? null],
      [LIMIT_KEYS.burst, own && own.burst !== NO_LIMITS.burst ? own.burst : null],
      [PAUSED_KEY, this.#paused ? 1 : null],
    ];
    return this.#xenstore.transaction(async (t) => {
      if ((await t.read(`${this.#directory}/state`)) === null) return;
      for (const [key, value] of values) {
        const path = `${this.#directory}/${key}`;
        if (value !== null) await t.write(path, String(value));
        else if ((await t.read(path)) !== null) await t.remove(path);
      }
    });
  }
}

/** What is no number of a limit's is as if it were not there: a mistake must not stop a disk. */
function parseLimit(text: string | null): number | null {
  if (text === null || !/^[0-9]+(\.[0-9]+)?$/.test(text)) return null;
  return Math.min(Number(text), MAX_LIMIT);
}

/** Far above what any disk does. */
const MAX_LIMIT = 1e15;
