/**
 * The contract between the core and its host: every code, offset and table, written once.
 *
 * The core (AssemblyScript) and the host (TypeScript) both compile this file, so it holds nothing but constants
 * whose arithmetic means the same in both: integers below 2^31, no division. Offsets are bytes in linear memory.
 */

/** Changes whenever anything below changes its meaning. The export `version()` returns it. */
export const ABI_VERSION = 4;

// ---- Limits -------------------------------------------------------------------------------------------------

/** XEN_PAGE_SIZE: ring pages, grants and segments are in units of this. */
export const PAGE = 4096;
export const MAX_RING_PAGES = 16;
/** Entries of a ring of so many pages, hence requests in flight: a page has 32, (4096 - 64) / 112 down to a power of two. */
export const MAX_SLOTS = MAX_RING_PAGES * 32;
/** BLKIF_MAX_SEGMENTS_PER_REQUEST. */
export const MAX_DIRECT_SEGMENTS = 11;
/** What `feature-max-indirect-segments` may offer at most; half of one indirect page. */
export const MAX_SEGMENTS = 256;
/** Bytes of a request, and of a coalesced I/O, at most. */
export const MAX_IO = MAX_SEGMENTS * PAGE;
/** Grant copies that one return of `step` asks for at most. */
export const MAX_COPIES = 4096;
/** Pages in the persistent-grant window. Linux's default limit is 1056 a ring. */
export const MAX_PERSISTENT = 2048;
/** Segments and bytes that a pass can take up at all. */
export const MAX_PASS_SEGMENTS = MAX_SLOTS * MAX_SEGMENTS;
export const MAX_PASS_BYTES = MAX_PASS_SEGMENTS * PAGE;
/** Requests of more than 44 KiB that can be in flight at once without persistent grants. */
export const MAX_LARGE = 64;

// ---- Wire codes (xen/include/public/io/blkif.h) ---------------------------------------------------------------

export const BLKIF_OP_READ = 0;
export const BLKIF_OP_WRITE = 1;
export const BLKIF_OP_WRITE_BARRIER = 2;
export const BLKIF_OP_FLUSH_DISKCACHE = 3;
export const BLKIF_OP_DISCARD = 5;
export const BLKIF_OP_INDIRECT = 6;
export const BLKIF_DISCARD_SECURE = 1;
export const BLKIF_RSP_OKAY = 0;
export const BLKIF_RSP_ERROR = -1;
export const BLKIF_RSP_EOPNOTSUPP = -2;

// ---- Request layouts (`protocol` in the frontend's directory) --------------------------------------------------

/** x86_64-abi, and "native" wherever u64 is aligned to 8 bytes (x86-64, arm): entries of 112 bytes. */
export const ABI_X86_64 = 0;
/** x86_32-abi: entries of 108 bytes. */
export const ABI_X86_32 = 1;

// ---- Exports ----------------------------------------------------------------------------------------------------
//
//   version(): i32        ABI_VERSION
//   attach(): i32         reads CONFIG, starts at the ring's rsp_prod with a new journal; 0, or an ATTACH_* code
//   recover(): i32        as attach(), but goes on where the JOURNAL and the ring say that another instance ended
//   step(n: i32): i32     goes on with the pass, or begins one; n completions lie in COMPLETIONS; returns STEP_* flags
//   idle(): i32           after a pass for an event that took no request: STEP_NOTIFY if the frontend missed a response
//   trim(now: i32): i32   drops persistent grants that are not worth keeping; returns how many pages lie in UNMAPS

export const ATTACH_OK = 0;
/** A field of CONFIG is out of its range: the host's fault. */
export const ATTACH_BAD_CONFIG = -1;
/** req_prod is more than a ring ahead of rsp_prod: the guest's fault. */
export const ATTACH_BAD_RING = -2;
/** recover(): the journal is of another version or another ring, or cannot be what a core has written. */
export const ATTACH_BAD_JOURNAL = -3;

