/** Carries out the orders for a queue, in the queue's thread. */
import { signalEventFd } from "../../platform/libc.js";
import type { QueueDisk } from "./queue-disk.js";
import { Fault, Order, QueueState, type VhostStore } from "./store.js";

export interface FollowerOptions {
  readonly store: VhostStore;
  readonly disk: QueueDisk;
  /** Maps the queue's slice of a memfd instead of the one before, with the data that are there; returns its control part. */
  readonly connect: (memoryFd: number, before: number) => ArrayBuffer;
}

export class Follower {
  readonly #options: FollowerOptions;
  readonly #state: QueueState;

  /** Begins with the order that is there. */
  constructor(options: FollowerOptions) {
    this.#options = options;
    this.#state = new QueueState(options.store.state);
    // Also where there is no connection: what comes meanwhile is in the memory of the last one.
    this.#connect();
    this.obey();
  }

  /** There may be a new order. */
  obey(): void {
    const { disk, store } = this.#options;
    const { wanted } = this.#state;
    if (this.#state.obeyed) return;
    const order = wanted & 3;
    if (order === Order.run) this.#run();
    else if (order === Order.park) disk.park();
    else if (order === Order.fail)
      disk.fail(`no connection to the server within ${store.reconnectMs / 1000} s after it was lost`);
    else disk.lose("the server is lost");
    this.#state.obey(wanted);
    signalEventFd(store.reportFd);
  }

  /** The queue cannot go on. */
  report(fault: number): void {
    this.#state.fault = fault;
    signalEventFd(this.#options.store.reportFd);
  }

  #run(): void {
    try {
      this.#options.disk.resume(this.#connect());
    } catch (error) {
      this.#options.disk.lose((error as Error).message);
      this.report(Fault.memory);
    }
  }

  #connect(): ArrayBuffer {
    const { memoryFd, usedFd } = this.#state;
    const control = this.#options.connect(memoryFd, usedFd);
    this.#state.use(memoryFd);
    return control;
  }
}
