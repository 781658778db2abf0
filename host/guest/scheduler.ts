/** Puts the transfers of one disk on its queues. */
import { Rsp } from "./layout.js";
import type { Counters, Queue, QueueOwner } from "./queue.js";
import type { Transfer } from "./transfer.js";

/**
 * A transfer goes into ring requests at once, or waits in line until there is room. Requests that are made in one
 * tick become visible together, with at most one notification for each queue.
 */
export class Scheduler implements QueueOwner {
  readonly counters: Counters;
  /** Filled by whoever connects; until then, calls wait in line. */
  readonly queues: Queue[] = [];
  readonly #onRefused: (transfer: Transfer) => void;
  readonly #onBroken: (error: Error) => void;

  /** The line, in the order of the calls; only the first may be issued in part. */
  #first: Transfer | null = null;
  #last: Transfer | null = null;
  #pending = 0;
  #submitted = 0;
  #nextQueue = 0;
  #pushScheduled = false;
  #stopped = false;
  #onIdle: (() => void) | null = null;
  readonly #push = () => this.#pushAll();

  /**
   * `onRefused` hears of each transfer that the backend did not do, before its caller does; `onBroken` of a backend that
   * broke the protocol.
   */
  constructor(counters: Counters, onRefused: (transfer: Transfer) => void, onBroken: (error: Error) => void) {
    this.counters = counters;
    this.#onRefused = onRefused;
    this.#onBroken = onBroken;
  }

  /** Transfers that have not ended. */
  get pending(): number {
    return this.#pending;
  }

  submit(transfer: Transfer): void {
    this.#pending++;
    transfer.number = this.#submitted++;
    if (this.#last === null) this.#first = transfer;
    else this.#last.next = transfer;
    this.#last = transfer;
    if (this.#first === transfer) this.roomMade();
  }

  /** Resolves when nothing is pending. */
  idle(): Promise<void> {
    return new Promise((resolve) => {
      this.#onIdle = resolve;
      this.#checkIdle();
    });
  }

  /** Fails everything that is pending, and handles no response any more. */
  stop(error: Error): void {
    for (const transfer of this.abandon()) transfer.fail(error);
    this.#checkIdle();
  }

  /** Handles no response any more. Returns all that is pending, in the order of the calls. */
  abandon(): Transfer[] {
    this.#stopped = true;
    const pending = new Set(this.queues.flatMap((queue) => queue.abandon()));
    for (let t = this.#first; t !== null; t = t.next) pending.add(t);
    this.#first = this.#last = null;
    this.#pending = 0;
    return [...pending].sort((a, b) => a.number - b.number);
  }

  answered(transfer: Transfer): void {
    // What is left of a transfer that failed is not worth issuing.
    if (transfer.status !== Rsp.okay) transfer.complete = true;
    if (transfer.complete && transfer.outstanding === 0 && !transfer.settled) this.#end(transfer);
  }

  roomMade(): void {
    for (let t = this.#first; t !== null; t = this.#first) {
      while (!t.complete) if (!this.#issue(t)) return;
      this.#first = t.next;
      if (this.#first === null) this.#last = null;
    }
  }

  broke(error: Error): void {
    this.#onBroken(error);
  }

  /** Issues the next part of a transfer on the next queue that has room. */
  #issue(transfer: Transfer): boolean {
    const count = this.queues.length;
    for (let i = 0; i < count; i++) {
      const queue = this.queues[this.#nextQueue];
      this.#nextQueue = (this.#nextQueue + 1) % count;
      try {
        if (!queue.issue(transfer)) continue;
      } catch (error) {
        // The guest has no grants left. Requests that are under way will give some back.
        if (this.queues.some(({ waiting }) => waiting > 0)) return false;
        transfer.complete = true;
        this.#pending--;
        transfer.fail(error as Error);
        this.#checkIdle();
        return true;
      }
      this.#schedulePush();
      return true;
    }
    return false;
  }

  #schedulePush(): void {
    if (this.#pushScheduled) return;
    this.#pushScheduled = true;
    // Not a microtask: calls that follow from promises of this tick are to come along.
    process.nextTick(this.#push);
  }

  #pushAll(): void {
    this.#pushScheduled = false;
    if (this.#stopped) return;
    for (const queue of this.queues) queue.push();
  }

  #end(transfer: Transfer): void {
    this.#pending--;
    if (transfer.status !== Rsp.okay) this.#onRefused(transfer);
    transfer.settle();
    this.#checkIdle();
  }

  #checkIdle(): void {
    if (this.#pending > 0 || !this.#onIdle) return;
    this.#onIdle();
    this.#onIdle = null;
  }
}
