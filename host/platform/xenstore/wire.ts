/** The xenstore wire protocol (xen/include/public/io/xs_wire.h, docs/misc/xenstore.txt): messages and their limits. */

/** enum xsd_sockmsg_type. */
export const MessageType = {
  control: 0,
  directory: 1,
  read: 2,
  getPermissions: 3,
  watch: 4,
  unwatch: 5,
  transactionStart: 6,
  transactionEnd: 7,
  introduce: 8,
  release: 9,
  getDomainPath: 10,
  write: 11,
  mkdir: 12,
  remove: 13,
  setPermissions: 14,
  watchEvent: 15,
  error: 16,
  isDomainIntroduced: 17,
  resume: 18,
  setTarget: 19,
  resetWatches: 21,
  directoryPart: 22,
} as const;

/** Bytes of struct xsd_sockmsg: u32 type, req_id, tx_id, len, little endian. */
export const HEADER_BYTES = 16;
/** XENSTORE_PAYLOAD_MAX: bytes after the header. */
export const PAYLOAD_MAX = 4096;
/**
 * The same, of an answer. oxenstored heeds XENSTORE_PAYLOAD_MAX on a guest's ring only: a directory with many names comes
 * over its socket in one message. This much is a directory of 100,000 domains.
 */
export const ANSWER_MAX = 1 << 20;
/** XENSTORE_ABS_PATH_MAX: bytes, without the NUL. */
export const ABSOLUTE_PATH_MAX = 3072;
/** XENSTORE_REL_PATH_MAX: bytes below /local/domain/<domid>/, without the NUL. */
export const RELATIVE_PATH_MAX = 2048;

export interface Message {
  /** One of {@link MessageType}, or whatever else the peer sent. */
  readonly type: number;
  readonly requestId: number;
  readonly transactionId: number;
  /** Valid until the next call of the decoder that returned it. */
  readonly payload: Buffer;
}

/** The bytes of one message. */
export function encodeMessage(
  type: number,
  requestId: number,
  transactionId: number,
  payload: Uint8Array,
): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
  bytes.writeUInt32LE(type, 0);
  bytes.writeUInt32LE(requestId, 4);
  bytes.writeUInt32LE(transactionId, 8);
  bytes.writeUInt32LE(payload.length, 12);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

/** Each string with its NUL, one after the other: the payload of most messages. */
export function encodeStrings(...strings: readonly string[]): Buffer {
  return Buffer.from(strings.map((text) => `${text}\0`).join(""), "utf8");
}

/** The NUL-terminated strings of a payload. What follows the last NUL is left out. */
export function decodeStrings(payload: Buffer): string[] {
  const end = payload.lastIndexOf(0);
  return end < 0 ? [] : payload.toString("utf8", 0, end).split("\0");
}

/** The peer announced a payload of more than the decoder's limit: the stream cannot be followed any more. */
export class OversizedMessage extends Error {}

/**
 * Takes a byte stream apart into messages. Holds at most one chunk and one incomplete message, as long as the caller
 * pulls all messages, or stops pushing, before the next chunk.
 */
export class MessageDecoder {
  readonly #payloadMax: number;
  #bytes: Buffer = Buffer.alloc(0);
  #at = 0;

  constructor(payloadMax = PAYLOAD_MAX) {
    this.#payloadMax = payloadMax;
  }

  push(chunk: Buffer): void {
    const rest = this.#bytes.subarray(this.#at);
    this.#bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    this.#at = 0;
  }

  /** The next complete message, or null. Throws {@link OversizedMessage}. */
  next(): Message | null {
    const bytes = this.#bytes;
    const at = this.#at;
    if (bytes.length - at < HEADER_BYTES) return null;
    const length = bytes.readUInt32LE(at + 12);
    if (length > this.#payloadMax) throw new OversizedMessage(`a message of ${length} bytes`);
    const end = at + HEADER_BYTES + length;
    if (bytes.length < end) return null;
    this.#at = end;
    return {
      type: bytes.readUInt32LE(at),
      requestId: bytes.readUInt32LE(at + 4),
      transactionId: bytes.readUInt32LE(at + 8),
      payload: bytes.subarray(at + HEADER_BYTES, end),
    };
  }
}
