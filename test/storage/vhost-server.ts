/** A vhost-user-blk server of the tests' own, which does as it is told: honest by default, and whatever else a test wants. */
import { closeSync, mkdtempSync, rmSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import koffi from "koffi";
import {
  addressOf,
  mapBuffer,
  type Poll,
  pollReadable,
  readNonBlocking,
  signalEventFd,
  unmapBuffer,
} from "../../host/platform/libc.js";
import { sendWithDescriptors } from "../../host/platform/sharing.js";
import { bit, Feature, Message, Protocol, Request } from "../../host/storage/vhost-user/abi.js";

const libc = koffi.load("libc.so.6");
const recvmsg = libc.func("long recvmsg(int fd, void *message, int flags)");
const MSG_DONTWAIT = 0x40;

const of = (...bits: number[]): bigint => bits.reduce((all, one) => all | bit(one), 0n);

/** What qemu-storage-daemon offers, more or less. */
export const FEATURES = of(
  Feature.sizeMax,
  ...[Feature.version1, Feature.protocolFeatures, Feature.eventIndex, Feature.indirect, Feature.segMax],
  ...[Feature.blockSize, Feature.flush, Feature.topology, Feature.discard, Feature.writeZeroes],
);
export const PROTOCOL = of(Protocol.mq, Protocol.replyAck, Protocol.backendRequest, Protocol.config);

export interface ConfigFields {
  readonly bytes: number;
  readonly sizeMax: number;
  readonly segMax: number;
  readonly blockSize: number;
  readonly maxDiscard: number;
  readonly mayUnmap: boolean;
}

/** A request as it came from the ring. */
export interface Asked {
  readonly queue: FakeQueue;
  readonly head: number;
  readonly type: number;
  readonly sector: number;
  /** What the server reads, and what it writes, without header and status. */
  readonly from: Uint8Array[];
  readonly to: Uint8Array[];
  readonly status: Uint8Array;
}

export interface Script {
  readonly features?: bigint;
  readonly protocol?: bigint;
  readonly queues?: number;
  readonly config?: Partial<ConfigFields>;
  /** The disk's bytes. */
  readonly disk?: Buffer;
  /** True where it has dealt with a message. */
  readonly hears?: (server: FakeServer, message: number, payload: Buffer) => boolean;
  /** True where it has dealt with a request. */
  readonly serves?: (asked: Asked, server: FakeServer) => boolean;
}

/** The device's side of a virtqueue. */
export class FakeQueue {
  readonly server: FakeServer;
  readonly index: number;
  size = 0;
  descriptors = 0;
  available = 0;
  used = 0;
  callFd = -1;
  kickFd = -1;
  seen = 0;
  answered = 0;
  #poll: Poll | null = null;

  constructor(server: FakeServer, index: number) {
    this.server = server;
    this.index = index;
  }

  listen(fd: number): void {
    this.kickFd = fd;
    this.#poll = pollReadable(fd, () => {
      readNonBlocking(fd, new Uint8Array(8));
      this.run();
    });
  }

  run(): void {
    const view = this.server.view;
    for (;;) {
      const ahead = (view.getUint16(this.available + 2, true) - this.seen) & 0xffff;
      if (ahead === 0) {
        // The driver is to kick for the next one.
        view.setUint16(this.used + 4 + 8 * this.size, this.seen, true);
        if (view.getUint16(this.available + 2, true) === this.seen) return;
        continue;
      }
      const head = view.getUint16(this.available + 4 + 2 * (this.seen % this.size), true);
      this.seen = (this.seen + 1) & 0xffff;
      const asked = this.#read(head);
      if (asked) this.server.serve(asked);
      if (this.server.closed) return;
    }
  }

  /** Answers as the ring wants it, whatever the numbers are. */
  answer(head: number, written: number): void {
    const view = this.server.view;
    const at = this.used + 4 + 8 * (this.answered % this.size);
    view.setUint32(at, head, true);
    view.setUint32(at + 4, written, true);
    this.publish(this.answered + 1);
  }

  publish(index: number): void {
    this.answered = index & 0xffff;
    this.server.view.setUint16(this.used + 2, this.answered, true);
    this.call();
  }

  call(): void {
    if (this.callFd >= 0) signalEventFd(this.callFd);
  }

  close(): void {
    this.#poll?.close();
    for (const fd of [this.callFd, this.kickFd]) if (fd >= 0) closeSync(fd);
  }

  /** Null where it has overwritten the request itself. */
  #read(head: number): Asked | null {
    try {
      return this.#parse(head);
    } catch (error) {
      if (error instanceof RangeError || error instanceof TypeError) return null;
      throw error;
    }
  }

  #parse(head: number): Asked {
    const { view } = this.server;
    const parts: { bytes: Uint8Array; writes: boolean }[] = [];
    let table = this.descriptors;
    let at = head;
    for (let i = 0; i < 2000; i++) {
      const place = table + at * 16;
      const address = this.server.offsetOf(Number(view.getBigUint64(place, true)));
      const length = view.getUint32(place + 8, true);
      const flags = view.getUint16(place + 12, true);
      if (flags & 4) {
        table = address;
        at = 0;
        continue;
      }
      parts.push({ bytes: this.server.bytes.subarray(address, address + length), writes: (flags & 2) !== 0 });
      if (!(flags & 1)) break;
      at = view.getUint16(place + 14, true);
    }
    const header = new DataView(parts[0].bytes.buffer, parts[0].bytes.byteOffset, 16);
    const from = parts.slice(1).filter(({ writes }) => !writes);
    const to = parts.filter(({ writes }) => writes);
    return {
      queue: this,
      head,
      type: header.getUint32(0, true),
      sector: Number(header.getBigUint64(8, true)),
      from: from.map(({ bytes }) => bytes),
      to: to.slice(0, -1).map(({ bytes }) => bytes),
      status: to.at(-1)!.bytes,
    };
  }
}

