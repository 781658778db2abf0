/**
 * Threads of our own for calls that may wait for storage and that io_uring does not have. A call that waits keeps its thread; so
 * there is another one for whatever comes next, and no number of calls that wait keeps it waiting. A thread costs some 8 MiB
 * and 30 ms, so one or two serve all calls as long as they return soon, as they do unless storage hangs.
 */
import { constants } from "node:os";
import { Worker } from "node:worker_threads";
import { SystemError } from "../../platform/libc.js";
import type { Answer, Arguments, CallName, Order, Outcome } from "./table.js";

/** Calls that are carried out beside each other before one of them counts as waiting. */
const SIDE_BY_SIDE = 2;
/** After so long it does. */
const WAITS_MS = 20;
/** Threads that are kept for later. */
const IDLE = 1;

interface Job extends Order {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

interface Thread {
  readonly worker: Worker;
  job: Job | null;
  /** When it got its job, by performance.now(). */
  since: number;
}

class Threads {
  readonly #all = new Set<Thread>();
  readonly #queue: Job[] = [];
  #timer: NodeJS.Timeout | null = null;

  run<N extends CallName>(name: N, args: Arguments<N>): Promise<Answer<N>> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ name, args, resolve: resolve as (value: unknown) => void, reject });
      this.#serve();
    });
  }

  #serve(): void {
    while (this.#queue.length > 0) {
      const thread = this.#choose();
      if (thread === null) break;
      this.#begin(thread, this.#queue.shift() as Job);
    }
    if (this.#queue.length > 0) this.#timer ??= setTimeout(() => this.#again(), WAITS_MS);
  }

  #again(): void {
    this.#timer = null;
    this.#serve();
  }

  /** An idle thread, or a new one if all the others wait. */
  #choose(): Thread | null {
    const now = performance.now();
    let active = 0;
    for (const thread of this.#all) {
      if (thread.job === null) return thread;
      if (now - thread.since < WAITS_MS) active++;
    }
    return active < SIDE_BY_SIDE ? this.#start() : null;
  }

  #begin(thread: Thread, job: Job): void {
    thread.job = job;
    thread.since = performance.now();
    // As every call of node:fs, it keeps the process alive.
    thread.worker.ref();
    thread.worker.postMessage({ name: job.name, args: job.args } satisfies Order);
  }

  #start(): Thread {
    // It opens descriptors that are other threads' to close.
    const worker = new Worker(new URL("./call-thread.js", import.meta.url), { trackUnmanagedFds: false });
    const thread: Thread = { worker, job: null, since: 0 };
    this.#all.add(thread);
    worker.on("message", (outcome: Outcome) => this.#ended(thread, outcome));
    worker.on("error", (error) => {
      this.#all.delete(thread);
      thread.job?.reject(new SystemError(thread.job.name, whyNotStarted(error), ""));
      this.#serve();
    });
    return thread;
  }

  #ended(thread: Thread, outcome: Outcome): void {
    const job = thread.job as Job;
    thread.job = null;
    thread.worker.unref();
    if ("value" in outcome) job.resolve(outcome.value);
    else job.reject(new SystemError(outcome.syscall, outcome.errno, outcome.what));
    this.#serve();
    const idle = [...this.#all].filter((other) => other.job === null);
    if (thread.job !== null || idle.length <= IDLE) return;
    this.#all.delete(thread);
    void thread.worker.terminate();
  }
}

/** The errno for which there is no thread: Node says "Worker initialization failure: EMFILE". */
function whyNotStarted({ message }: Error): number {
  const name = /\b(E[A-Z]+)$/.exec(message)?.[1] as keyof typeof constants.errno | undefined;
  return (name && constants.errno[name]) ?? constants.errno.EAGAIN;
}

let threads: Threads | null = null;

/** Carries out a call in a thread where nothing else waits for it. Rejects with a {@link SystemError}. */
export function inThread<N extends CallName>(name: N, ...args: Arguments<N>): Promise<Answer<N>> {
  threads ??= new Threads();
  return threads.run(name, args);
}
