/** Requests as they go to a server. */
import { Bytes, Magic } from "../../nbd/protocol.js";

const TWO_TO_32 = 4294967296;

export interface Request {
  readonly command: number;
  readonly flags: number;
  /** Bytes. */
  readonly position: number;
  readonly length: number;
  /** A write's data, or where a read's go: `length` bytes. None otherwise. They stay as they are until `done`. */
  readonly views: readonly Uint8Array[];
  /** Called once: with 0, or the wire's errno and what the server says of it, or "". */
  readonly done: (errno: number, message: string) => void;
  /** When its connection was first lost, by performance.now(); null while that has not happened. */
  lostAt: number | null;
}

export function makeRequest(parts: Omit<Request, "lostAt">): Request {
  return { ...parts, lostAt: null };
}

/** `session` is the cookie's high half. */
export function encodeHeader(request: Request, session: number, cookie: number): Buffer {
  const { command, flags, position, length } = request;
  const header = Buffer.allocUnsafe(Bytes.request);
  header.writeUInt32BE(Magic.request, 0);
  header.writeUInt16BE(flags, 4);
  header.writeUInt16BE(command, 6);
  header.writeUInt32BE(session, 8);
  header.writeUInt32BE(cookie, 12);
  header.writeUInt32BE(Math.floor(position / TWO_TO_32), 16);
  header.writeUInt32BE(position % TWO_TO_32, 20);
  header.writeUInt32BE(length, 24);
  return header;
}

/** The part of a scatter list that begins after `offset` bytes and has `length`. */
export function slice(views: readonly Uint8Array[], offset: number, length: number): Uint8Array[] {
  const part: Uint8Array[] = [];
  let start = 0;
  for (const view of views) {
    const from = Math.max(offset - start, 0);
    const to = Math.min(offset + length - start, view.length);
    if (from < to) part.push(view.subarray(from, to));
    start += view.length;
    if (start >= offset + length) break;
  }
  return part;
}