/** Carry out OUT_COPIES entries of COPIES, writing every status, then call step again. */
export const STEP_COPY = 1;
/** Map OUT_MAPS entries of MAPS, writing every status (before the copies), then call step again. */
export const STEP_MAP = 2;
/** Start the OUT_IOS I/Os whose slots lie in IO_LIST. */
export const STEP_IO = 4;
/** Responses were published and the frontend asked to hear of them: notify its event channel, once. */
export const STEP_NOTIFY = 8;
/** There is more to do that no event will announce: call step(0) again, after others had their turn. */
export const STEP_MORE = 16;
/** The frontend claims more requests than the ring holds. The ring takes no more until it is attached again. */
export const STEP_HALTED = 32;

// ---- Control page: configuration, results, counters ---------------------------------------------------------------

/** u32 fields that the host writes before attach(). */
export const CONFIG = 256;
/** ABI_X86_64 or ABI_X86_32. */
export const CONFIG_ABI = CONFIG + 0;
/** Entries of the ring: a power of two, 32 * pages. */
export const CONFIG_ENTRIES = CONFIG + 4;
/** FEATURE_* bits. */
export const CONFIG_FEATURES = CONFIG + 8;
/** The frontend's domid, as grant copies name it. */
export const CONFIG_DOMID = CONFIG + 12;
/** u64: native address of byte 0 of linear memory; iovecs and copies carry native addresses. */
export const CONFIG_BASE = CONFIG + 16;
/** u64: size of the disk in 512-byte sectors. May be changed at any time (resize). */
export const CONFIG_SECTORS = CONFIG + 24;
/** Logical sector size in 512-byte units: 1, 2, 4 or 8. */
export const CONFIG_SECTOR_UNITS = CONFIG + 32;
/** feature-max-indirect-segments, 0 to MAX_SEGMENTS; 0 refuses INDIRECT. */
export const CONFIG_MAX_INDIRECT = CONFIG + 36;
/** Bytes that a coalesced I/O may reach, at least one request's. */
export const CONFIG_MAX_IO = CONFIG + 40;
/** Requests that one pass takes from the ring at most. May be changed at any time: 0 takes none (drain). Raised
 * from 0 again, it has its effect at the next step: no event may tell of what came meanwhile. */
export const CONFIG_BATCH = CONFIG + 44;
/** Pages that stay mapped at most when persistent grants are on, 0 to MAX_PERSISTENT. */
export const CONFIG_MAX_PERSISTENT = CONFIG + 48;
/** u32, at random and unknown to the guest: where the core looks for a persistent grant depends on it. */
export const CONFIG_HASH_KEY = CONFIG + 52;
/** Large data regions that the ring may use at once, at most MAX_LARGE; 0: as many as there are. */
export const CONFIG_MAX_LARGE = CONFIG + 56;
/** Segments, 1 to MAX_PASS_SEGMENTS, and bytes, 1 to MAX_PASS_BYTES, that a pass takes up before it ends: see
 * assembly/budget.ts. It exceeds each by less than one request. May be changed at any time, for the next pass. */
export const CONFIG_PASS_SEGMENTS = CONFIG + 60;
export const CONFIG_PASS_BYTES = CONFIG + 64;

export const FEATURE_READ_ONLY = 1;
export const FEATURE_FLUSH = 2;
export const FEATURE_BARRIER = 4;
export const FEATURE_DISCARD = 8;
export const FEATURE_SECURE_DISCARD = 16;
export const FEATURE_PERSISTENT = 32;

/** u32 fields that step() writes. */
export const OUT = 384;
export const OUT_COPIES = OUT + 0;
export const OUT_MAPS = OUT + 4;
export const OUT_IOS = OUT + 8;
/** Ring indices, for people who watch: req_cons, rsp_prod_pvt, requests in flight, persistent pages mapped. */
export const OUT_REQ_CONS = OUT + 12;
export const OUT_RSP_PROD = OUT + 16;
export const OUT_INFLIGHT = OUT + 20;
export const OUT_PERSISTENT = OUT + 24;
/** At the end of a pass: what it has taken up. */
export const OUT_PASS_SEGMENTS = OUT + 28;
export const OUT_PASS_BYTES = OUT + 32;

