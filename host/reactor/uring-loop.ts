/**
 * A reactor in a thread of its own that waits for one thing at a time: io_uring_enter, which comes back for disk
 * completions, for doorbells and for the wake descriptor alike. Nothing else ever blocks the thread.
 */
import { constants } from "node:os";
import { addressOf } from "../platform/libc.js";
import type { UringEngine } from "../storage/uring/engine.js";
import type { Reactor } from "./reactor.js";

const { EAGAIN, EINTR } = constants.errno;

/** While something waits for Node's event loop (a reply of the hypervisor), how long the thread waits at a time. */
const EVENT_LOOP_MS = 1;

/**
 * With many transfers under way, a wake-up for each would cost more than the transfer. So the thread sleeps until a
 * part of them has ended, but no longer than this once there is something for it to do.
 */
const PATIENCE_US = 30;
const PATIENCE_SHIFT = 2;
const MAX_AWAITED = 16;

export interface UringLoopOptions {
  readonly reactor: Reactor;
  readonly engine: UringEngine;
  /** An eventfd: {@link onWake} is called after somebody has signalled it. */
  readonly wakeFd: number;
  readonly onWake: () => void;
  /** How long to look for work before the thread goes to sleep. */
  readonly pollUs: number;
  /** Called before each wait. */
  readonly onTurn: () => void;
}

export class UringLoop {
  readonly #options: UringLoopOptions;
  /** Where events are read to. */
  readonly #inbox: number;
  /** Things that wait for Node's event loop. */
  #pending = 0;
  /** Whether looking for work has found any lately. */
  #looks = true;
  /** The result of a read of event channels. */
  #rung: number | null = null;
  #woken = false;
  #stopped = false;
  readonly #onRing = (result: number): void => {
    this.#rung = result;
  };
  readonly #hear = (): void => {
    const { events } = this.#options.reactor;
    this.#options.engine.read(events.fd, this.#inbox, events.inbox.byteLength, this.#onRing);
  };
  readonly #onWoken = (): void => {
    this.#woken = true;
  };

  constructor(options: UringLoopOptions) {
    this.#options = options;
    this.#inbox = addressOf(new Uint8Array(options.reactor.events.inbox.buffer));
  }

  /** Lets Node's event loop have its turns until `work` has ended. */
  async alongside<T>(work: Promise<T>): Promise<T> {
    this.#pending++;
    try {
      return await work;
    } finally {
      this.#pending--;
    }
  }

  /** `run` resolves soon. */
  stop(): void {
    this.#stopped = true;
  }

  async run(): Promise<void> {
    const { reactor, engine, wakeFd, pollUs } = this.#options;
    reactor.watching = pollUs > 0;
    reactor.events.unmaskBy((fd, port) => engine.writeWord(fd, port));
    this.#hear();
    engine.poll(wakeFd, this.#onWoken);
    while (!this.#stopped) {
      this.#turn();
      if (this.#pending > 0 || engine.foreign > 0) await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Does what there is to do, and waits where there is nothing more. */
  #turn(): void {
    const { reactor, engine, onTurn } = this.#options;
    const { ring } = engine;
    engine.reap();
    if (this.#woken) this.#wake();
    if (this.#rung !== null) this.#take(this.#rung);
    reactor.turn();
    const { due } = reactor;
    let timeout = Number.POSITIVE_INFINITY;
    if (due !== timeout) {
      timeout = due - performance.now();
      if (timeout <= 0) reactor.tick();
    }
    onTurn();
    if (reactor.ready || this.#stopped || timeout <= 0) ring.enter(0, 0);
    else if (this.#pending > 0 || engine.foreign > 0) this.#sleep(Math.min(timeout, EVENT_LOOP_MS), 1);
    else if (!this.#findWork()) {
      // The frontends are to ring from now on; what they have not rung for is found here.
      if (reactor.listen()) ring.enter(0, 0);
      else this.#sleep(timeout, this.#awaited);
    }
  }

  #wake(): void {
    const { engine, wakeFd, onWake } = this.#options;
    this.#woken = false;
    onWake();
    engine.poll(wakeFd, this.#onWoken);
  }

  /** Takes what a read of the event channels has returned, and reads again. */
  #take(result: number): void {
    const { reactor, engine } = this.#options;
    this.#rung = null;
    if (result === -EAGAIN) {
      engine.poll(reactor.events.fd, this.#hear);
      return;
    }
    if (result !== -EINTR) reactor.received(result);
    this.#hear();
  }

  /** Completions that are worth a wake-up. */
  get #awaited(): number {
    const { ring, underWay } = this.#options.engine;
    return ring.canWaitForMore ? Math.min(underWay >> PATIENCE_SHIFT, MAX_AWAITED) : 1;
  }

  #sleep(timeout: number, awaited: number): void {
    const { engine, pollUs } = this.#options;
    const { ring } = engine;
    // Until now nobody had to signal what is found at the next turn anyway.
    if (engine.askForSignals()) {
      ring.enter(0, 0);
      return;
    }
    if (awaited > 1) {
      ring.enter(awaited, timeout, PATIENCE_US);
      return;
    }
    if (pollUs === 0) {
      ring.enter(1, timeout);
      return;
    }
    const start = performance.now();
    ring.enter(1, timeout);
    // Looking would have found it: it is worth while the next time.
    if ((performance.now() - start) * 1000 < pollUs) this.#looks = true;
  }

  /** Looks for work without sleeping, for some microseconds, as long as that finds any. */
  #findWork(): boolean {
    const { reactor, engine, pollUs } = this.#options;
    const { ring } = engine;
    if (pollUs === 0 || !this.#looks) return false;
    if (ring.prepared > 0) ring.enter(0, 0);
    if (ring.ready > 0 || engine.hasAnswers) return true;
    if (!reactor.quiet()) return false;
    const end = performance.now() + pollUs / 1000;
    do {
      // First, since a guest may never cease to ask. The kernel may promise in vain, and go on promising: it sets the
      // flag after the work that it stands for was done.
      if (ring.promising) {
        ring.enter(0, 0);
        if (ring.ready > 0) return true;
      }
      if (reactor.look() || engine.hasAnswers) return true;
    } while (performance.now() < end);
    this.#looks = false;
    return false;
  }
}
