/** What a connected frontend was told of its disk; finds out what has changed since, and tells it. */
import type { Xenstore } from "../platform/ports.js";
import { XenbusState } from "../platform/xenbus-state.js";
import { type BackendKeys, deviceKeys, type Features } from "./backend-keys.js";
import type { Connection } from "./connection.js";
import { writeInState } from "./xenbus.js";

type Changes = Record<string, string | null>;

export class Announcement {
  readonly #connection: Connection;
  readonly #toolstack: BackendKeys;
  readonly #features: Features;
  readonly #told: Record<string, string>;
  #checking: Promise<void> | null = null;
  #asking: Promise<void> | null = null;
  #asked = false;
  #discardLost = false;

  /** `toolstack` is what the connection was made for, `told` what the frontend knows already, if it does. */
  constructor(
    connection: Connection,
    toolstack: BackendKeys,
    features: Features,
    told: Record<string, string> | null = null,
  ) {
    this.#connection = connection;
    this.#toolstack = toolstack;
    this.#features = features;
    this.#told = told ?? this.#now();
  }

  /** What was told last, or is to be told first. */
  get keys(): Readonly<Record<string, string>> {
    return this.#told;
  }

  /** Bytes. */
  get size(): number {
    return Number(this.#told.sectors) * 512;
  }

  /** The size is to be told, whatever it is. */
  get asked(): boolean {
    return this.#asked;
  }

  /** Asks the store for its size, one time at a time. True when there is something to tell. */
  async check(): Promise<boolean> {
    const check = async (): Promise<void> => {
      try {
        await this.#connection.refreshSize();
      } finally {
        this.#checking = null;
      }
    };
    await (this.#checking ??= check());
    return this.#changes() !== null;
  }

  /** The store has answered that it does not know how to discard: it may live in another thread than its offer. */
  loseDiscard(): void {
    // Where both were offered, it may have been the secure one.
    this.#discardLost = !this.#connection.device.canSecureDiscard;
  }

  /** Looks at the size for somebody who wants it told in any case; resolves when it is known. */
  ask(): Promise<void> {
    const ask = async (): Promise<void> => {
      // A check that is under way may have looked too early.
      await this.#checking;
      await this.check();
      this.#asked = true;
      this.#asking = null;
    };
    return (this.#asking ??= ask());
  }

  /**
   * Writes what has changed, in one transaction. A new size comes with state 4 once more, which is how frontends hear
   * of it (xen_vbd_resize); a feature that is gone is for frontends to come, as the present one finds out itself.
   */
  async tell(xenstore: Xenstore, directory: string): Promise<void> {
    const changes = this.#changes();
    if (!changes || !(await writeInState(xenstore, directory, XenbusState.Connected, changes))) return;
    this.#asked = false;
    for (const [key, value] of Object.entries(changes))
      if (value !== null && key !== "state") this.#told[key] = value;
  }

  #changes(): Changes | null {
    const now = this.#now();
    const changes: Changes = {};
    for (const [key, value] of Object.entries(now)) if (this.#told[key] !== value) changes[key] = value;
    if (this.#asked) Object.assign(changes, { sectors: now.sectors, "resize-device": null });
    if ("sectors" in changes) changes.state = String(XenbusState.Connected);
    return Object.keys(changes).length > 0 ? changes : null;
  }

  #now(): Record<string, string> {
    const keys = deviceKeys(this.#connection.device, this.#toolstack, this.#features);
    return this.#discardLost ? { ...keys, "feature-discard": "0" } : keys;
  }
}
