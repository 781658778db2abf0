/** Constants and layouts of linux/include/uapi/linux/io_uring.h. Offsets are bytes unless a name says words. */

/** Operations. */
export const Op = {
  readv: 1,
  writev: 2,
  fsync: 3,
  readFixed: 4,
  writeFixed: 5,
  pollAdd: 6,
  asyncCancel: 14,
  fallocate: 17,
  openat: 18,
  close: 19,
  statx: 21,
  read: 22,
  write: 23,
} as const;

/** io_uring_setup: 6.1 knows all of these. */
export const Setup = {
  cqSize: 1 << 3,
  clamp: 1 << 4,
  submitAll: 1 << 7,
  taskrunFlag: 1 << 9,
  singleIssuer: 1 << 12,
  deferTaskrun: 1 << 13,
} as const;

export const Feature = {
  singleMmap: 1 << 0,
  noDrop: 1 << 1,
  extArg: 1 << 8,
  cqeSkip: 1 << 11,
  minTimeout: 1 << 15,
} as const;

export const Enter = { getEvents: 1 << 0, extArg: 1 << 3, registeredRing: 1 << 4 } as const;

/** Bits of the submission ring's flags: completions wait for io_uring_enter to be posted. */
export const SQ_TASKRUN = 1 << 2;

export const Register = {
  filesUpdate: 6,
  files2: 13,
  buffers2: 15,
  buffersUpdate: 16,
  maxWorkers: 19,
  ringFds: 20,
} as const;
/** struct io_uring_rsrc_update2: u32 offset, u32 reserved, u64 data, u64 tags, u32 nr, u32 reserved. */
export const RSRC_UPDATE2_BYTES = 32;
/** io_uring_rsrc_register.flags: a table of empty slots. */
export const RSRC_REGISTER_SPARSE = 1;

/** mmap offsets. */
export const OFF_SQ_RING = 0;
export const OFF_SQES = 0x10000000;

/** struct io_uring_params, in words. */
export const PARAMS_BYTES = 120;
export const Params = { sqEntries: 0, cqEntries: 1, flags: 2, features: 5, sqOff: 10, cqOff: 20 } as const;
/** struct io_sqring_offsets and io_cqring_offsets, in words from sqOff and cqOff. */
export const SqOff = { head: 0, tail: 1, mask: 2, entries: 3, flags: 4, dropped: 5, array: 6 } as const;
export const CqOff = { head: 0, tail: 1, mask: 2, entries: 3, overflow: 4, cqes: 5 } as const;

/** struct io_uring_sqe, 64 bytes, in words. */
export const SQE_WORDS = 16;
export const Sqe = {
  /** u8 opcode, u8 flags, u16 ioprio. */
  opcode: 0,
  fd: 1,
  offset: 2,
  address: 4,
  length: 6,
  /** rw_flags, fsync_flags, poll32_events … */
  operationFlags: 7,
  userData: 8,
  /** u16 buf_index, u16 personality. */
  bufferIndex: 10,
} as const;
/** IOSQE_FIXED_FILE, where it stands in the first word. */
export const FIXED_FILE = 1 << 8;
/** IOSQE_ASYNC, likewise: the kernel does not try it in the thread that submits it. */
export const ASYNC = 1 << 12;
/** IOSQE_CQE_SKIP_SUCCESS, likewise: there is a completion only if it fails. */
export const QUIET = 1 << 14;
/** IORING_ASYNC_CANCEL_ALL. */
export const CANCEL_ALL = 1;
export const FSYNC_DATASYNC = 1;
export const POLLIN = 1;

/** struct io_uring_cqe, 16 bytes, in words: u64 user_data, s32 res, u32 flags. */
export const CQE_WORDS = 4;

/** struct io_uring_getevents_arg: u64 sigmask @0, u32 sigmask_sz @8, u32 min_wait_usec @12, u64 timespec @16. */
export const GETEVENTS_ARG_BYTES = 24;