/** u64 counters since attach(), in this order. */
export const COUNTERS = 1024;
export const COUNT_READ = 0;
export const COUNT_WRITE = 1;
export const COUNT_BARRIER = 2;
export const COUNT_FLUSH = 3;
export const COUNT_DISCARD = 4;
/** Of the reads and writes above, those that came as INDIRECT. */
export const COUNT_INDIRECT = 5;
export const COUNT_SEGMENTS = 6;
export const COUNT_SECTORS_READ = 7;
export const COUNT_SECTORS_WRITTEN = 8;
export const COUNT_IOS = 9;
/** Requests that joined an I/O that another one had opened. */
export const COUNT_MERGED = 10;
/** Requests that waited for an earlier one they overlap, flush or bar. */
export const COUNT_HELD = 11;
export const COUNT_RESPONSES = 12;
/** Publications of responses, and those of them that the frontend wanted to hear of. */
export const COUNT_PUSHES = 13;
export const COUNT_NOTIFICATIONS = 14;
export const COUNT_COPIES = 15;
export const COUNT_MAPS = 16;
/** Segments that found their page mapped. */
export const COUNT_PERSISTENT_HITS = 17;
/** Failed I/Os that were split, so that only the requests at fault fail. */
export const COUNT_SPLITS = 18;
/** Requests refused, by reason. */
export const COUNT_BAD_OPERATION = 19;
export const COUNT_BAD_SEGMENTS = 20;
export const COUNT_BAD_RANGE = 21;
export const COUNT_READ_ONLY = 22;
export const COUNT_BAD_GRANT = 23;
/** Requests that the device failed. */
export const COUNT_IO_ERRORS = 24;
export const COUNTER_COUNT = 25;

/** 1 KiB for whatever the host counts; no core reads or writes it. */
export const HOST = 2048;

// ---- Tables between core and host ---------------------------------------------------------------------------------

/** u32[MAX_SLOTS], written by the host: slot in bits 0-15, result (IO_RESULT_*) in bits 16-31. */
export const COMPLETIONS = 4096;
export const IO_RESULT_SUCCESS = 0;
export const IO_RESULT_FAILURE = 1;
export const IO_RESULT_READ_ONLY = 2;
export const IO_RESULT_UNSUPPORTED = 3;

/** u16[MAX_SLOTS]: slots of the I/Os to start. An I/O is named by the slot of its first request. */
export const IO_LIST = COMPLETIONS + MAX_SLOTS * 4;

/** The core's own lists of slots, u16 each. Between calls of step() the free slots are the first CONFIG_ENTRIES - OUT_INFLIGHT. */
export const FREE_SLOTS = IO_LIST + MAX_SLOTS * 2;
export const PASS_LIST = FREE_SLOTS + MAX_SLOTS * 2;
export const READY_LIST = PASS_LIST + MAX_SLOTS * 2;
export const FREE_LARGE = READY_LIST + MAX_SLOTS * 2;

/** Who touches which part of the disk, by (sector / 256) mod HAZARD_BUCKETS: u16 requests @0, u16 changing ones @2. */
export const HAZARD_BUCKETS = 1024;
export const HAZARDS = FREE_LARGE + MAX_LARGE * 2;
/** The slots of active requests: a bit each, in words of 64. */
export const ACTIVE_SLOTS = HAZARDS + HAZARD_BUCKETS * 4;
export const ACTIVE_WORDS = (MAX_SLOTS + 63) >> 6;

/** Slots whose responses are written and not yet published: they are free when they are. */
export const ANSWERED_LIST = ACTIVE_SLOTS + ACTIVE_WORDS * 8;

/**
 * The journal: what another instance needs to go on with the ring when this one is killed. On pages of its own, so that a
 * host can map a file there; docs/restart.md has its layout as a table. A header page, then an entry for each slot.
 */
