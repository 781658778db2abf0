/** Datagrams to a Unix socket, which may carry a descriptor: Node has neither. */
import { closeSync } from "node:fs";
import { addressOf, datagramSocket, sendMessage } from "./libc.js";
import { AF_UNIX, SCM_RIGHTS, SOL_SOCKET } from "./numbers.js";

/** Where the parts of a message are, one behind the other: the kernel is given addresses in one piece of memory. */
const VECTOR = 56;
const CONTROL = VECTOR + 16;
const CONTROL_BYTES = 24;
const ADDRESS = CONTROL + CONTROL_BYTES;

/**
 * Sends one datagram to a Unix socket: a path, or, with `@` in front, a name of the abstract namespace. With `descriptor`,
 * the receiver gets a descriptor of the same open file. Throws a SystemError.
 */
export function sendDatagram(address: string, bytes: Uint8Array, descriptor: number | null = null): void {
  // struct sockaddr_un: u16 family, then the path; an abstract name begins with 0 and has no end but the length.
  const name = Buffer.from(address);
  if (name[0] === 0x40) name[0] = 0;
  const sockaddr = Buffer.concat([Buffer.from([AF_UNIX, 0]), name]);
  const memory = Buffer.concat([Buffer.alloc(ADDRESS), sockaddr, bytes]);
  const start = addressOf(memory);
  const set = (offset: number, value: number): void => void memory.writeBigUInt64LE(BigInt(value), offset);
  // struct msghdr: name, its length, vectors, their count, control messages, their length, flags.
  set(0, start + ADDRESS);
  set(8, sockaddr.byteLength);
  set(16, start + VECTOR);
  set(24, 1);
  set(VECTOR, start + ADDRESS + sockaddr.byteLength);
  set(VECTOR + 8, bytes.byteLength);
  if (descriptor !== null) {
    set(32, start + CONTROL);
    set(40, CONTROL_BYTES);
    // struct cmsghdr: u64 length, s32 level, s32 type; then the descriptor.
    set(CONTROL, 20);
    memory.writeInt32LE(SOL_SOCKET, CONTROL + 8);
    memory.writeInt32LE(SCM_RIGHTS, CONTROL + 12);
    memory.writeInt32LE(descriptor, CONTROL + 16);
  }
  const socket = datagramSocket();
  try {
    sendMessage(socket, memory, address);
  } finally {
    closeSync(socket);
  }
}
