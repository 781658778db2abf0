/**
 * Ring sessions: the file format (docs/session.md), written once for the writer, the reader and both players.
 *
 * Like ../abi.ts this is compiled as AssemblyScript and as TypeScript, so it holds nothing but constants. All values
 * in a file are little endian. Any byte string is a session: see each field for how it is brought into range.
 */

/** "XBDS". Tools that are asked to play a file insist on it; fuzzers do not. */
export const MAGIC = 0x53444258;
export const FORMAT_VERSION = 3;

// ---- Header ---------------------------------------------------------------------------------------------------

export const HEADER_MAGIC = 0;
export const HEADER_VERSION = 4;
/** u8, bit 0: ABI_X86_64 or ABI_X86_32. */
export const HEADER_LAYOUT = 6;
/** u8 mod 5: the ring has 2^n pages. */
export const HEADER_RING_ORDER = 7;
/** u16, bits 0-5: FEATURE_*. */
export const HEADER_FEATURES = 8;
/** u8, bits 0-1: the logical sector size is 512 * 2^n bytes. */
export const HEADER_SECTOR_ORDER = 10;
/** u8 mod SPOILT_KINDS: 0, or which field of the configuration the host writes a wrong value to (see `SPOILT_*`). */
export const HEADER_SPOILT = 11;
/** u16 mod 257: feature-max-indirect-segments. */
export const HEADER_MAX_INDIRECT = 12;
/** u16 mod 2049: persistently mapped pages. */
export const HEADER_MAX_PERSISTENT = 14;
/** u16 mod 513: requests that a pass takes. */
export const HEADER_BATCH = 16;
/** u16, bits 0-14. */
export const HEADER_DOMID = 18;
/** u32 mod (MAX_IO + 1), then at least PAGE: bytes that a coalesced I/O may reach. */
export const HEADER_MAX_IO = 20;
/** u64, bits 0-43: 512-byte sectors of the disk. */
export const HEADER_SECTORS = 24;
/** u32: rsp_prod when the session begins. */
export const HEADER_START = 32;
/** u32: req_prod less rsp_prod when the session begins; more than the ring holds is the guest's fault. */
export const HEADER_AHEAD = 36;
/** u32 mod MAX_PASS_SEGMENTS and u32 mod MAX_PASS_BYTES, each less one: what a pass takes up before it ends. */
export const HEADER_PASS_SEGMENTS = 40;
export const HEADER_PASS_BYTES = 44;
export const HEADER_BYTES = 48;

// What the host has spoilt: the field of CONFIG gets the value, and attach() must answer ATTACH_BAD_CONFIG.

/** CONFIG_ABI: -1, 2. */
export const SPOILT_ABI = 1;
/** CONFIG_ENTRIES: 16, 48, 1024. */
export const SPOILT_ENTRIES = 3;
/** CONFIG_SECTOR_UNITS: 0, 3, 16. */
export const SPOILT_SECTOR_UNITS = 6;
/** CONFIG_MAX_INDIRECT: -1, MAX_SEGMENTS + 1. */
export const SPOILT_MAX_INDIRECT = 9;
/** CONFIG_MAX_IO: PAGE - 1, MAX_IO + 1. */
export const SPOILT_MAX_IO = 11;
/** CONFIG_MAX_PERSISTENT: -1, MAX_PERSISTENT + 1. */
export const SPOILT_MAX_PERSISTENT = 13;
/** CONFIG_BATCH: -1, MAX_SLOTS + 1. */
export const SPOILT_BATCH = 15;
/** CONFIG_PASS_SEGMENTS: 0, MAX_PASS_SEGMENTS + 1. */
export const SPOILT_PASS_SEGMENTS = 17;
/** CONFIG_PASS_BYTES: 0, MAX_PASS_BYTES + 1. */
export const SPOILT_PASS_BYTES = 19;
export const SPOILT_KINDS = 21;

// ---- Records: a type byte (mod RECORD_TYPES), then -----------------------------------------------------------------

