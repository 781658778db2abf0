/** A reactor on Node's event loop: in a thread that has other things to do, or where there is no io_uring. */
import { type Poll, pollReadable } from "../platform/libc.js";
import type { Reactor } from "./reactor.js";

/** Serves the reactor's rings from now on; `close` ends that and leaves the reactor alone. */
export class EventLoopDriver {
  readonly #reactor: Reactor;
  readonly #poll: Poll;
  #turning = false;
  #timer: NodeJS.Timeout | null = null;
  #timerDue = Number.POSITIVE_INFINITY;
  readonly #turn = (): void => {
    this.#turning = false;
    this.#reactor.turn();
    this.#setTimer();
  };
  readonly #tick = (): void => {
    this.#timer = null;
    this.#timerDue = Number.POSITIVE_INFINITY;
    this.#reactor.tick();
    this.#setTimer();
  };

  constructor(reactor: Reactor) {
    this.#reactor = reactor;
    this.#poll = pollReadable(reactor.events.fd, () => {
      reactor.dispatch();
      this.#setTimer();
    });
    reactor.onReady = () => {
      if (this.#turning) return;
      this.#turning = true;
      setImmediate(this.#turn);
    };
  }

  close(): void {
    this.#poll.close();
    if (this.#timer) clearTimeout(this.#timer);
  }

  #setTimer(): void {
    const { due } = this.#reactor;
    if (due >= this.#timerDue || due === Number.POSITIVE_INFINITY) return;
    if (this.#timer) clearTimeout(this.#timer);
    this.#timerDue = due;
    this.#timer = setTimeout(this.#tick, Math.max(due - performance.now(), 1)).unref();
  }
}
