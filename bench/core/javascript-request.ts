/** A decoded request of the plain JavaScript peer; states and flags are those of assembly/request.ts. */
import * as abi from "../../assembly/abi.js";

export const State = {
  Free: 0,
  Taken: 1,
  Fetching: 2,
  Held: 3,
  Admitted: 4,
  Mapping: 5,
  Copying: 6,
  Loaded: 7,
  Busy: 8,
  ReadDone: 9,
  CopyingOut: 10,
  Done: 11,
  Ready: 12,
} as const;

export const Flag = {
  Mapped: 1,
  Fault: 2,
  Alone: 4,
  Active: 8,
  Indirect: 16,
  Secure: 32,
  Large: 64,
  Unmappable: 128,
} as const;

export class Request {
  readonly slot: number;
  /** Where the segments' private copy lies. */
  readonly table: number;
  state: number = State.Free;
  operation = 0;
  flags = 0;
  large = 0;
  segments = 0;
  idLow = 0;
  idHigh = 0;
  sector = 0;
  sectors = 0;
  /** Its age: how many requests were admitted before it. */
  order = 0;
  waits = 0;
  status = 0;
  next = 0;
  /** The I/O that this request leads. */
  ioSector = 0;
  ioSectors = 0;
  ioIovecs = 0;
  ioLast = 0;
  ioRequests = 0;

  constructor(slot: number) {
    this.slot = slot;
    this.table = abi.SEGMENTS + slot * abi.MAX_SEGMENTS * abi.SEGMENT_BYTES;
  }

  /** Where the private copy of its data lies. */
  get data(): number {
    if (this.flags & Flag.Large) return abi.DATA_LARGE + this.large * abi.DATA_LARGE_BYTES;
    return abi.DATA + this.slot * abi.DATA_SMALL_BYTES;
  }
}
