/** Makes the observer that somebody wants of a ring. */
import { ObservationQueue } from "./observation.js";
import type { RingObserver } from "./observer.js";
import { Recorder } from "./recorder.js";
import type { Observing } from "./ring-host.js";
import { Tracer } from "./tracer.js";

export function makeObserver({ kind, buffer }: Observing): RingObserver {
  const queue = new ObservationQueue(buffer);
  return kind === "record" ? new Recorder(queue) : new Tracer(queue);
}
