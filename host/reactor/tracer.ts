/** Tells of each request of a ring when it is answered, as an event of fixed size. */
import { ABI_X86_32, MAX_SLOTS } from "../../assembly/abi.js";
import type { RingView } from "../core/ring-view.js";
import type { ObservationQueue } from "./observation.js";
import { CallReader, type RingObserver } from "./observer.js";

/** A request that was answered. */
export interface TraceEvent {
  /** When it was answered: milliseconds since 1970, with a fraction. */
  readonly time: number;
  /** Milliseconds since it was taken from the ring; null if that was before the trace began. */
  readonly latency: number | null;
  /** Read, written or discarded, in 512 bytes; 0 if it was refused before that was known. */
  readonly sectors: number;
  /** BLKIF_RSP_*. */
  readonly status: number;
  /** As it came from the ring. */
  readonly request: Uint8Array;
  readonly abi: "x86_64" | "x86_32";
}

// f64 time, f64 latency (NaN: unknown), f64 sectors, i16 status, u8 layout, then the request.
const TIME = 0;
const LATENCY = 8;
const SECTORS = 16;
const STATUS = 24;
const LAYOUT = 26;
const REQUEST = 32;
const REQUEST_BYTES = 112;
export const TRACE_EVENT_BYTES = REQUEST + REQUEST_BYTES;

export class Tracer implements RingObserver {
  readonly wantsRest = false;
  readonly #queue: ObservationQueue;
  readonly #takenAt = new Float64Array(MAX_SLOTS).fill(Number.NaN);
  readonly #event = new Uint8Array(TRACE_EVENT_BYTES);
  readonly #view = new DataView(this.#event.buffer);
  #ring!: RingView;
  #reader!: CallReader;

  constructor(queue: ObservationQueue) {
    this.#queue = queue;
  }

  begin(ring: RingView): void {
    this.#ring = ring;
    this.#reader = new CallReader(ring);
    this.#queue.begin();
  }

  passBegins(): void {}

  stepped(): void {
    const { taken, answered } = this.#reader.read();
    if (taken.length + answered.length === 0) return;
    const now = performance.now();
    for (const slot of taken) this.#takenAt[slot] = now;
    for (const slot of answered) this.#tell(slot, now);
  }

  #tell(slot: number, now: number): void {
    const ring = this.#ring;
    const view = this.#view;
    view.setFloat64(TIME, performance.timeOrigin + now, true);
    view.setFloat64(LATENCY, now - this.#takenAt[slot], true);
    view.setFloat64(SECTORS, ring.requestSectors(slot), true);
    view.setInt16(STATUS, ring.requestStatus(slot), true);
    view.setUint8(LAYOUT, ring.layout);
    this.#event.set(ring.requestBytes(slot), REQUEST);
    if (!this.#queue.write(this.#event)) this.#queue.drop();
  }

  granted(): void {}
  passEnds(): void {}
  trimmed(): void {}
  resized(): void {}

  end(why: string): void {
    this.#queue.end(why);
  }
}

/** The events in bytes that were read in multiples of {@link TRACE_EVENT_BYTES}. */
export function decodeTrace(bytes: Uint8Array): TraceEvent[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: bytes.length / TRACE_EVENT_BYTES }, (_, i): TraceEvent => {
    const at = i * TRACE_EVENT_BYTES;
    const latency = view.getFloat64(at + LATENCY, true);
    return {
      time: view.getFloat64(at + TIME, true),
      latency: Number.isNaN(latency) ? null : latency,
      sectors: view.getFloat64(at + SECTORS, true),
      status: view.getInt16(at + STATUS, true),
      request: bytes.slice(at + REQUEST, at + TRACE_EVENT_BYTES),
      abi: view.getUint8(at + LAYOUT) === ABI_X86_32 ? "x86_32" : "x86_64",
    };
  });
}
