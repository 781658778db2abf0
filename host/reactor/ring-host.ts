/** What a vbd's connection needs of whoever serves its rings: this thread (local.ts), or reactor threads (pool.ts). */
import type { RingConfig } from "../core/blkif.js";
import type { Counters } from "../core/counters.js";
import type { BlockDevice } from "../storage/device.js";
import type { RingJournal } from "./journal.js";
import type { Latency } from "./latency.js";
import type { EngineName, Statistics } from "./messages.js";
import type { ObserverKind } from "./observer.js";
import type { RingOptions } from "./ring.js";
import type { RingState } from "./ring-state.js";
import type { Throttle } from "./throttle.js";

export interface AttachOptions
  extends Pick<RingOptions, "ringRefs" | "start" | "throttle" | "onHalt" | "onError"> {
  readonly config: RingConfig;
  /** The frontend's end of the event channel, unbound for us. */
  readonly remotePort: number;
  /** Stays the caller's, who closes it when all its rings are detached. */
  readonly device: BlockDevice;
  /** Rings that are attached to the device, this one among them. Default: 1. */
  readonly rings?: number;
  /** Lies in the ring's memory until the ring is detached; then, or when the ring cannot be attached, it is released. */
  readonly journal: RingJournal | null;
}

export interface Observing {
  readonly kind: ObserverKind;
  readonly buffer: SharedArrayBuffer;
}

/** A ring that is served. */
export interface AttachedRing {
  /** Our end of its event channel. */
  readonly port: number;
  /** Requests taken from the ring and not yet answered. */
  readonly inflight: number;
  /** Since the ring was attached; they stay after it was detached. */
  counters(): Counters;
  /** How long its I/Os took, since it was attached; that stays after it was detached. */
  latency(): Latency;
  /** Limits what it takes, from now on; null takes the limit away. To be called again after the throttle was changed. */
  throttle(throttle: Throttle | null): Promise<void>;
  /** As it stands now; null when it is detached. */
  state(): RingState | null;
  /**
   * Lets its passes be observed; the buffer is that of an ObservationQueue of this kind. Null ends that. Rejects where
   * somebody observes it.
   */
  observe(how: Observing | null): Promise<void>;
  /** Tells the ring the disk's new size in 512-byte sectors, after the device was told to look at it. */
  resize(sectors: number): Promise<void>;
  /** Stops the ring, waits for its I/O, and lets go of everything of the guest's. */
  detach(): Promise<void>;
}

export interface ReactorStatus extends Statistics {
  readonly engine: EngineName;
  readonly rings: number;
}

export interface RingHost {
  /** Pages of guests that are mapped now. */
  readonly mappedPages: number;
  /** Its reactor threads. */
  readonly threads: ReactorStatus[];
  /** Maps a ring, binds its event channel and serves it. Rejects with what went wrong; nothing is held then. */
  attach(options: AttachOptions): Promise<AttachedRing>;
  /** Resolves when each of its threads has answered: one that hangs does not. */
  answers(): Promise<void>;
  /** To be called when all rings are detached. */
  close(): Promise<void>;
}
