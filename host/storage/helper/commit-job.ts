/**
 * QEMU's job that copies what is in an overlay into its base, while a guest goes on writing to the overlay. It is ended by this
 * daemon, at a moment without requests: then both have the same content, and whichever is opened next is right.
 */
import { Monitor } from "./monitor.js";
import { BASE_NODE } from "./storage-daemon.js";

const ID = "commit";
/** A guest may write for ever as fast as is copied. So much is left for the moment in which it waits. */
const LITTLE_BYTES = 32 << 20;
/** How long it may wait for that. */
const LAST_MS = 5000;
const CANCEL_MS = 20_000;
const LOOK_MS = 200;
/** While it waits. */
const LAST_LOOK_MS = 10;

interface Job {
  readonly status: string;
  /** Bytes. */
  readonly copied: number;
  readonly total: number;
  readonly error: string | null;
}

export class CommitJob {
  readonly #monitor: Monitor;
  #wake: () => void = () => {};

  private constructor(monitor: Monitor) {
    this.#monitor = monitor;
    monitor.onEvent = () => this.#wake();
    monitor.onEnd = () => this.#wake();
  }

  /** Begins, in the helper that takes its jobs at this socket. Rejects with why not. */
  static async begin(socket: string): Promise<CommitJob> {
    const monitor = await Monitor.connect(socket);
    const job = new CommitJob(monitor);
    try {
      const nodes = { device: "disk", "base-node": BASE_NODE };
      await monitor.execute("block-commit", { "job-id": ID, ...nodes, "auto-dismiss": false });
      return job;
    } catch (error) {
      monitor.close();
      throw error;
    }
  }

  /** Resolves when little is left. Rejects with why it has failed, or when the signal comes. */
  async copy(signal: AbortSignal, progress: (job: Job) => void): Promise<void> {
    const stop = (): void => this.#wake();
    signal.addEventListener("abort", stop);
    try {
      for (;;) {
        const job = await this.#look();
        progress(job);
        if (signal.aborted) throw new Error("it was given up");
        if (job.status === "concluded") throw new Error("it was cancelled");
        if (job.status === "ready" || (job.copied > 0 && job.total - job.copied <= LITTLE_BYTES)) return;
        await this.#wait(LOOK_MS);
      }
    } finally {
      signal.removeEventListener("abort", stop);
    }
  }

  /** Copies the rest, without a guest, and puts the base into the place of the overlay. Rejects with why it has failed. */
  async complete(milliseconds = LAST_MS): Promise<void> {
    const end = performance.now() + milliseconds;
    await this.#reach("ready", end);
    await this.#monitor.execute("job-complete", { id: ID });
    await this.#reach("concluded", end);
    await this.#monitor.execute("job-dismiss", { id: ID });
  }

  /** Ends it, while the guest goes on: what it is writing just now may take its time. */
  async cancel(milliseconds = CANCEL_MS): Promise<void> {
    const end = performance.now() + milliseconds;
    await this.#monitor.execute("job-cancel", { id: ID });
    while ((await this.#find())?.status !== "concluded" && performance.now() < end)
      await this.#wait(LAST_LOOK_MS);
  }

  /** It is not listened to any more; it ends with its helper. */
  close(): void {
    this.#monitor.close();
  }

  async #reach(status: string, end: number): Promise<void> {
    for (;;) {
      const job = await this.#look();
      if (job.status === status) return;
      if (job.status === "concluded") throw new Error("it was cancelled");
      if (performance.now() > end)
        throw new Error("the base takes too long for the last writes; check the storage below it");
      await this.#wait(LAST_LOOK_MS);
    }
  }

  /** Throws where it has failed. */
  async #look(): Promise<Job> {
    const job = await this.#find();
    if (job === null) throw new Error("the helper does not know of it any more");
    if (job.error !== null) throw new Error(job.error);
    return job;
  }

  async #find(): Promise<Job | null> {
    const jobs = await this.#monitor.execute("query-jobs");
    return (Array.isArray(jobs) ? jobs : []).map(jobIn).find((job) => job !== null) ?? null;
  }

  /** Until something happens, or it is time to look. */
  async #wait(milliseconds: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

/** Of what the helper says; null for another job, or what is none. */
function jobIn(value: unknown): Job | null {
  const {
    id,
    status,
    error,
    "current-progress": copied,
    "total-progress": total,
  } = (value ?? {}) as Record<string, unknown>;
  if (id !== ID || typeof status !== "string" || typeof copied !== "number" || typeof total !== "number")
    return null;
  return { status, copied, total, error: typeof error === "string" ? error : null };
}
