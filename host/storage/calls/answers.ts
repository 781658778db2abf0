/** Whether a path can be given to a call that looks it up in the main thread, as connect(2) does. */
import { setTimeout as sleep } from "node:timers/promises";
import { Place } from "./place.js";

/** Whether the file system with a path says within a time what is there, if anything. */
export async function answersWithin(path: string, milliseconds: number): Promise<boolean> {
  if (Place.outageAt(path)) return false;
  const late = new AbortController();
  const { signal } = late;
  const answer = Place.of(path)
    .stat()
    .then(
      () => true,
      () => true,
    );
  const timeout = sleep(milliseconds, false, { signal }).catch(() => false);
  return Promise.race([answer, timeout]).finally(() => late.abort());
}

/** What `looking` comes to, or null where that takes longer: other storage than the caller's may hang. Keeps no process alive. */
export async function soon<T>(looking: Promise<T>, milliseconds: number): Promise<T | null> {
  const late = new AbortController();
  const timeout = sleep(milliseconds, null, { signal: late.signal, ref: false }).catch(() => null);
  return Promise.race([looking, timeout]).finally(() => late.abort());
}
