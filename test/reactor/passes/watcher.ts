/** An observer that does nothing but check that a ring calls it as observer.ts says. */
import type { BlkifCore } from "../../../host/core/blkif.js";
import type { RingObserver } from "../../../host/reactor/observer.js";
import { insist } from "./faults.js";

export class Watcher implements RingObserver {
  readonly wantsRest: boolean;
  state: "waits" | "between" | "called" | "granted" | "ended" = "waits";

  constructor(wantsRest: boolean) {
    this.wantsRest = wantsRest;
  }

  #go(from: readonly string[], to: Watcher["state"], what: string): void {
    insist(from.includes(this.state), `an observer in state ${this.state} hears: ${what}`);
    this.state = to;
  }

  begin(core: BlkifCore): void {
    this.#go(["waits"], "between", "begin");
    if (!this.wantsRest) return;
    insist(core.inflight === 0 && core.persistentPages === 0, "the ring is not at rest");
  }

  passBegins(): void {
    this.#go(["between"], "granted", "pass begins");
  }

  stepped(): void {
    this.#go(["granted"], "called", "stepped");
  }

  granted(): void {
    this.#go(["called"], "granted", "granted");
  }

  passEnds(): void {
    this.#go(["called"], "between", "pass ends");
  }

  trimmed(): void {
    this.#go(["between"], "between", "trimmed");
  }

  resized(): void {
    this.#go(["between"], "between", "resized");
  }

  end(): void {
    this.#go(["waits", "between", "called", "granted"], "ended", "end");
  }
}
