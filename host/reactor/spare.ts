/**
 * The thread that a reactor runs in, before the reactor: a process that is about to need one may have it load its modules
 * beside its own, for guests wait while a daemon starts (docs/restart.md).
 */
import { MessageChannel, Worker } from "node:worker_threads";
import type { ReactorSettings } from "./messages.js";

/** A thread that waits for its settings. */
export interface IdleThread {
  readonly worker: Worker;
  /** To be called once. Null: it is to end. */
  begin(settings: ReactorSettings | null): void;
}

let spare: IdleThread | null = null;

/**
 * Starts the thread that {@link takeThread} is to give away.
 * @public For bin/xbdback.mjs.
 */
export function prepareThread(): void {
  spare ??= startThread();
}

export function takeThread(): IdleThread {
  const thread = spare ?? startThread();
  spare = null;
  return thread;
}

/** Lets a thread that nobody has taken end by itself: a process that ended while it loads koffi would crash. */
export function dismissThread(): void {
  spare?.worker.ref();
  spare?.begin(null);
  spare = null;
}

function startThread(): IdleThread {
  const { port1, port2 } = new MessageChannel();
  const worker = new Worker(new URL("./worker.js", import.meta.url), {
    workerData: port2,
    transferList: [port2],
    // It opens descriptors behind Node's back, and closes them itself.
    trackUnmanagedFds: false,
  });
  // What keeps the process alive is what the rings are for.
  worker.unref();
  return { worker, begin: (settings) => port1.postMessage(settings) };
}
