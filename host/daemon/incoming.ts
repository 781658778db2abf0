/**
 * The disk of a guest that migrates to this host. Its lock is the other host's until the guest is suspended there, so it is
 * waited for, where any other disk in use would be refused. Each attempt reads all of the disk's metadata anew, once the lock
 * is ours.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Outage } from "../storage/device.js";
import { DeviceError, isBusy } from "../storage/open.js";
import { type VbdId, vbdName } from "../vbd/name.js";

/** Less than the hotplug script waits for an answer, so that its user hears the reason. */
const INCOMING_MS = 25_000;
const RETRY_MS = 20;

/** The name that xl gives to a domain while it migrates here. */
const INCOMING = "--incoming";

interface Wait {
  readonly ended: AbortController;
  outage: Outage | null;
}

export class Incoming {
  readonly #nameOf: (domid: number) => Promise<string | null>;
  readonly #waitMs: number;
  readonly #waits = new Map<string, Wait>();

  /** `nameOf` tells the toolstack's name of a domain, null where that cannot be read. */
  constructor(nameOf: (domid: number) => Promise<string | null>, waitMs = INCOMING_MS) {
    this.#nameOf = nameOf;
    this.#waitMs = waitMs;
  }

  /** What a vbd waits for; null where it does not. */
  outageOf(vbd: VbdId): Outage | null {
    return this.#waits.get(vbdName(vbd))?.outage ?? null;
  }

  /** The vbd is to be without a disk: whoever waits for it is refused now. */
  giveUp(vbd: VbdId): void {
    this.#waits.get(vbdName(vbd))?.ended.abort();
  }

  /** Opens a vbd's disk; that of a guest which migrates here as soon as nobody else has it. Rejects as `open` does. */
  async open<T>(vbd: VbdId, open: () => Promise<T>, say: (line: string) => void): Promise<T> {
    const name = vbdName(vbd);
    const wait: Wait = { ended: new AbortController(), outage: null };
    this.#waits.set(name, wait);
    const end = performance.now() + this.#waitMs;
    try {
      for (;;) {
        try {
          return await open();
        } catch (error) {
          await this.#check(error, vbd, wait, end);
          if (wait.outage === null) say(this.#note(wait, (error as Error).message));
          await sleep(RETRY_MS, undefined, { signal: wait.ended.signal }).catch(() => {});
        }
      }
    } finally {
      this.#waits.delete(name);
    }
  }

  /** Rejects with the error where it is not, or no longer, waited for the end of its reason. */
  async #check(error: unknown, vbd: VbdId, { ended }: Wait, end: number): Promise<void> {
    if (!isBusy(error) || ended.signal.aborted) throw error;
    if (!(await this.#nameOf(vbd.domid))?.endsWith(INCOMING)) throw error;
    if (performance.now() > end) throw late(error, this.#waitMs / 1000);
  }

  #note(wait: Wait, why: string): string {
    const reason = `${why}; its guest migrates to this host, which waits up to ${this.#waitMs / 1000} s for the disk`;
    wait.outage = { reason, since: Date.now() };
    return reason;
  }
}

function late(error: DeviceError, seconds: number): DeviceError {
  const why = error.message.slice(error.path.length + 2);
  return new DeviceError(
    error.errno,
    error.path,
    `${why}; waited ${seconds} s for the host that the guest comes from`,
    error.holder,
  );
}
