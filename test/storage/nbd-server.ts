/** An NBD server that says exactly what a test tells it to, and a plain one that keeps its disk in memory. */
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { u16, u32, u64 } from "../nbd/raw-client.js";
import { directory } from "./helpers.js";

export const SEND = { flush: 1 << 2, fua: 1 << 3, trim: 1 << 5, zeroes: 1 << 6 } as const;
export const READ_ONLY = 1 << 1;
export const ALL = 1 | SEND.flush | SEND.fua | SEND.trim;
export const CMD = { read: 0, write: 1, disc: 2, flush: 3, trim: 4 } as const;
export const MAGIC = { simple: 0x67446698, structured: 0x668e33ef } as const;
const OPT = { abort: 2, info: 6, go: 7, structured: 8 } as const;

export interface Offer {
  readonly size: number;
  readonly flags?: number;
  /** Minimum, preferred, maximum. */
  readonly blocks?: readonly [number, number, number];
  readonly structured?: boolean;
}

export interface Asked {
  readonly command: number;
  readonly flags: number;
  readonly cookie: bigint;
  readonly position: number;
  readonly length: number;
  readonly data: Buffer;
}

/** One connection, as the server sees it. All that waits rejects when the client has gone. */
export class Peer {
  readonly socket: Socket;
  /** Of the export that the client wanted. */
  exportName = "";
  #arrived = Buffer.alloc(0);
  #ended = false;
  #wake: () => void = () => {};

  constructor(socket: Socket) {
    this.socket = socket;
    const over = (): void => {
      this.#ended = true;
      this.#wake();
    };
    socket.on("data", (bytes) => {
      this.#arrived = Buffer.concat([this.#arrived, bytes]);
      this.#wake();
    });
    socket.on("end", over).on("error", over).on("close", over);
  }

  say(...parts: Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  async take(count: number): Promise<Buffer> {
    while (this.#arrived.length < count) {
      if (this.#ended) throw new Error("the client has gone");
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const bytes = this.#arrived.subarray(0, count);
    this.#arrived = this.#arrived.subarray(count);
    return bytes;
  }

  greet(flags = 3): void {
    this.say(Buffer.from("NBDMAGICIHAVEOPT"), u16(flags));
  }

  async option(): Promise<{ option: number; data: Buffer }> {
    const header = await this.take(16);
    return { option: header.readUInt32BE(8), data: await this.take(header.readUInt32BE(12)) };
  }

  answer(option: number, type: number, data: Uint8Array = Buffer.alloc(0)): void {
    this.say(u64(0x3e889045565a9n), u32(option), u32(type), u32(data.length), data);
  }

  /** Up to the transmission phase. Rejects where the client wants only to know what there is. */
  async handshake({ size, flags = ALL, blocks, structured = true }: Offer): Promise<void> {
    this.greet();
    await this.take(4);
    for (;;) {
      const { option, data } = await this.option();
      if (option === OPT.structured) this.answer(option, structured ? 1 : 0x80000001);
      else if (option === OPT.go || option === OPT.info) {
        this.exportName = data.subarray(4, 4 + data.readUInt32BE(0)).toString();
        this.answer(option, 3, Buffer.concat([u16(0), u64(size), u16(flags)]));
        if (blocks) this.answer(option, 3, Buffer.concat([u16(3), ...blocks.map(u32)]));
        this.answer(option, 1);
        if (option === OPT.go) return;
      } else if (option === OPT.abort) {
        this.answer(option, 1);
        throw new Error("the client wanted to know what there is");
      } else this.answer(option, 0x80000001);
    }
  }

  async request(): Promise<Asked> {
    const header = await this.take(28);
    if (header.readUInt32BE(0) !== 0x25609513) throw new Error("the client's request has a wrong magic");
    const command = header.readUInt16BE(6);
    const length = header.readUInt32BE(24);
    return {
      command,
      flags: header.readUInt16BE(4),
      cookie: header.readBigUInt64BE(8),
      position: Number(header.readBigUInt64BE(16)),
      length,
      data: command === CMD.write ? Buffer.from(await this.take(length)) : Buffer.alloc(0),
    };
  }

  simple(cookie: bigint, error = 0, data: Uint8Array = Buffer.alloc(0)): void {
    this.say(u32(MAGIC.simple), u32(error), u64(cookie), data);
  }

  chunk(cookie: bigint, flags: number, type: number, ...parts: Uint8Array[]): void {
    const data = Buffer.concat(parts);
    this.say(u32(MAGIC.structured), u16(flags), u16(type), u64(cookie), u32(data.length), data);
  }

  /** An error with words. */
  fail(cookie: bigint, error: number, message: string): void {
    this.chunk(cookie, 1, 0x8001, u32(error), u16(Buffer.byteLength(message)), Buffer.from(message));
  }
}

export type Script = (peer: Peer, connection: number) => Promise<void>;

export interface Scripted {
  readonly uri: string;
  readonly path: string;
  /** Connections so far. */
  readonly connections: number;
}

/** Serves each connection with the script, which gets its number, from 0. */
export async function scripted(t: TestContext, script: Script): Promise<Scripted> {
  const path = join(directory(t), "nbd.sock");
  const sockets = new Set<Socket>();
  let connections = 0;
  const server = createServer((socket) => {
    sockets.add(socket);
    // That the client goes is for the test to judge.
    script(new Peer(socket), connections++).catch(() => socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return {
    uri: `nbd+unix:///?socket=${path}`,
    path,
    get connections() {
      return connections;
    },
  };
}

/** Serves a disk in memory, after the handshake, as it should be. `before` sees each request, and answers it if it returns true. */
export async function honest(
  peer: Peer,
  disk: Buffer,
  before: (asked: Asked) => boolean | Promise<boolean> = () => false,
): Promise<void> {
  for (;;) {
    const asked = await peer.request();
    if (asked.command === CMD.disc) {
      peer.socket.end();
      return;
    }
    if (await before(asked)) continue;
    const { command, cookie, position, length, data } = asked;
    if (command === CMD.write) data.copy(disk, position);
    if (command === CMD.trim) disk.fill(0, position, position + length);
    if (command !== CMD.read) peer.simple(cookie);
    else peer.chunk(cookie, 1, 1, u64(position), disk.subarray(position, position + length));
  }
}
