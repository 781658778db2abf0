/**
 * Drives a reactor as event-loop.ts and uring-loop.ts do: it calls turn() when the reactor has asked for that, and never
 * otherwise; it looks at what is due after each call; and where it polls, it listens again before it sleeps.
 */
import assert from "node:assert/strict";
import type { Reactor } from "../../../host/reactor/reactor.js";
import { type Credit, QUANTUM } from "../../../host/reactor/turns.js";
import type { Platform } from "./platform.js";

export class Driver {
  /** It will call turn(), as it was told to. */
  told = false;
  /** When its timer rings. */
  timer = Number.POSITIVE_INFINITY;
  turning = false;
  readonly #reactor: Reactor;
  readonly #platform: Platform;

  constructor(reactor: Reactor, platform: Platform) {
    this.#reactor = reactor;
    this.#platform = platform;
    reactor.onReady = () => {
      this.told = true;
    };
  }

  #setTimer(): void {
    this.timer = Math.min(this.timer, this.#reactor.due);
  }

  /** True where there was an event to read. */
  dispatch(): boolean {
    if (this.#platform.readable.length === 0) return false;
    this.#reactor.dispatch();
    this.#setTimer();
    return true;
  }

  /** `domains` have a ring that is ready. */
  turn(domains: ReadonlySet<number>): void {
    if (!this.told) return;
    this.told = false;
    this.#platform.copied.clear();
    this.turning = true;
    this.#reactor.turn();
    this.turning = false;
    this.#setTimer();
    if (domains.size > 1) for (const copied of this.#platform.copied.values()) this.#checkCopied(copied);
  }

  /** What a guest has had copied in a turn beside others. */
  #checkCopied({ segments, bytes }: Credit): void {
    assert.ok(
      segments <= QUANTUM.segments,
      `${segments} segments were copied in a turn, of ${QUANTUM.segments}`,
    );
    assert.ok(bytes < QUANTUM.bytes + 4096, `${bytes} bytes were copied in a turn, of ${QUANTUM.bytes}`);
  }

  tick(now: number): void {
    if (this.timer > now) return;
    this.timer = Number.POSITIVE_INFINITY;
    this.#reactor.tick();
    this.#setTimer();
  }

  /** Looks for requests so often instead of sleeping; `others` do something meanwhile. */
  poll(times: number, others: () => void): void {
    if (this.told) return;
    if (this.#reactor.quiet()) {
      for (let i = 0; i < times; i++) {
        others();
        if (!this.#reactor.look()) continue;
        assert.ok(this.told, "requests were found, and nobody takes them");
        return;
      }
    }
    this.#reactor.listen();
  }

  /** Whether it may sleep: frontends that were asked for no events are heard again. */
  maySleep(): boolean {
    return !this.#reactor.listen();
  }
}
