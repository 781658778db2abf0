// Where a player of sessions keeps what is its own: above everything that the core and its host share.
import { MAX_PERSISTENT, MAX_RING_PAGES, MAX_SLOTS, MEMORY_BYTES, PAGE } from "../abi";
import { MAX_CONTENTS, MAX_FAULTS, MAX_GRANTS } from "./format";

/** The shared ring as it was before the call. */
export const SHADOW = MEMORY_BYTES;
/** Requests taken and not answered: u64 id @0, u8 operation @8. */
export const ASKED = SHADOW + MAX_RING_PAGES * PAGE;
export const ASKED_BYTES = 16;
/** u16: slots of the I/Os under way, oldest first. */
export const UNDERWAY = ASKED + MAX_SLOTS * ASKED_BYTES;
/** u32 number of the grant operation @0, i32 status @4. */
export const FAULTS = UNDERWAY + MAX_SLOTS * 2;
/** u32 gref @0, i32 status @4. */
export const GRANTS = FAULTS + MAX_FAULTS * 8;
/** u8 by page of the persistent window: whether it is mapped. */
export const MAPPED_PAGES = GRANTS + MAX_GRANTS * 8;
/** u32 gref by page of the persistent window. */
export const MAPPED_GREFS = MAPPED_PAGES + MAX_PERSISTENT;
/** Pages with content: u32 gref by position, then the pages. */
export const CONTENT_GREFS = MAPPED_GREFS + MAX_PERSISTENT * 4;
export const CONTENTS = CONTENT_GREFS + MAX_CONTENTS * 4;
/** The session file, and the text that the last record added to the log. */
export const INPUT = CONTENTS + MAX_CONTENTS * PAGE;
export const INPUT_BYTES = 4194304;
export const LOG = INPUT + INPUT_BYTES;
export const LOG_BYTES = 16777216;
/** The compiler puts static data here (asconfig.json, memoryBase). */
export const STATICS = LOG + LOG_BYTES;
