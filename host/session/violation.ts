/** What a player finds wrong with the backend. */
import * as format from "../../assembly/session/format.js";

const MEANINGS: Record<number, string> = {
  [format.BAD_RING_WRITE]: "a byte of the shared ring changed that is not the backend's to write",
  [format.BAD_INDEX]: "req_event or rsp_prod has a wrong value",
  [format.BAD_TAKE]: "requests were taken that were not there",
  [format.BAD_RESPONSE]: "a response to nothing that waits",
  [format.BAD_STATUS]: "an unknown status",
  [format.BAD_NOTIFY]: "a notification too many or too few",
  [format.BAD_COPY]: "a grant copy that is wrong in itself",
  [format.BAD_COPY_MEMORY]: "a grant copy beside its request's memory",
  [format.BAD_MAP]: "a page mapped twice or outside the window",
  [format.BAD_UNMAP]: "a page unmapped that is not mapped",
  [format.BAD_IO]: "an I/O that must not be",
  [format.BAD_RANGE]: "an I/O outside the disk, elsewhere than asked, or not on whole sectors",
  [format.BAD_IOVEC]: "an I/O's memory is not its requests' data",
  [format.BAD_ORDER]: "an I/O that overtakes one that it must follow",
  [format.BAD_HANG]: "the core never comes to rest",
  [format.BAD_LEAK]: "requests, regions or pages are left over",
  [format.BAD_ANSWER]: "the core contradicts its host",
  [format.BAD_BUDGET]: "a pass that does more than its budget allows",
};

function meaningOf(code: number): string {
  return MEANINGS[code] ?? `an unknown violation (${code})`;
}

/** The backend did something that it must not; `code` is a BAD_* of assembly/session/format.ts. */
export class Violation extends Error {
  readonly code: number;
  constructor(code: number) {
    super(meaningOf(code));
    this.code = code;
  }
}

export function check(good: boolean, code: number): void {
  if (!good) throw new Violation(code);
}
