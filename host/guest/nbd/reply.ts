/** Lays replies out in a request's own buffer, in front of its data. */

import { Bytes, Chunk, Magic } from "../../nbd/protocol.js";
import type { MessageBuffer } from "./buffers.js";
import { putU64 } from "./options.js";
import type { Refusal, Request } from "./request.js";

/** A message goes along with an error, this long at most. */
const LONGEST_MESSAGE = 1024;

/** The answer to a request that succeeded without data. */
export function plainReply(buffer: MessageBuffer, request: Request): Uint8Array {
  putSimple(buffer.view, 0, 0, request);
  return buffer.bytes.subarray(0, Bytes.simpleReply);
}

/** The answer to a read whose data lie in `buffer` from `start` (at least the headroom). */
export function dataReply(
  buffer: MessageBuffer,
  start: number,
  request: Request,
  structured: boolean,
): Uint8Array {
  const { view, bytes } = buffer;
  const { length, position } = request;
  if (!structured) {
    putSimple(view, start - Bytes.simpleReply, 0, request);
    return bytes.subarray(start - Bytes.simpleReply, start + length);
  }
  if (length === 0) {
    putChunk(view, 0, Chunk.none, 0, request);
    return bytes.subarray(0, Bytes.chunkHeader);
  }
  const header = start - 8 - Bytes.chunkHeader;
  putChunk(view, header, Chunk.offsetData, 8 + length, request);
  putU64(view, start - 8, position);
  return bytes.subarray(header, start + length);
}

export function errorReply(
  buffer: MessageBuffer,
  refusal: Refusal,
  request: Request,
  structured: boolean,
): Uint8Array {
  if (!structured) {
    putSimple(buffer.view, 0, refusal.error, request);
    return buffer.bytes.subarray(0, Bytes.simpleReply);
  }
  const message = Buffer.from(refusal.message).subarray(0, LONGEST_MESSAGE);
  const reply = Buffer.alloc(Bytes.chunkHeader + 6 + message.byteLength);
  const view = new DataView(reply.buffer, reply.byteOffset, reply.byteLength);
  putChunk(view, 0, Chunk.error, 6 + message.byteLength, request);
  view.setUint32(Bytes.chunkHeader, refusal.error);
  view.setUint16(Bytes.chunkHeader + 4, message.byteLength);
  reply.set(message, Bytes.chunkHeader + 6);
  return reply;
}

function putSimple(view: DataView, at: number, error: number, request: Request): void {
  view.setUint32(at, Magic.simpleReply);
  view.setUint32(at + 4, error);
  view.setUint32(at + 8, request.cookieHigh);
  view.setUint32(at + 12, request.cookieLow);
}

/** Every reply is one chunk, so every chunk is the last one, and "do not fragment" is always obeyed. */
function putChunk(view: DataView, at: number, type: number, payload: number, request: Request): void {
  view.setUint32(at, Magic.structuredReply);
  view.setUint16(at + 4, Chunk.flagDone);
  view.setUint16(at + 6, type);
  view.setUint32(at + 8, request.cookieHigh);
  view.setUint32(at + 12, request.cookieLow);
  view.setUint32(at + 16, payload);
}
