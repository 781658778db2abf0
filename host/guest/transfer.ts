/** One call on a disk, on its way over one or more ring requests. */
import { Op, Rsp } from "./layout.js";

/** Why a call on a disk failed; `code` is an errno's name. */
export class DiskError extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** One segment of a {@link RawRequest}; the caller grants and un-grants the page. */
export interface RawSegment {
  ref: number;
  first: number;
  last: number;
}

/** A request word for word, right or wrong: for tests and fuzzers. */
export interface RawRequest {
  /** Any byte; of an indirect request the inner operation. */
  operation: number;
  /** sector_number, any u64. */
  sector?: bigint;
  handle?: number;
  segments?: readonly RawSegment[];
  /** What nr_segments says, where that is not the number of `segments`. */
  nrSegments?: number;
  /** Sends an INDIRECT. Its pages are filled with `segments` and granted, unless `indirectRefs` are given. */
  indirect?: boolean;
  indirectRefs?: readonly number[];
  /** Sends a discard of so many sectors (any u64) with this flag byte. */
  discard?: { sectors: bigint; flag: number };
}

/** Created for each call, and nothing else is. */
export class Transfer {
  /** Next in the line of those that wait for room. */
  next: Transfer | null = null;
  /** In the order of the calls. */
  number = 0;
  /** Bytes that are in requests already. */
  issued = 0;
  /** Nothing of it is left to be issued. */
  complete = false;
  settled = false;
  /** Requests without a response. */
  outstanding = 0;
  /** The first status that was not OKAY. */
  status: number = Rsp.okay;

  constructor(
    readonly operation: number,
    /** Bytes. */
    readonly position: number,
    readonly length: number,
    readonly data: Uint8Array | null,
    /** `flag` of a discard. */
    readonly flag: number,
    readonly raw: RawRequest | null,
    readonly resolve: (status: number) => void,
    readonly reject: (error: Error) => void,
  ) {}

  /** Nothing of it has been asked of any backend. */
  rewind(): void {
    this.next = null;
    this.issued = this.outstanding = 0;
    this.complete = false;
    this.status = Rsp.okay;
  }

  /** Ends the call with the status that it has. */
  settle(): void {
    if (this.settled) return;
    this.settled = true;
    if (this.status === Rsp.okay || this.raw) this.resolve(this.status);
    else this.reject(this.#failure());
  }

  fail(error: Error): void {
    if (this.settled) return;
    this.settled = true;
    this.reject(error);
  }

  #failure(): DiskError {
    const what = OPERATION_NAMES[this.operation];
    const unsupported = this.status === Rsp.eopnotsupp;
    const answer = unsupported ? "BLKIF_RSP_EOPNOTSUPP" : `status ${this.status}`;
    return new DiskError(
      unsupported ? "EOPNOTSUPP" : "EIO",
      `${what} of ${this.length} bytes at ${this.position}: the backend answered ${answer}`,
    );
  }
}

const OPERATION_NAMES: Readonly<Record<number, string>> = {
  [Op.read]: "read",
  [Op.write]: "write",
  [Op.writeBarrier]: "barrier",
  [Op.flushDiskcache]: "flush",
  [Op.discard]: "discard",
};
