/** What the main thread and a reactor thread say to each other. All of it is plain data. */

import type { RingConfig } from "../core/blkif.js";
import type { Platform } from "../platform/platform.js";
import type { Result } from "../storage/device.js";
import type { Store } from "../storage/raw.js";
import type { VhostStore } from "../storage/vhost-user/store.js";
import type { Activity } from "./activity.js";
import type { Observing } from "./ring-host.js";
import type { Start } from "./start.js";

export type EngineName = "io_uring" | "libuv";

/** What a reactor thread is started with. */
export interface ReactorSettings {
  /** BUILD of the main thread: the thread does not start if its own is another. */
  readonly build: string;
  readonly platform: Platform;
  /** "auto": io_uring where that is to be had. */
  readonly engine: EngineName | "auto";
  readonly pollUs: number;
  /** An eventfd that is signalled when there is a message, or when the thread is to end. */
  readonly wakeFd: number;
  /** See {@link SharedState}. */
  readonly shared: SharedArrayBuffer;
  /** The buffer of an {@link Activity}, that of all threads. */
  readonly activity: SharedArrayBuffer;
}

export type Request =
  | {
      readonly op: "attach";
      readonly ring: number;
      readonly config: RingConfig;
      readonly ringRefs: Uint32Array;
      readonly remotePort: number;
      readonly start: Start;
      /** The buffer of a {@link Throttle}. */
      readonly throttle: SharedArrayBuffer | null;
      readonly memory: WebAssembly.Memory;
      /** Native address of the memory. */
      readonly base: number;
      readonly store: Store | VhostStore;
    }
  | { readonly op: "detach"; readonly ring: number }
  /** The buffer is that of a {@link Throttle}. */
  | { readonly op: "throttle"; readonly ring: number; readonly throttle: SharedArrayBuffer | null }
  /** Whether it answers. */
  | { readonly op: "ping"; readonly ring: null }
  | { readonly op: "observe"; readonly ring: number; readonly how: Observing | null }
  | {
      readonly op: "resize";
      readonly ring: number;
      readonly bytes: number;
      readonly sectors: number;
    };

/** `hopeless`: a RingError. */
export interface Refusal {
  readonly message: string;
  readonly hopeless: boolean;
}

/** `id` is the answer's, too. */
export type Ask = { readonly id: number } & Request;

export type Said =
  | { readonly event: "started"; readonly engine: EngineName; readonly missing: string | null }
  | { readonly event: "answer"; readonly id: number; readonly result: number; readonly error: Refusal | null }
  | { readonly event: "halt"; readonly ring: number; readonly why: string }
  | {
      readonly event: "error";
      readonly ring: number;
      readonly operation: string;
      readonly message: string;
      readonly result: Result;
    };

/** Totals that a reactor thread keeps where the main thread sees them. */
const STATISTICS = [
  "mappedPages",
  /** Passes of rings. */
  "passes",
  /** Reads of event channels, after one was heard. */
  "eventReads",
  /** Calls of io_uring_enter, and the entries that were handed over so; 0 with libuv. */
  "enters",
  "submitted",
] as const;
export type Statistics = Record<(typeof STATISTICS)[number], number>;

/** An i32 that tells the thread to end, then the statistics. One thread writes each; nobody needs them to agree. */
export class SharedState {
  static readonly BYTES = 8 + STATISTICS.length * 8;
  readonly #stop: Int32Array;
  readonly #figures: Float64Array;

  constructor(buffer: SharedArrayBuffer) {
    this.#stop = new Int32Array(buffer, 0, 1);
    this.#figures = new Float64Array(buffer, 8);
  }

  get stopping(): boolean {
    return Atomics.load(this.#stop, 0) !== 0;
  }

  stop(): void {
    Atomics.store(this.#stop, 0, 1);
  }

  get statistics(): Statistics {
    return Object.fromEntries(STATISTICS.map((name, i) => [name, this.#figures[i]])) as Statistics;
  }

  /** In the order of {@link STATISTICS}. */
  write(mappedPages: number, passes: number, eventReads: number, enters: number, submitted: number): void {
    const figures = this.#figures;
    figures[0] = mappedPages;
    figures[1] = passes;
    figures[2] = eventReads;
    figures[3] = enters;
    figures[4] = submitted;
  }
}