/** u8 n (mod 113), n bytes of the guest's next ring entry; those beyond its size are dropped, the rest stay. */
export const RECORD_REQUEST = 0;
/** The guest publishes req_prod. */
export const RECORD_PUSH = 1;
/** u8 (bits 0-1: req_prod, req_event, rsp_prod, rsp_event), u32: the guest writes a shared index. */
export const RECORD_INDEX = 2;
/** u32 gref, u16 offset (bits 0-11), u16 n (at most to the page's end), n bytes: content of a granted page. */
export const RECORD_PAGE = 3;
/** The host calls step() with the completions since the last call, and until no grant operations are asked for. */
export const RECORD_STEP = 4;
/** u16 (mod I/Os under way, oldest first), u8 (bits 0-1: IO_RESULT_*): an I/O ends. Nothing if none is under way. */
export const RECORD_COMPLETE = 5;
/**
 * u16 n, i16 status (0 means -1, FORGOTTEN that the host writes none): the grant operation n from the next one fails.
 * Dropped when MAX_FAULTS wait.
 */
export const RECORD_FAULT = 6;
/** u32 now, in tenths of a second: trim(). */
export const RECORD_TRIM = 7;
/** u64, bits 0-43: the disk has another size. */
export const RECORD_RESIZE = 8;
/** u16 (mod 513): requests that a pass takes from now on. */
export const RECORD_BATCH = 9;
/** As RECORD_STEP, but only one call, and the grant operations that it asks for: the rest of the pass comes later. */
export const RECORD_ONCE = 10;
/** u16 slot, u8 (bits 0-1: IO_RESULT_*): the host says that the I/O of this slot has ended, whether there is one or not. */
export const RECORD_ENDED = 11;
/** u32 gref, i16 status: grant operations of it end so from now on. Dropped when MAX_GRANTS are remembered. */
export const RECORD_GRANT = 12;
/** u32 segments and u32 bytes, as in the header: what a pass takes up from now on. */
export const RECORD_BUDGET = 13;
export const RECORD_TYPES = 14;

/** A status: the host writes none. */
export const FORGOTTEN = 0x7fff;

export const MAX_ENTRY_BYTES = 112;
/** Bits of a size or number in sectors: a position in bytes then fits a double. */
export const SECTOR_BITS = 44;
export const MAX_FAULTS = 512;
export const MAX_GRANTS = 64;
/** Pages whose content is remembered; one more forgets the one that was first written the longest time ago. */
export const MAX_CONTENTS = 1024;

/** Native address of linear memory, as the players pretend: a core that forgets it shows. */
export const BASE_HIGH = 0x7f00;

/** Rounds of grant operations in one pass, and passes until rest, that no well-behaved core exceeds. */
export const MAX_ROUNDS = 200;
export const MAX_PASSES = 100000;

// ---- What a player finds wrong with the backend --------------------------------------------------------------------

/** A byte of the shared ring changed that is not the backend's to write (XSA-216). */
export const BAD_RING_WRITE = 1;
/** req_event or rsp_prod has another value than the ring's state allows. */
export const BAD_INDEX = 2;
/** Requests were taken that were not there, or more than a batch. */
export const BAD_TAKE = 3;
/** A response to nothing that is waiting, or with another operation. */
export const BAD_RESPONSE = 4;
/** A status that blkif.h does not have. */
export const BAD_STATUS = 5;
/** The notification is not what RING_PUSH_RESPONSES_AND_CHECK_NOTIFY says. */
export const BAD_NOTIFY = 6;
/** A grant copy: flags, domid, page bounds, length or owner. */
export const BAD_COPY = 7;
/** A grant copy's local side is outside the request's segments or data. */
export const BAD_COPY_MEMORY = 8;
/** A page outside the persistent window, mapped twice, or beyond the limit. */
export const BAD_MAP = 9;
/** A page unmapped that was not mapped. */
export const BAD_UNMAP = 10;
/** An I/O in a slot that has one already, of no known operation, with wrong flags, or refused by the configuration. */
export const BAD_IO = 11;
/** An I/O outside the disk, or not on whole sectors. */
export const BAD_RANGE = 12;
/** An I/O's memory is not its requests' data, or does not add up to its length. */
export const BAD_IOVEC = 13;
/** An I/O started that had to wait for one that is under way. */
export const BAD_ORDER = 14;
/** A pass does not end, or the core never comes to rest. */
export const BAD_HANG = 15;
/** The count of requests in flight is wrong, or something is left when everything has ended. */
export const BAD_LEAK = 16;
/** The core contradicts the host: attach or the flags. */
export const BAD_ANSWER = 17;
/** A pass has taken up more than its budget and one request, or done more than it has taken up. */
export const BAD_BUDGET = 18;
