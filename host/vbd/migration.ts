/**
 * A guest that is suspended, to be saved or migrated (docs/migration.md). It may go on elsewhere at any time, so it is left
 * nothing of the disk here: what is in flight ends, all is flushed, and the disk is closed with its locks. Rings and journals
 * stay as for a restart. A guest that goes on here has them taken over (adoption.ts), once the disk is open again.
 */
import type { VbdHost } from "./host.js";
import type { VbdId } from "./name.js";

export class Migration {
  readonly #host: VbdHost;
  readonly #id: VbdId;
  readonly #say: (kind: string, line: string) => void;
  /** The guest was suspended when it was asked for last, and its disk is being released. */
  #under = false;
  #released = false;
  /** A flush has failed: the disk stays here for as long as the guest is suspended. */
  #stays = false;

  constructor(host: VbdHost, id: VbdId, say: (kind: string, line: string) => void) {
    this.#host = host;
    this.#id = id;
    this.#say = say;
  }

  /** What the vbd waits for while its guest is suspended; null while it is not. */
  get waitsFor(): string | null {
    if (!this.#under) return null;
    return this.#released
      ? "the guest to continue, here or on another host: migrating, its disk is released"
      : "requests to end and data to be flushed: migrating, its disk is to be released";
  }

  /** Asks whether the disk is to be left to others. */
  async wanted(): Promise<boolean> {
    const { isSuspended, leave, journals } = this.#host;
    const can = isSuspended !== undefined && leave !== undefined && journals !== undefined;
    const suspended = can && (await isSuspended(this.#id.domid)) === true;
    if (!suspended) this.#stays = false;
    this.#under = suspended && !this.#stays;
    this.#released &&= this.#under;
    return this.#under;
  }

  /** The vbd has nothing more to do with its guest. */
  end(): void {
    this.#under = this.#released = this.#stays = false;
  }

  /** The disk is closed; `name` is that of the one that was in use, if any. */
  left(name: string | null): void {
    this.#released = true;
    if (name === null) return;
    this.#say(
      "migration",
      `the guest is suspended: its writes to ${name} are flushed, and the disk is released`,
    );
  }

  /** What was written cannot be flushed. The lock keeps others from going on without it. */
  stay(name: string): void {
    this.#stays = true;
    this.#under = false;
    this.#say(
      "trouble",
      `the guest is suspended, and its writes to ${name} cannot be flushed: the disk is not released; resume the guest on this host, where its writes and flushes fail`,
    );
  }
}
