/** How the data of requests come into the memory that is shared with the server, and out of it. */
import { IOVEC_BYTES } from "../../../assembly/abi.js";
import { DATA_WINDOW, isWithin } from "../../core/windows.js";
import { type IoVector, slice, views } from "../device.js";
import { CONTROL_BYTES, MAX_REQUESTS, SHARED_BASE, sliceAt } from "./area.js";
import { bytesOf, cut } from "./cut.js";
import type { Limits } from "./store.js";
import type { Segment } from "./virtqueue.js";

const TWO_TO_32 = 4294967296;

/** The data of one request. */
export interface PartData {
  readonly bytes: number;
  /** Where they are, for the request of this number: to be called when it is about to be sent. */
  place(id: number, reads: boolean): readonly Segment[];
  /** The request has been answered with success. */
  fetch?(id: number): void;
  /** The data themselves: a read's, or a write's, which are there until it is done. */
  views(): readonly Uint8Array[];
}

export interface DataPath {
  parts(vector: IoVector): PartData[];
}

/** The data are in a ring's window, which is a part of the shared memory: nothing is copied. */
export class WindowPath implements DataPath {
  readonly #limits: Limits;
  readonly #window: number;
  readonly #bytes: ArrayBuffer;

  /** `bytes` is the window as this thread has it. */
  constructor(index: number, limits: Limits, bytes: ArrayBuffer) {
    this.#limits = limits;
    this.#bytes = bytes;
    this.#window = SHARED_BASE + sliceAt(index) + CONTROL_BYTES;
  }

  parts({ memory, table, count }: IoVector): PartData[] {
    const whole: Segment[] = [];
    for (let i = 0; i < count; i++) {
      const word = (table + i * IOVEC_BYTES) >>> 2;
      const at = memory.u32[word] + memory.u32[word + 1] * TWO_TO_32 - memory.base;
      const length = memory.u32[word + 2];
      if (!isWithin(DATA_WINDOW, at, length)) throw new Error("data outside of the ring's window");
      whole.push({ address: this.#window + at - DATA_WINDOW.start, length });
    }
    const parts = cut(whole, this.#limits);
    if (parts.length === 1) return [new WindowPart(this, parts[0])];
    return parts.map((segments) => new WindowPart(this, segments));
  }

  view({ address, length }: Segment): Uint8Array {
    return new Uint8Array(this.#bytes, address - this.#window, length);
  }
}

class WindowPart implements PartData {
  readonly bytes: number;
  readonly #path: WindowPath;
  readonly #segments: readonly Segment[];

  constructor(path: WindowPath, segments: readonly Segment[]) {
    this.bytes = bytesOf(segments);
    this.#path = path;
    this.#segments = segments;
  }

  place(): readonly Segment[] {
    return this.#segments;
  }

  views(): Uint8Array[] {
    return this.#segments.map((segment) => this.#path.view(segment));
  }
}

/** Bytes of each request's place. */
const PLACE_BYTES = 128 << 10;
export const PLACES_BYTES = MAX_REQUESTS * PLACE_BYTES;

/** The data are copied to and from a place of each request in the shared memory. */
export class CopyPath implements DataPath {
  readonly #limits: Limits;
  #places = new Uint8Array(0);
  readonly #address: number;

  constructor(index: number, limits: Limits) {
    this.#limits = limits;
    this.#address = SHARED_BASE + sliceAt(index) + CONTROL_BYTES;
  }

  /** PLACES_BYTES of the queue's window, from now on. */
  set places(places: ArrayBuffer) {
    this.#places = new Uint8Array(places);
  }

  parts(vector: IoVector): PartData[] {
    return this.partsOf(views(vector), vector.bytes);
  }

  partsOf(data: readonly Uint8Array[], length: number): PartData[] {
    const { segments, segmentBytes } = this.#limits;
    const most = Math.min(PLACE_BYTES, segments * segmentBytes);
    const parts: PartData[] = [];
    for (let at = 0; at < length; at += most)
      parts.push(this.#part(slice(data, at, Math.min(most, length - at))));
    return parts;
  }

  #part(data: readonly Uint8Array[]): PartData {
    const bytes = data.reduce((sum, view) => sum + view.length, 0);
    return {
      bytes,
      views: () => data,
      place: (id, reads) => {
        let at = id * PLACE_BYTES;
        if (!reads) {
          for (const view of data) {
            this.#places.set(view, at);
            at += view.length;
          }
        }
        return cut([{ address: this.#address + id * PLACE_BYTES, length: bytes }], this.#limits)[0];
      },
      fetch: (id) => {
        let at = id * PLACE_BYTES;
        for (const view of data) {
          view.set(this.#places.subarray(at, at + view.length));
          at += view.length;
        }
      },
    };
  }
}