export class FakeServer {
  /** The shared memory. */
  bytes = new Uint8Array(0);
  view = new DataView(this.bytes.buffer);
  closed = false;
  readonly script: Script;
  readonly queues = new Map<number, FakeQueue>();
  readonly messages: number[] = [];
  readonly requests: { type: number; sector: number; lengths: number[] }[] = [];
  config: ConfigFields;
  features = 0n;
  backendFd = -1;
  readonly #socket: Socket;
  readonly #fd: number;
  readonly #poll: Poll;
  #held = Buffer.alloc(0);
  #fds: number[] = [];
  #map = { address: 0, length: 0, guest: 0 };

  constructor(socket: Socket, script: Script) {
    this.script = script;
    this.#socket = socket;
    this.#fd = (socket as unknown as { _handle: { fd: number } })._handle.fd;
    const disk = script.disk?.length ?? 1 << 20;
    const base = {
      bytes: disk,
      sizeMax: 0,
      segMax: 126,
      blockSize: 512,
      maxDiscard: 2 ** 21,
      mayUnmap: true,
    };
    this.config = { ...base, ...script.config };
    this.#poll = pollReadable(this.#fd, () => this.#receive());
  }

  offsetOf(guest: number): number {
    return guest - this.#map.guest;
  }

  reply(message: number, payload: Buffer, flags = 5): void {
    this.raw(message, flags, payload);
  }

  raw(message: number, flags: number, payload: Buffer): void {
    this.rubbish(Buffer.concat([header(message, flags, payload.length), payload]));
  }

