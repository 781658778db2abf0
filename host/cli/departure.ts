/** How `xbdback serve` ends: every disk that can be released is, at once; what cannot be waits for its storage, alone. */
import { setTimeout as sleep } from "node:timers/promises";
import type { HandOver, Unreleased } from "../daemon/replace.js";
import type { Daemon } from "../daemon/serve.js";
import { exitAtOnce } from "../platform/libc.js";
import type { Log } from "../vbd/vbd-log.js";
import { Exit } from "./errors.js";

/** Healthy disks are released in a few milliseconds. After so long those that hang are named, and a successor may begin. */
const RELEASE_MS = 800;
const LOOK_MS = 50;

export class Departure {
  /** Resolves when a successor wants this process to stop. */
  readonly asked: Promise<void>;
  #ask = (): void => {};
  #tell: (unreleased: readonly Unreleased[]) => void = () => {};
  readonly #released: Promise<readonly Unreleased[]>;

  constructor() {
    this.asked = new Promise((resolve) => {
      this.#ask = resolve;
    });
    this.#released = new Promise((resolve) => {
      this.#tell = resolve;
    });
  }

  /** A successor asks. Resolves with what is not released when all else is. */
  async ask(): Promise<HandOver> {
    this.#ask();
    return { unreleased: await this.#released };
  }

  /**
   * Stops the daemon. What is in flight after so many seconds is left to the next one, and the process ends without a return; so
   * it does where nothing is in flight on the disks that hang.
   */
  async drain(daemon: Daemon, seconds: number, log: Log): Promise<void> {
    const stopped = daemon.stop().then(() => true);
    const within = (ms: number): Promise<boolean> =>
      Promise.race([stopped, sleep(ms, false, { ref: false })]);
    if (await within(RELEASE_MS)) return this.#tell([]);
    const end = performance.now() - RELEASE_MS + seconds * 1000;
    const left = (): number => Math.max(0, end - performance.now());
    let unreleased = daemon.unreleased();
    // Those that are only slow are worth waiting for.
    while (unreleased.some(({ hangs }) => !hangs) && left() > 0) {
      if (await within(LOOK_MS)) return this.#tell([]);
      unreleased = daemon.unreleased();
    }
    if (unreleased.length === 0) {
      // Threads of ours are still to end, for which a slow machine takes its time.
      this.#tell([]);
      if (!(await within(left()))) exitAtOnce(Exit.ok);
      return;
    }
    const level = "warning";
    for (const { name, why } of unreleased) log(`${name}: not released: ${why}`, { level });
    log(`xbdback: ${unreleased.length} disks are not released; all others are`, { level });
    this.#tell(unreleased);
    const inflight = unreleased.some((one) => one.inflight > 0);
    if (inflight) {
      if (await within(left())) return;
      log(
        `xbdback: requests are still in flight after ${seconds} s, and are left to the journals: the next daemon does them ` +
          "again when the disk has released them",
        { level },
      );
    } else {
      // The answer is still to be sent.
      await sleep(20);
    }
    exitAtOnce(inflight ? Exit.busy : Exit.ok);
  }
}
