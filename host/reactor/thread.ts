/** The main thread's end of a reactor thread. */
import { closeSync } from "node:fs";
import type { Worker } from "node:worker_threads";
import type { Counters } from "../core/counters.js";
import { RingView } from "../core/ring-view.js";
import { BUILD } from "../platform/build.js";
import { eventFd, signalEventFd } from "../platform/libc.js";
import type { Store } from "../storage/raw.js";
import type { VhostStore } from "../storage/vhost-user/store.js";
import { type Latency, readLatency } from "./latency.js";
import { returnMemory, takeMemory } from "./memory-pool.js";
import {
  type EngineName,
  type ReactorSettings,
  type Request,
  type Said,
  SharedState,
  type Statistics,
} from "./messages.js";
import type { AttachedRing, AttachOptions } from "./ring-host.js";
import { readRing } from "./ring-state.js";
import { takeThread } from "./spare.js";
import { RingError } from "./start.js";

type Waiting = { resolve: (result: number) => void; reject: (error: Error) => void };
/** What a ring of the thread does its I/O on. */
export interface ThreadDisk {
  readonly store: Store | VhostStore;
  /** Bytes; may change. */
  readonly size: number;
  /** Called when the ring is detached. */
  release?(): Promise<void>;
}

type Listener = Pick<AttachOptions, "onHalt" | "onError">;

export class ReactorThread {
  /** Rings that are attached, or about to be; and those of each domain. */
  rings = 0;
  readonly #domains = new Map<number, number>();
  /** Rejects when the thread cannot start. */
  readonly started: Promise<{ engine: EngineName; missing: string | null }>;
  readonly #worker: Worker;
  readonly #wakeFd = eventFd();
  readonly #shared: SharedState;
  readonly #waiting = new Map<number, Waiting>();
  readonly #listeners = new Map<number, Listener>();
  readonly #exited: Promise<void>;
  readonly #onFailure: (error: Error) => void;
  #nextId = 1;
  #nextRing = 1;
  #running = false;
  #closing = false;
  #ended = false;
  /** A thread that waits in the kernel would keep process.exit() waiting for it. */
  readonly #atExit = (): void => this.#wakeToStop();

  /** `onFailure` is called once if the thread ends by itself; every ring of it is lost then. */
  constructor(
    settings: Omit<ReactorSettings, "build" | "wakeFd" | "shared">,
    onFailure: (error: Error) => void,
  ) {
    const shared = new SharedArrayBuffer(SharedState.BYTES);
    this.#shared = new SharedState(shared);
    this.#onFailure = onFailure;
    const { worker, begin } = takeThread();
    this.#worker = worker;
    begin({ ...settings, build: BUILD, wakeFd: this.#wakeFd, shared });
    process.on("exit", this.#atExit);
    let refuse: (error: Error) => void = () => {};
    this.started = new Promise((resolve, reject) => {
      refuse = reject;
      this.#worker.on("message", (said: Said) => {
        if (said.event !== "started") return this.#heard(said);
        this.#running = true;
        resolve(said);
      });
      this.#worker.on("error", (error) => {
        reject(error);
        this.#fail(error);
      });
    });
    this.started.catch(() => {});
    this.#exited = new Promise((resolve) => {
      this.#worker.once("exit", (code) => {
        this.#ended = true;
        process.off("exit", this.#atExit);
        closeSync(this.#wakeFd);
        const error = new Error(`a reactor thread ended with status ${code}`);
        refuse(error);
        this.#fail(error);
        resolve();
      });
    });
  }

  get statistics(): Statistics {
    return this.#shared.statistics;
  }

  async attach(options: AttachOptions, device: ThreadDisk): Promise<AttachedRing> {
    const { onHalt, onError } = options;
    const number = this.#nextRing++;
    this.#count(options.config.domid, 1);
    this.#listeners.set(number, { onHalt, onError });
    try {
      // Where it cannot start, another may take the ring: the journal is not touched.
      await this.started;
      return await this.#attach(number, options, device);
    } catch (error) {
      this.#forget(number, options.config.domid);
      throw error;
    }
  }

  async #attach(number: number, options: AttachOptions, device: ThreadDisk): Promise<AttachedRing> {
    const { config, ringRefs, remotePort, start, journal } = options;
    const memory = takeMemory(journal);
    const view = new RingView(memory);
    try {
      const port = await this.#ask({
        op: "attach",
        ring: number,
        config,
        ringRefs,
        remotePort,
        start,
        throttle: options.throttle?.buffer ?? null,
        memory: memory.memory,
        base: memory.base,
        store: { ...device.store, bytes: device.size },
      });
      let final: Counters | null = null;
      let finalLatency: Latency | null = null;
      return {
        port,
        get inflight() {
          return final ? 0 : view.inflight;
        },
        counters: () => final ?? view.counters(),
        latency: () => finalLatency ?? readLatency(view),
        throttle: async (throttle) => {
          if (!final) await this.#ask({ op: "throttle", ring: number, throttle: throttle?.buffer ?? null });
        },
        observe: async (how) => {
          if (!final) await this.#ask({ op: "observe", ring: number, how });
        },
        state: () => (final ? null : readRing(view, port)),
        resize: async (sectors) => {
          await this.#ask({ op: "resize", ring: number, bytes: device.size, sectors });
        },
        detach: async () => {
          await this.#ask({ op: "detach", ring: number });
          // Only now: the thread has said that nothing is under way into this memory any more.
          final = view.counters();
          finalLatency = readLatency(view);
          this.#forget(number, config.domid);
          returnMemory(memory, journal);
          await device.release?.();
        },
      };
    } catch (error) {
      if (!this.#ended) returnMemory(memory, journal);
      throw error;
    }
  }

  /** Resolves when it has answered. */
  async answers(): Promise<void> {
    await this.#ask({ op: "ping", ring: null });
  }

  /** To be called when all rings are detached. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#worker.ref();
    this.#wakeToStop();
    await this.#exited;
  }

  /** Whether it has rings of the domain. */
  serves(domid: number): boolean {
    return this.#domains.has(domid);
  }

  #count(domid: number, by: 1 | -1): void {
    this.rings += by;
    const rings = (this.#domains.get(domid) ?? 0) + by;
    if (rings > 0) this.#domains.set(domid, rings);
    else this.#domains.delete(domid);
  }

  #forget(ring: number, domid: number): void {
    this.#count(domid, -1);
    this.#listeners.delete(ring);
  }

  #ask(request: Request): Promise<number> {
    if (this.#ended) return Promise.reject(new Error("the reactor thread of this ring has ended"));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ ...request, id });
      signalEventFd(this.#wakeFd);
    });
  }

  #heard(said: Exclude<Said, { event: "started" }>): void {
    if (said.event === "answer") {
      const waiting = this.#waiting.get(said.id);
      this.#waiting.delete(said.id);
      if (said.error === null) waiting?.resolve(said.result);
      else waiting?.reject(new (said.error.hopeless ? RingError : Error)(said.error.message));
    } else if (said.event === "halt") this.#listeners.get(said.ring)?.onHalt(said.why);
    else this.#listeners.get(said.ring)?.onError(said.operation, new Error(said.message), said.result);
  }

  /** Works in the midst of process.exit(), too. */
  #wakeToStop(): void {
    if (this.#ended) return;
    this.#shared.stop();
    this.#worker.postMessage(null);
    signalEventFd(this.#wakeFd);
  }

  #fail(error: Error): void {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
    // What has never run has no rings to lose, and whoever started it is told.
    if (this.#closing || !this.#running) return;
    this.#closing = true;
    this.#onFailure(error);
  }
}
