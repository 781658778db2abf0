/** Requests as a guest makes them: ids that are all different, a page of its own for every segment. */
import type { CoreIo } from "../../host/core/blkif.js";
import { Harness, type HarnessOptions } from "./harness.js";
import { encodeSegment, type Segment, type WireRequest } from "./wire.js";

export const [READ, WRITE, BARRIER, FLUSH, RESERVED, DISCARD, INDIRECT] = [0, 1, 2, 3, 4, 5, 6];
export const [OKAY, ERROR, EOPNOTSUPP] = [0, -1, -2];

export class Guest {
  readonly #harness: Harness;
  #nextGref = 100;
  #nextId = 1n;

  constructor(harness: Harness) {
    this.#harness = harness;
  }

  id(): bigint {
    return (0xfedcban << 40n) | this.#nextId++;
  }

  /** Segments on new pages that are filled with the low byte of their grefs. */
  segments(count: number, first = 0, last = 7): Segment[] {
    return Array.from({ length: count }, () => {
      const gref = this.#nextGref++;
      this.#harness.page(gref).fill(gref & 0xff);
      return { gref, first, last };
    });
  }

  /** READ, WRITE, or BARRIER or FLUSH with data. */
  transfer(operation: number, sector: number | bigint, pages: number | Segment[] = 1): WireRequest {
    const segments = typeof pages === "number" ? this.segments(pages) : pages;
    return { operation, id: this.id(), sector: BigInt(sector), segments };
  }

  /** An INDIRECT; `claim` is what it says of the number of its segments. */
  indirect(
    inner: number,
    sector: number,
    pages: number | Segment[],
    claim?: number,
  ): WireRequest & { indirectGrefs: number[] } {
    const segments = typeof pages === "number" ? this.segments(pages) : pages;
    const gref = this.#nextGref++;
    const view = new DataView(this.#harness.page(gref).buffer);
    segments.forEach((segment, i) => {
      encodeSegment(view, i * 8, segment);
    });
    return {
      operation: INDIRECT,
      id: this.id(),
      sector: BigInt(sector),
      inner,
      nrSegments: claim ?? segments.length,
      indirectGrefs: [gref],
    };
  }

  /** FLUSH or BARRIER without data. */
  empty(operation: number): WireRequest {
    return { operation, id: this.id(), sector: 0n, segments: [] };
  }

  discard(sector: number | bigint, sectors: number | bigint, flag = 0): WireRequest {
    return { operation: DISCARD, id: this.id(), sector: BigInt(sector), sectors: BigInt(sectors), flag };
  }
}

/** An I/O in short: "R8+16" is a read of 16 sectors from sector 8 on; F stands for flush, D for discard. */
export function short(io: CoreIo): string {
  if (io.operation === 2) return "F";
  return `${"RWFD"[io.operation]}${io.position / 512}+${io.length / 512}`;
}

/** Serves one request on a new ring. */
export function serveOne(
  make: (guest: Guest) => WireRequest,
  options: HarnessOptions = {},
): { status: number; ios: string[]; h: Harness } {
  const h = new Harness({ disk: false, ...options });
  const request = make(new Guest(h));
  h.put(request);
  h.push();
  h.step();
  const ios = h.underway.map(short);
  for (const io of h.underway.splice(0)) h.step([{ slot: io.slot, result: 0 }]);
  const [status] = h.statuses([request]);
  h.release();
  return { status, ios, h };
}