export const JOURNAL = 16384;
/** Changes with the layout of the file: from JOURNAL to JOURNAL_END. */
export const JOURNAL_VERSION = 1;
/** Header. u64, "xbdback" and a J; written last. */
export const JOURNAL_MAGIC = JOURNAL + 0;
export const JOURNAL_MAGIC_LOW = 0x62646278;
export const JOURNAL_MAGIC_HIGH = 0x4a6b6361;
/** u32: JOURNAL_VERSION. */
export const JOURNAL_FORMAT = JOURNAL + 8;
/** u32: FNV-1a of the bytes from JOURNAL_CHECKED to JOURNAL_CHECKED_END, as words. */
export const JOURNAL_CHECKSUM = JOURNAL + 12;
export const JOURNAL_CHECKED = JOURNAL + 16;
/** u32 fields, as in CONFIG: what was agreed with the frontend. */
export const JOURNAL_ABI = JOURNAL + 16;
export const JOURNAL_RING_ENTRIES = JOURNAL + 20;
export const JOURNAL_FEATURES = JOURNAL + 24;
export const JOURNAL_SECTOR_UNITS = JOURNAL + 28;
export const JOURNAL_MAX_INDIRECT = JOURNAL + 32;
export const JOURNAL_DOMID = JOURNAL + 36;
/** 24 bytes that are 0, then 64 that the host wrote before attach(): what tells this ring from others. */
export const JOURNAL_IDENTITY = JOURNAL + 64;
export const JOURNAL_IDENTITY_BYTES = 64;
export const JOURNAL_CHECKED_END = JOURNAL + 128;
/** u64: requests taken, begun at the ring index where the journal began; its low half is req_cons. */
export const JOURNAL_TAKEN = JOURNAL + 128;
/** 64 bytes that are the host's at all times; no core reads or writes them. */
export const JOURNAL_HOST = JOURNAL + 192;

export const JOURNAL_ENTRIES = JOURNAL + PAGE;
export const JOURNAL_ENTRY_BYTES = 128;
/** Entry. u64: JOURNAL_TAKEN when the request was taken; its low half is the request's ring index. */
export const JOURNAL_INDEX = 0;
/** u32: JOURNAL_FREE and so on; in one u64 with the u32 behind it, the ring index of its response. */
export const JOURNAL_STATE = 8;
/** The request as it came from the ring, 112 bytes. */
export const JOURNAL_REQUEST = 16;
export const JOURNAL_FREE = 0;
/** Taken, if its index is below JOURNAL_TAKEN. */
export const JOURNAL_BUSY = 1;
/** Its response is written, and published if its index is below the ring's rsp_prod. */
export const JOURNAL_ANSWERED = 2;

export const JOURNAL_END = JOURNAL_ENTRIES + MAX_SLOTS * JOURNAL_ENTRY_BYTES;

/** Decoded requests: the core's own, 64 bytes a slot. A host may read these fields, between calls of step(). */
export const REQUESTS = JOURNAL_END;
export const REQUEST_BYTES = 64;
/** u8: of a request in flight, whether it owns a large region of the data window, and which one. */
export const REQUEST_FLAGS = 2;
export const REQUEST_IS_LARGE = 64;
export const REQUEST_LARGE = 3;
/** u64: 512-byte sectors that it reads, writes or discards; 0 if it was refused before they were counted. */
export const REQUEST_SECTORS = 24;
/** i16: the response's status. */
export const REQUEST_STATUS = 42;

/** I/Os by slot, 32 bytes each. */
export const IOS = REQUESTS + MAX_SLOTS * REQUEST_BYTES;
export const IO_BYTES = 32;
/** u8: IO_READ and so on. */
export const IO_OPERATION = 0;
/** u8: IO_PREFLUSH and so on. */
export const IO_FLAGS = 1;
/** u16: entries of the I/O's iovec table at IOVECS + slot * IOVECS_PER_SLOT * IOVEC_BYTES. */
export const IO_IOVECS = 2;
/** u32: length in bytes of a read or write. */
export const IO_LENGTH = 4;
/** u64: first 512-byte sector. */
export const IO_SECTOR = 8;
/** u64: length in 512-byte sectors. */
export const IO_SECTORS = 16;
/** u16: the last request of the chain that this I/O carries. */
export const IO_LAST = 24;
/** u16: how many requests it carries. */
export const IO_REQUESTS = 26;

export const IO_READ = 0;
export const IO_WRITE = 1;
export const IO_FLUSH = 2;
export const IO_DISCARD = 3;
/** Flush before the write. */
export const IO_PREFLUSH = 1;
/** Flush after the write, before it completes. */
export const IO_FUA = 2;
export const IO_SECURE = 4;