  rubbish(bytes: Buffer): void {
    if (this.closed) return;
    try {
      sendWithDescriptors(this.#fd, bytes, []);
    } catch {
      // The client has closed the connection.
      this.close();
    }
  }

  /** Says that the disk has another size. */
  resize(bytes: number): void {
    this.config = { ...this.config, bytes };
    sendWithDescriptors(this.backendFd, header(2, 1, 0), []);
  }

  serve(asked: Asked): void {
    const { type, sector, from, to } = asked;
    this.requests.push({ type, sector, lengths: [...from, ...to].map(({ length }) => length) });
    if (this.script.serves?.(asked, this)) return;
    this.answer(asked);
  }

  /** As an honest server does. */
  answer({ queue, head, type, sector, from, to, status }: Asked, verdict = 0): void {
    const disk = this.script.disk ?? Buffer.alloc(0);
    let at = sector * 512;
    let written = 1;
    if (type === Request.out) for (const bytes of from) at += Buffer.from(bytes).copy(disk, at);
    if (type === Request.in) {
      for (const bytes of to) {
        bytes.set(disk.subarray(at, at + bytes.length));
        at += bytes.length;
        written += bytes.length;
      }
    }
    if (type === Request.discard || type === Request.writeZeroes) {
      const range = Buffer.from(from[0]);
      const start = Number(range.readBigUInt64LE(0)) * 512;
      disk.fill(0, start, start + range.readUInt32LE(8) * 512);
    }
    status[0] = verdict;
    queue.answer(head, written);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.#poll.close();
    this.#socket.destroy();
    for (const queue of this.queues.values()) queue.close();
    for (const fd of this.#fds) closeSync(fd);
    if (this.backendFd >= 0) closeSync(this.backendFd);
    this.bytes = new Uint8Array(0);
    this.view = new DataView(this.bytes.buffer);
    if (this.#map.length > 0) unmapBuffer(this.#map.address, this.#map.length);
  }

  #receive(): void {
    // struct msghdr, struct iovec, control messages, data.
    const memory = Buffer.alloc(56 + 16 + 128 + 4096);
    const start = BigInt(addressOf(memory));
    memory.writeBigUInt64LE(start + 56n, 16);
    memory.writeBigUInt64LE(1n, 24);
    memory.writeBigUInt64LE(start + 72n, 32);
    memory.writeBigUInt64LE(128n, 40);
    memory.writeBigUInt64LE(start + 200n, 56);
    memory.writeBigUInt64LE(4096n, 64);
    const length = recvmsg(this.#fd, memory, MSG_DONTWAIT);
    if (length <= 0) {
      this.close();
      return;
    }
    if (memory.readBigUInt64LE(40) > 16n) {
      const end = 72 + Number(memory.readBigUInt64LE(72));
      for (let at = 72 + 16; at < end; at += 4) this.#fds.push(memory.readInt32LE(at));
    }
    this.#held = Buffer.concat([this.#held, memory.subarray(200, 200 + length)]);
    while (!this.closed && this.#held.length >= 12) {
      const size = this.#held.readUInt32LE(8);
      if (this.#held.length < 12 + size) return;
      const [message, flags] = [this.#held.readUInt32LE(0), this.#held.readUInt32LE(4)];
      const payload = Buffer.from(this.#held.subarray(12, 12 + size));
      this.#held = this.#held.subarray(12 + size);
      this.#hear(message, flags, payload);
    }
  }

  #hear(message: number, flags: number, payload: Buffer): void {
    this.messages.push(message);
    if (this.script.hears?.(this, message, payload)) return;
    const reply = this.#carryOut(message, payload);
    if (reply) this.reply(message, reply);
    else if (flags & 8) this.reply(message, u64(0n));
  }

  #carryOut(message: number, payload: Buffer): Buffer | null {
    const { features = FEATURES, protocol = PROTOCOL, queues = 4 } = this.script;
    if (message === Message.getFeatures) return u64(features);
    if (message === Message.setFeatures) this.features = payload.readBigUInt64LE();
    if (message === Message.getProtocolFeatures) return u64(protocol);
    if (message === Message.getQueueNum) return u64(BigInt(queues));
    if (message === Message.getConfig) return this.#config(payload);
    if (message === Message.setBackendRequestFd) this.backendFd = this.#fds.pop()!;
    if (message === Message.setMemTable) this.#mapMemory(payload);
    if (message >= Message.setVringNum && message <= Message.setVringCall)
      return this.#setRing(message, payload);
    return null;
  }

  #mapMemory(payload: Buffer): void {
    const fd = this.#fds.pop()!;
    const guest = Number(payload.readBigUInt64LE(8));
    const length = Number(payload.readBigUInt64LE(16));
    const { address, bytes } = mapBuffer(fd, 0, length, false);
    closeSync(fd);
    this.#map = { address, length, guest };
    this.bytes = new Uint8Array(bytes);
    this.view = new DataView(bytes);
  }

  #setRing(message: number, payload: Buffer): Buffer | null {
    const index = payload.readUInt32LE(0) & 0xff;
    let queue = this.queues.get(index);
    if (!queue) this.queues.set(index, (queue = new FakeQueue(this, index)));
    const address = (at: number): number => this.offsetOf(Number(payload.readBigUInt64LE(at)));
    if (message === Message.setVringNum) queue.size = payload.readUInt32LE(4);
    if (message === Message.setVringAddr) {
      queue.descriptors = address(8);
      queue.used = address(16);
      queue.available = address(24);
      // As QEMU does it: the ring may have been in use before.
      queue.answered = this.view.getUint16(queue.used + 2, true);
    }
    if (message === Message.setVringCall) queue.callFd = this.#fds.pop()!;
    if (message === Message.setVringKick) queue.listen(this.#fds.pop()!);
    if (message !== Message.getVringBase) return null;
    queue.close();
    this.queues.delete(index);
    const reply = Buffer.from(payload);
    reply.writeUInt32LE(queue.seen, 4);
    return reply;
  }

  #config(payload: Buffer): Buffer {
    const { bytes, sizeMax, segMax, blockSize, maxDiscard, mayUnmap } = this.config;
    const reply = Buffer.from(payload);
    const config = reply.subarray(12);
    config.writeBigUInt64LE(BigInt(Math.floor(bytes / 512)), 0);
    config.writeUInt32LE(sizeMax, 8);
    config.writeUInt32LE(segMax, 12);
    config.writeUInt32LE(blockSize, 20);
    config.writeUInt32LE(maxDiscard, 36);
    config.writeUInt32LE(maxDiscard, 48);
    config.writeUInt8(mayUnmap ? 1 : 0, 56);
    return reply;
  }
}

export function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}

function header(message: number, flags: number, length: number): Buffer {
  const bytes = Buffer.alloc(12);
  bytes.writeUInt32LE(message, 0);
  bytes.writeUInt32LE(flags, 4);
  bytes.writeUInt32LE(length, 8);
  return bytes;
}

export interface Served {
  /** What names its disk. */
  readonly target: string;
  readonly path: string;
  /** Of each connection. */
  readonly servers: FakeServer[];
}

/** Listens on a socket of its own; each connection has a server that keeps to the script. */
export async function vhostServer(t: TestContext, script: Script): Promise<Served> {
  const directory = mkdtempSync(join(tmpdir(), "xbdback-vhost-"));
  const path = join(directory, "vhost.sock");
  const servers: FakeServer[] = [];
  const listener = createServer({ pauseOnConnect: true }, (socket) => {
    socket.on("error", () => {});
    servers.push(new FakeServer(socket, script));
  });
  await new Promise<void>((resolve) => listener.listen(path, resolve));
  t.after(() => {
    for (const server of servers) server.close();
    listener.close();
    rmSync(directory, { recursive: true, force: true });
  });
  return { target: `vhost-user:${path}`, path, servers };
}
