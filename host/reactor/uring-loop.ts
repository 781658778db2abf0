/**
 * A reactor in a thread of its own that waits for one thing at a time: io_uring_enter, which comes back for disk
 * completions, for doorbells and for the wake descriptor alike. Nothing else ever blocks the thread.
 */
import type { UringEngine } from "../storage/uring/engine.js";
import type { Reactor } from "./reactor.js";

/** While something waits for Node's event loop (a reply of the hypervisor), how long the thread waits at a time. */
const EVENT_LOOP_MS = 1;

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
  /** Things that wait for Node's event loop. */
  #pending = 0;
  #rung = false;
  #woken = false;
  #stopped = false;
  readonly #onRing = (): void => {
    this.#rung = true;
  };
  readonly #onWoken = (): void => {
    this.#woken = true;
  };

  constructor(options: UringLoopOptions) {
    this.#options = options;
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
    const { reactor, engine, wakeFd } = this.#options;
    engine.poll(reactor.fd, this.#onRing);
    engine.poll(wakeFd, this.#onWoken);
    while (!this.#stopped) {
      this.#turn();
      if (this.#pending > 0 || engine.foreign > 0) await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Does what there is to do, and waits where there is nothing more. */
  #turn(): void {
    const { reactor, engine, wakeFd, onWake, onTurn } = this.#options;
    const { ring } = engine;
    engine.reap();
    if (this.#woken) {
      this.#woken = false;
      onWake();
      engine.poll(wakeFd, this.#onWoken);
    }
    if (this.#rung) {
      this.#rung = false;
      reactor.dispatch();
      engine.poll(reactor.fd, this.#onRing);
    }
    reactor.turn();
    const { due } = reactor;
    let timeout = Number.POSITIVE_INFINITY;
    if (due !== timeout) {
      timeout = due - performance.now();
      if (timeout <= 0) reactor.tick();
    }
    onTurn();
    if (reactor.ready || this.#stopped || timeout <= 0) ring.enter(0, 0);
    else if (this.#pending > 0 || engine.foreign > 0) ring.enter(1, Math.min(timeout, EVENT_LOOP_MS));
    else ring.enter(1, timeout);
  }
}