/** Segments by slot, in wire form: u32 gref @0, u8 first_sect @4, u8 last_sect @5, u16 persistent page @6. */
export const SEGMENTS = IOS + MAX_SLOTS * IO_BYTES;
export const SEGMENT_BYTES = 8;
export const SEGMENT_GREF = 0;
export const SEGMENT_FIRST = 4;
export const SEGMENT_LAST = 5;
export const SEGMENT_PAGE = 6;

/** struct iovec {u64 native address, u64 length}, IOVECS_PER_SLOT for each slot. */
export const IOVECS = SEGMENTS + MAX_SLOTS * MAX_SEGMENTS * SEGMENT_BYTES;
export const IOVEC_BYTES = 16;
export const IOVECS_PER_SLOT = MAX_SEGMENTS;

/** struct gntdev_grant_copy_segment[MAX_COPIES] (linux/include/uapi/xen/gntdev.h). */
export const COPIES = IOVECS + MAX_SLOTS * IOVECS_PER_SLOT * IOVEC_BYTES;
export const COPY_BYTES = 24;
export const COPY_SOURCE = 0;
export const COPY_DEST = 8;
export const COPY_LENGTH = 16;
export const COPY_FLAGS = 18;
export const COPY_STATUS = 20;
export const COPY_SOURCE_GREF = 1;
export const COPY_DEST_GREF = 2;
/** u16[MAX_COPIES]: the slot that each copy is for. */
export const COPY_OWNERS = COPIES + MAX_COPIES * COPY_BYTES;

/** Pages to map: u32 gref @0, u16 page of the persistent window @4, s16 status @6. */
export const MAPS = COPY_OWNERS + MAX_COPIES * 2;
export const MAP_BYTES = 8;
export const MAP_GREF = 0;
export const MAP_PAGE = 4;
export const MAP_STATUS = 6;
/** u16[MAX_PERSISTENT]: pages of the persistent window to unmap. */
export const UNMAPS = MAPS + MAX_PERSISTENT * MAP_BYTES;

/** Persistent grants by page of the window: u32 gref @0, u32 last use @4, u32 users @8, u16 state @12, u8 touched @14. */
export const PERSISTENT_PAGES = UNMAPS + MAX_PERSISTENT * 2;
export const PERSISTENT_PAGE_BYTES = 16;
/** Open-addressed hash from gref to page + 1: u32 gref @0, u32 page + 1 @4 (0: empty). */
export const PERSISTENT_HASH = PERSISTENT_PAGES + MAX_PERSISTENT * PERSISTENT_PAGE_BYTES;
export const PERSISTENT_HASH_ENTRIES = MAX_PERSISTENT * 2;
export const FREE_PAGES = PERSISTENT_HASH + PERSISTENT_HASH_ENTRIES * 8;

/** u16[MAX_SLOTS]: slots of recovered requests, in the order in which they were taken. */
export const RECOVERED_LIST = FREE_PAGES + MAX_PERSISTENT * 2;

export const TABLES_END = RECOVERED_LIST + MAX_SLOTS * 2;

// ---- Windows --------------------------------------------------------------------------------------------------------

/** Private copies of data, page aligned: 44 KiB for every slot, then 1 MiB each for MAX_LARGE larger transfers. */
export const DATA = (TABLES_END + 65535) & ~65535;
export const DATA_SMALL_BYTES = MAX_DIRECT_SEGMENTS * PAGE;
export const DATA_LARGE = DATA + MAX_SLOTS * DATA_SMALL_BYTES;
export const DATA_LARGE_BYTES = MAX_SEGMENTS * PAGE;

/** From here on the guest can write at any moment: the shared ring, then pages of persistent grants. */
export const SRING = DATA_LARGE + MAX_LARGE * DATA_LARGE_BYTES;
export const PERSISTENT = SRING + MAX_RING_PAGES * PAGE;
export const MEMORY_BYTES = PERSISTENT + MAX_PERSISTENT * PAGE;

// ---- The shared ring's header (xen/include/public/io/ring.h) -----------------------------------------------------------

export const SRING_REQ_PROD = SRING + 0;
export const SRING_REQ_EVENT = SRING + 4;
export const SRING_RSP_PROD = SRING + 8;
export const SRING_RSP_EVENT = SRING + 12;
export const SRING_ENTRIES = SRING + 64;
