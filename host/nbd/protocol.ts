/** The NBD protocol's numbers (NetworkBlockDevice/nbd doc/proto.md). All fields are big-endian. */

/** Magic numbers of 64 bits as {high, low}: no BigInt where every message has one. */
export const Magic = {
  /** "NBDMAGIC" */
  init: { high: 0x4e42444d, low: 0x41474943 },
  /** "IHAVEOPT" */
  option: { high: 0x49484156, low: 0x454f5054 },
  optionReply: { high: 0x0003e889, low: 0x045565a9 },
  request: 0x25609513,
  simpleReply: 0x67446698,
  structuredReply: 0x668e33ef,
} as const;

/** Bytes of the fixed messages and headers. */
export const Bytes = {
  clientFlags: 4,
  /** u64 magic, u32 option, u32 length. */
  optionHeader: 16,
  /** u64 magic, u32 option, u32 reply type, u32 length. */
  optionReplyHeader: 20,
  /** u32 magic, u16 flags, u16 command, u64 cookie, u64 offset, u32 length. */
  request: 28,
  /** u32 magic, u32 error, u64 cookie. */
  simpleReply: 16,
  /** u32 magic, u16 flags, u16 type, u64 cookie, u32 length. */
  chunkHeader: 20,
  /** Zeros behind the answer to NBD_OPT_EXPORT_NAME, unless NO_ZEROES was agreed on. */
  exportNamePadding: 124,
} as const;

/** Handshake flags; the client's have the same bits. */
export const Handshake = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const Option = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 10,
  setMetaContext: 11,
} as const;

export const OptionReply = {
  ack: 1,
  server: 2,
  info: 3,
  /** From here on they are errors. */
  errors: 0x80000000,
  unsupported: 0x80000001,
  policy: 0x80000002,
  invalid: 0x80000003,
  tlsRequired: 0x80000005,
  unknown: 0x80000006,
} as const;

export const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

/** Transmission flags. */
export const Transmission = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
} as const;

export const Command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  writeZeroes: 6,
} as const;

export const CommandFlag = { fua: 1 << 0, noHole: 1 << 1, df: 1 << 2, fastZero: 1 << 4 } as const;

/** Structured reply chunks. */
export const Chunk = {
  flagDone: 1,
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;

/** The errors that may go over the wire. */
export const NbdError = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

const OTHER_NAMES: Record<string, number> = {
  EACCES: NbdError.EPERM,
  EROFS: NbdError.EPERM,
  EDQUOT: NbdError.ENOSPC,
  EFBIG: NbdError.ENOSPC,
  EOPNOTSUPP: NbdError.ENOTSUP,
};
const WIRE_ERRORS = new Map(Object.entries({ ...NbdError, ...OTHER_NAMES }));

/** The wire's number for what a disk rejected with: by `error.code`, EIO for whatever the wire has no word for. */
export function wireError(error: unknown): number {
  const code = error instanceof Error ? (error as { code?: unknown }).code : undefined;
  return (typeof code === "string" && WIRE_ERRORS.get(code)) || NbdError.EIO;
}

/** A read or write is at most this long; trims and zeroes may be longer (they carry no data). */
export const MAXIMUM_PAYLOAD = 32 << 20;
