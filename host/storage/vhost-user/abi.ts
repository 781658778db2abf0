/** Numbers of vhost-user (its specification in QEMU's documentation) and of virtio's split ring and block device (VIRTIO 1.2). */

/** Requests of ours on the socket. */
export const Message = {
  getFeatures: 1,
  setFeatures: 2,
  setOwner: 3,
  setMemTable: 5,
  setVringNum: 8,
  setVringAddr: 9,
  setVringBase: 10,
  getVringBase: 11,
  setVringKick: 12,
  setVringCall: 13,
  getProtocolFeatures: 15,
  setProtocolFeatures: 16,
  getQueueNum: 17,
  setVringEnable: 18,
  setBackendRequestFd: 21,
  getConfig: 24,
} as const;

/** Requests of the server's on the socket that it was given. */
export const BackendMessage = { configChange: 2 } as const;

/** Message header: u32 request, u32 flags, u32 bytes that follow. */
export const HEADER_BYTES = 12;
export const MessageFlag = { version: 1, versionMask: 3, reply: 4, needReply: 8 } as const;
/** More than any message that we ask for. */
export const MAX_PAYLOAD = 4096;

/** Bits of the protocol features. */
export const Protocol = { mq: 0, replyAck: 3, backendRequest: 5, config: 9, backendSendFd: 10 } as const;

/** Bits of the features. */
export const Feature = {
  sizeMax: 1,
  segMax: 2,
  readOnly: 5,
  blockSize: 6,
  flush: 9,
  topology: 10,
  discard: 13,
  writeZeroes: 14,
  indirect: 28,
  eventIndex: 29,
  protocolFeatures: 30,
  version1: 32,
} as const;

export const Request = { in: 0, out: 1, flush: 4, discard: 11, writeZeroes: 13 } as const;
export const Status = { ok: 0, ioError: 1, unsupported: 2 } as const;
/** What stands in a status byte that no server has written yet. */
export const NO_STATUS = 0xff;
/** Of a segment of WRITE_ZEROES: the space may be freed. */
export const UNMAP = 1;

export const SECTOR_SHIFT = 9;

/** struct virtio_blk_config: the bytes that we ask for, and where its fields are. */
export const CONFIG_BYTES = 60;
export const Config = {
  /** u64, in 512 bytes. */
  capacity: 0,
  sizeMax: 8,
  segMax: 12,
  blockSize: 20,
  /** u8: blocks in a physical one, as a power of two. */
  physicalExponent: 24,
  maxDiscardSectors: 36,
  discardAlignment: 44,
  maxWriteZeroesSectors: 48,
  /** u8. */
  writeZeroesMayUnmap: 56,
} as const;

/** A descriptor: u64 address, u32 length, u16 flags, u16 next. */
export const DESCRIPTOR_BYTES = 16;
export const Descriptor = { next: 1, write: 2, indirect: 4 } as const;
/** struct virtio_blk_req: u32 type, u32 reserved, u64 sector. */
export const REQUEST_HEADER_BYTES = 16;
/** struct virtio_blk_discard_write_zeroes: u64 sector, u32 sectors, u32 flags. */
export const RANGE_BYTES = 16;

export const bit = (number: number): bigint => 1n << BigInt(number);
