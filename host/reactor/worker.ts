/** A reactor thread: rings that the main thread hands over, and nothing of the control plane. */
import { once } from "node:events";
import { type MessagePort, parentPort, receiveMessageOnPort, workerData } from "node:worker_threads";
import { coreModule } from "../core/load.js";
import { viewMemory } from "../core/memory.js";
import { BUILD } from "../platform/build.js";
import { readNonBlocking } from "../platform/libc.js";
import { openDomain } from "../platform/platform.js";
import { Result } from "../storage/device.js";
import type { IoEngine } from "../storage/engine.js";
import { libuvEngine } from "../storage/libuv.js";
import { UringEngine } from "../storage/uring/engine.js";
import { Activity } from "./activity.js";
import { Disks } from "./disks.js";
import { EventLoopDriver } from "./event-loop.js";
import { noteFlushErrno } from "./journal.js";
import { type Ask, type ReactorSettings, type Request, type Said, SharedState } from "./messages.js";
import { makeObserver } from "./observing.js";
import { Reactor } from "./reactor.js";
import type { Ring } from "./ring.js";
import { type RingDisk, ringDisk } from "./ring-disk.js";
import { RingError } from "./start.js";
import { Throttle } from "./throttle.js";
import { UringLoop } from "./uring-loop.js";

interface Served {
  readonly ring: Ring;
  readonly disk: RingDisk;
}

/** The main thread says no more than a line a second of each kind; it need not hear of each failed I/O. */
const ERROR_INTERVAL_MS = 100;

const port = parentPort as NonNullable<typeof parentPort>;
// What takes time is done before anybody waits for it.
coreModule();
const begin = workerData as MessagePort;
const [given] = (await once(begin, "message")) as [ReactorSettings | null];
begin.close();
// Not wanted after all. This ends the thread.
if (given === null) process.exit();
const settings: ReactorSettings = given;
if (settings.build !== BUILD)
  throw new Error("xbdback was replaced by another release since this process began");
const shared = new SharedState(settings.shared);
const activity = new Activity(settings.activity);
const say = (said: Said): void => port.postMessage(said);

class ReactorThread {
  readonly #reactor: Reactor;
  readonly #engine: IoEngine;
  readonly #disks: Disks;
  readonly #rings = new Map<number, Served>();

  constructor(reactor: Reactor, engine: IoEngine) {
    this.#reactor = reactor;
    this.#engine = engine;
    this.#disks = new Disks(engine, activity);
  }

  async answer(ask: Ask): Promise<void> {
    const { id } = ask;
    try {
      say({ event: "answer", id, result: await this.#carryOut(ask), error: null });
    } catch (error) {
      const refusal = { message: (error as Error).message, hopeless: error instanceof RingError };
      say({ event: "answer", id, result: 0, error: refusal });
    }
    this.publish();
  }

  publish(): void {
    const { mappedPages, passes, eventReads } = this.#reactor;
    const engine = this.#engine;
    const uring = engine instanceof UringEngine ? engine.ring : null;
    shared.write(mappedPages, passes, eventReads, uring?.enters ?? 0, uring?.submitted ?? 0);
  }

  async #carryOut(ask: Request): Promise<number> {
    if (ask.op === "attach") return this.#attach(ask);
    if (ask.op === "ping") return 0;
    const served = this.#rings.get(ask.ring);
    if (served === undefined) throw new Error(`no such ring: ${ask.ring}`);
    if (ask.op === "detach") {
      this.#rings.delete(ask.ring);
      await this.#reactor.detach(served.ring).finally(() => served.disk.release());
    } else if (ask.op === "throttle") {
      served.ring.setThrottle(ask.throttle && new Throttle(ask.throttle));
    } else if (ask.op === "observe") {
      served.ring.observe(ask.how && makeObserver(ask.how));
    } else {
      served.disk.noteSize(ask.bytes);
      served.ring.resize(ask.sectors);
    }
    return 0;
  }

  async #attach(ask: Extract<Request, { op: "attach" }>): Promise<number> {
    const { ring: number, config, ringRefs, remotePort, start, throttle, store } = ask;
    const memory = viewMemory(ask.memory, ask.base);
    const disk = await ringDisk(store, this.#disks, this.#engine, activity);
    let told = Number.NEGATIVE_INFINITY;
    const incapable = new Set<string>();
    try {
      const ring = await this.#reactor.attach(
        {
          config,
          ringRefs,
          memory,
          start,
          throttle: throttle && new Throttle(throttle),
          device: disk.identity,
          makeQueue: (core, owner) => disk.makeQueue(core, owner),
          onHalt: (why) => say({ event: "halt", ring: number, why }),
          onError: (operation, error, result) => {
            noteFlushErrno(memory, disk.flushErrno);
            const now = performance.now();
            // What the store cannot do is to be known, even if there was another error a moment ago.
            const news = result === Result.Unsupported && !incapable.has(operation);
            if (now - told < ERROR_INTERVAL_MS && !news) return;
            told = now;
            if (news) incapable.add(operation);
            const message = error?.message ?? "unknown error";
            say({ event: "error", ring: number, operation, message, result });
          },
        },
        remotePort,
      );
      this.#rings.set(number, { ring, disk });
      return ring.port;
    } catch (error) {
      await disk.release();
      throw error;
    }
  }
}

/** The engine, and why it is not io_uring where that was wanted. */
function makeEngine(): { engine: IoEngine; missing: string | null } {
  if (settings.engine === "libuv") return { engine: libuvEngine, missing: null };
  try {
    return { engine: new UringEngine(), missing: null };
  } catch (error) {
    if (settings.engine === "io_uring") throw error;
    return { engine: libuvEngine, missing: (error as Error).message };
  }
}

/** Empties the eventfd: every signal so far is answered by one look. */
const signals = new Uint8Array(8);
function takeSignals(): void {
  readNonBlocking(settings.wakeFd, signals);
}

async function serveBlocking(thread: ReactorThread, reactor: Reactor, engine: UringEngine): Promise<void> {
  const loop: UringLoop = new UringLoop({
    reactor,
    engine,
    wakeFd: settings.wakeFd,
    pollUs: settings.pollUs,
    onTurn: () => thread.publish(),
    onWake() {
      takeSignals();
      if (shared.stopping) loop.stop();
      for (let got = receiveMessageOnPort(port); got; got = receiveMessageOnPort(port)) {
        if (got.message !== null) void loop.alongside(thread.answer(got.message as Ask));
      }
    },
  });
  await loop.run();
}

async function serveOnEventLoop(thread: ReactorThread, reactor: Reactor): Promise<void> {
  const driver = new EventLoopDriver(reactor);
  await new Promise<void>((resolve) => {
    const statistics = setInterval(() => thread.publish(), 100);
    port.on("message", (message: Ask | null) => {
      // Null: there is none, but the thread is to end.
      if (message !== null) {
        void thread.answer(message);
        return;
      }
      clearInterval(statistics);
      port.close();
      resolve();
    });
  });
  driver.close();
}

const domain = await openDomain(settings.platform);
const reactor = new Reactor(await domain.eventChannels(), await domain.grantTable(), activity);
const { engine, missing } = makeEngine();
const thread = new ReactorThread(reactor, engine);
say({ event: "started", engine: engine instanceof UringEngine ? "io_uring" : "libuv", missing });
if (engine instanceof UringEngine) await serveBlocking(thread, reactor, engine);
else await serveOnEventLoop(thread, reactor);
await reactor.close();
engine.close();
await domain.close();
