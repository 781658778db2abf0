/** The messages of option haggling: what a client's option says, and how replies are laid out. */
import { Bytes, Handshake, Info, Magic } from "../../nbd/protocol.js";

const TWO_TO_32 = 4294967296;

export function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / TWO_TO_32));
  view.setUint32(at + 4, value % TWO_TO_32);
}

/** What the server says first. */
export function greeting(): Uint8Array {
  const view = new DataView(new ArrayBuffer(18));
  view.setUint32(0, Magic.init.high);
  view.setUint32(4, Magic.init.low);
  view.setUint32(8, Magic.option.high);
  view.setUint32(12, Magic.option.low);
  view.setUint16(16, Handshake.fixedNewstyle | Handshake.noZeroes);
  return new Uint8Array(view.buffer);
}

export function optionReply(option: number, type: number, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const message = new Uint8Array(Bytes.optionReplyHeader + data.byteLength);
  const view = new DataView(message.buffer);
  view.setUint32(0, Magic.optionReply.high);
  view.setUint32(4, Magic.optionReply.low);
  view.setUint32(8, option);
  view.setUint32(12, type);
  view.setUint32(16, data.byteLength);
  message.set(data, Bytes.optionReplyHeader);
  return message;
}

/** The answer to NBD_OPT_EXPORT_NAME, which has no header. */
export function exportNameReply(size: number, flags: number, padded: boolean): Uint8Array {
  const view = new DataView(new ArrayBuffer(10 + (padded ? Bytes.exportNamePadding : 0)));
  putU64(view, 0, size);
  view.setUint16(8, flags);
  return new Uint8Array(view.buffer);
}

/** NBD_REP_SERVER's data: an export named "". */
export function listEntry(description: string): Uint8Array {
  return Buffer.concat([new Uint8Array(4), Buffer.from(description)]);
}

/** NBD_REP_INFO's data. */
export function infoExport(size: number, flags: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(12));
  view.setUint16(0, Info.export);
  putU64(view, 2, size);
  view.setUint16(10, flags);
  return new Uint8Array(view.buffer);
}

export function infoBlockSize(sizes: { minimum: number; preferred: number; maximum: number }): Uint8Array {
  const view = new DataView(new ArrayBuffer(14));
  view.setUint16(0, Info.blockSize);
  view.setUint32(2, sizes.minimum);
  view.setUint32(6, sizes.preferred);
  view.setUint32(10, sizes.maximum);
  return new Uint8Array(view.buffer);
}

export function infoText(type: number, text: string): Uint8Array {
  return Buffer.concat([new Uint8Array([type >> 8, type & 0xff]), Buffer.from(text)]);
}

/** What NBD_OPT_INFO and NBD_OPT_GO ask for. */
export interface InfoRequest {
  readonly name: string;
  readonly wanted: ReadonlySet<number>;
}

/** Null when the lengths inside do not add up. */
export function parseInfoRequest(data: Uint8Array): InfoRequest | null {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (data.byteLength < 6) return null;
  const nameLength = view.getUint32(0);
  if (nameLength > data.byteLength - 6) return null;
  const count = view.getUint16(4 + nameLength);
  if (data.byteLength !== 6 + nameLength + 2 * count) return null;
  const wanted = new Set<number>();
  for (let i = 0; i < count; i++) wanted.add(view.getUint16(6 + nameLength + 2 * i));
  return { name: Buffer.from(data.subarray(4, 4 + nameLength)).toString(), wanted };
}

/** The export's name in NBD_OPT_{LIST,SET}_META_CONTEXT; null when the lengths inside do not add up. */
export function parseMetaContext(data: Uint8Array): string | null {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (data.byteLength < 8) return null;
  const nameLength = view.getUint32(0);
  if (nameLength > data.byteLength - 8) return null;
  let at = 8 + nameLength;
  for (let left = view.getUint32(4 + nameLength); left > 0; left--) {
    if (at + 4 > data.byteLength) return null;
    at += 4 + view.getUint32(at);
  }
  if (at !== data.byteLength) return null;
  return Buffer.from(data.subarray(4, 4 + nameLength)).toString();
}
