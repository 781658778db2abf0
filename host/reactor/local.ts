/** Serves rings in this thread, whatever their disk is. */
import { RingView } from "../core/ring-view.js";
import type { EventChannels, GrantTable } from "../platform/ports.js";
import { Activity } from "./activity.js";
import { DeviceQueue } from "./device-queue.js";
import { EventLoopDriver } from "./event-loop.js";
import { noteFlushErrno } from "./journal.js";
import { type Latency, readLatency } from "./latency.js";
import { returnMemory, takeMemory } from "./memory-pool.js";
import { makeObserver } from "./observing.js";
import { Reactor } from "./reactor.js";
import type { AttachedRing, AttachOptions, RingHost } from "./ring-host.js";
import { readRing } from "./ring-state.js";

export class LocalRingHost implements RingHost {
  readonly #reactor: Reactor;
  readonly #driver: EventLoopDriver;

  /** Takes both handles over; `close` closes them. */
  constructor(events: EventChannels, grants: GrantTable, activity = new Activity()) {
    this.#reactor = new Reactor(events, grants, activity);
    this.#driver = new EventLoopDriver(this.#reactor);
  }

  get threads(): [] {
    return [];
  }

  get mappedPages(): number {
    return this.#reactor.mappedPages;
  }

  async attach({ remotePort, device, journal, ...options }: AttachOptions): Promise<AttachedRing> {
    const reactor = this.#reactor;
    const memory = takeMemory(journal);
    const view = new RingView(memory);
    try {
      const ring = await reactor.attach(
        {
          ...options,
          memory,
          device,
          makeQueue: (core, owner) => new DeviceQueue(device, core, owner),
          onError(operation, error, result) {
            noteFlushErrno(memory, device.flushErrno ?? 0);
            options.onError(operation, error, result);
          },
        },
        remotePort,
      );
      let latency: Latency | null = null;
      return {
        port: ring.port,
        get inflight() {
          return ring.inflight;
        },
        counters: () => ring.counters(),
        latency: () => latency ?? readLatency(view),
        throttle: async (throttle) => ring.setThrottle(throttle),
        observe: async (how) => ring.observe(how && makeObserver(how)),
        state: () => (ring.detached ? null : readRing(view, ring.port)),
        resize: async (sectors) => ring.resize(sectors),
        async detach() {
          // What is in flight has ended when the ring lets go; whatever goes wrong then, nobody writes there any more.
          await reactor.detach(ring).finally(() => {
            latency = readLatency(view);
            returnMemory(memory, journal);
          });
        },
      };
    } catch (error) {
      returnMemory(memory, journal);
      throw error;
    }
  }

  async answers(): Promise<void> {}

  async close(): Promise<void> {
    this.#driver.close();
    await this.#reactor.close();
  }
}
