/** Two event channels between threads, as words of shared memory. */
export const BACKEND = 0;
export const GUEST = 1;
/** Not 0 when the guest is done. */
export const DONE = 2;

export interface WakeupData {
  buffer: SharedArrayBuffer;
  events: Int32Array;
  total: number;
  entries: number;
}

export function raise(events: Int32Array, who: number): void {
  Atomics.store(events, who, 1);
  Atomics.notify(events, who);
}

/** Waits for an event and takes it. False when none came for a long time. */
export function sleep(events: Int32Array, who: number): boolean {
  if (Atomics.wait(events, who, 0, 3000) === "timed-out") return false;
  Atomics.store(events, who, 0);
  return true;
}
