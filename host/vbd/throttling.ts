/** The operator's hand on a vbd: limits and pause, for the connection of now and those to come. */
import { type Limits, NO_LIMITS, Throttle } from "../reactor/throttle.js";
import type { Connection } from "./connection.js";

export interface ThrottleStatus {
  readonly limits: Limits;
  readonly paused: boolean;
}

export class Throttling {
  readonly #throttle = new Throttle();
  #limits = NO_LIMITS;
  #paused = false;

  get status(): ThrottleStatus {
    return { limits: this.#limits, paused: this.#paused };
  }

  /** Resolves when the connection's rings keep to it. */
  async set(status: Partial<ThrottleStatus>, connection: Connection | null): Promise<void> {
    this.#limits = status.limits ?? this.#limits;
    this.#paused = status.paused ?? this.#paused;
    this.#throttle.set(this.#limits, this.#paused);
    await connection?.throttle(this.#needed ? this.#throttle : null);
  }

  /** For a connection that begins. */
  async begin(connection: Connection): Promise<void> {
    if (this.#needed) await connection.throttle(this.#throttle);
  }

  /** Without a limit, rings do not even look. */
  get #needed(): boolean {
    return this.#paused || this.#limits.iops > 0 || this.#limits.bps > 0;
  }
}
