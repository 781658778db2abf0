/** A client that says exactly what a test tells it to. Everything it waits for has a time-out. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";

const PATIENCE = 60_000;

export const OPTION = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structured: 8,
} as const;
export const CMD = { read: 0, write: 1, disc: 2, flush: 3, trim: 4, cache: 5, zeroes: 6, status: 7 } as const;
export const FLAG = { fua: 1, noHole: 2, df: 4, fastZero: 16 } as const;
export const ERR = { EPERM: 1, EIO: 5, EINVAL: 22, ENOSPC: 28, ENOTSUP: 95 } as const;

export interface OptionReply {
  option: number;
  type: number;
  data: Buffer;
}

export interface Reply {
  structured: boolean;
  type: number;
  error: number;
  cookie: bigint;
  data: Buffer;
  message: string;
}

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

export function request(
  command: number,
  cookie: number | bigint,
  position: number | bigint,
  length: number,
  flags = 0,
): Buffer {
  return Buffer.concat([u32(0x25609513), u16(flags), u16(command), u64(cookie), u64(position), u32(length)]);
}

/** The data of NBD_OPT_GO and NBD_OPT_INFO. */
export function infoData(name: string, ...wanted: number[]): Buffer {
  const bytes = Buffer.from(name);
  return Buffer.concat([u32(bytes.byteLength), bytes, u16(wanted.length), ...wanted.map(u16)]);
}

export class RawClient {
  readonly socket: Socket;
  #arrived = Buffer.alloc(0);
  #ended = false;
  #wake: () => void = () => {};

  private constructor(socket: Socket) {
    this.socket = socket;
    const over = () => {
      this.#ended = true;
      this.#wake();
    };
    socket.on("data", (bytes) => {
      this.#arrived = Buffer.concat([this.#arrived, bytes]);
      this.#wake();
    });
    socket.on("end", over);
    socket.on("error", over);
    socket.on("close", over);
  }

  /** Connected; nothing read or said. */
  static async connect(path: string): Promise<RawClient> {
    const socket = connect({ path, allowHalfOpen: true });
    await once(socket, "connect");
    return new RawClient(socket);
  }

  /** Past the greeting and the client flags. */
  static async greet(path: string, flags = 3): Promise<RawClient> {
    const client = await RawClient.connect(path);
    await client.take(18);
    client.say(u32(flags));
    return client;
  }

  /** In the transmission phase. */
  static async ready(path: string, structured = true): Promise<RawClient> {
    const client = await RawClient.greet(path);
    if (structured) await client.option(OPTION.structured);
    const replies = await client.option(OPTION.go, infoData(""));
    if (replies.at(-1)?.type !== 1) throw new Error("the server refused NBD_OPT_GO");
    return client;
  }

  say(...parts: Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  async #until(condition: () => boolean, what: string): Promise<void> {
    const deadline = Date.now() + PATIENCE;
    while (!condition()) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        timer = setTimeout(resolve, Math.max(0, deadline - Date.now()));
      });
      clearTimeout(timer);
      if (Date.now() >= deadline) throw new Error(`waited in vain for ${what}`);
    }
  }

  async take(count: number): Promise<Buffer> {
    await this.#until(() => this.#arrived.byteLength >= count || this.#ended, `${count} bytes`);
    if (this.#arrived.byteLength < count) throw new Error("the server closed the connection");
    const bytes = this.#arrived.subarray(0, count);
    this.#arrived = this.#arrived.subarray(count);
    return bytes;
  }

  /** Resolves when the server has closed; gives what it said until then. */
  async rest(): Promise<Buffer> {
    await this.#until(() => this.#ended, "the end");
    return this.#arrived;
  }

  sayOption(option: number, data: Uint8Array = Buffer.alloc(0)): void {
    this.say(Buffer.from("IHAVEOPT"), u32(option), u32(data.byteLength), data);
  }

  /** Sends an option and collects its replies up to the one that ends them. */
  async option(option: number, data?: Uint8Array): Promise<OptionReply[]> {
    this.sayOption(option, data);
    const replies: OptionReply[] = [];
    for (;;) {
      const header = await this.take(20);
      if (header.readBigUInt64BE(0) !== 0x3e889045565a9n) throw new Error("bad option reply magic");
      const data = await this.take(header.readUInt32BE(16));
      const reply = { option: header.readUInt32BE(8), type: header.readUInt32BE(12), data };
      replies.push(reply);
      if (reply.type === 1 || reply.type >= 0x80000000) return replies;
    }
  }

  /** The next reply; a simple one is taken to have `length` bytes of data when it has no error. */
  async reply(length = 0): Promise<Reply> {
    const magic = (await this.take(4)).readUInt32BE(0);
    if (magic === 0x67446698) {
      const header = await this.take(12);
      const error = header.readUInt32BE(0);
      const data = error ? Buffer.alloc(0) : await this.take(length);
      return { structured: false, type: 0, error, cookie: header.readBigUInt64BE(4), data, message: "" };
    }
    if (magic !== 0x668e33ef) throw new Error(`bad reply magic ${magic.toString(16)}`);
    const header = await this.take(16);
    if (header.readUInt16BE(0) !== 1) throw new Error("expected the only chunk of a reply");
    const type = header.readUInt16BE(2);
    const cookie = header.readBigUInt64BE(4);
    const data = await this.take(header.readUInt32BE(12));
    const failed = type === 0x8001;
    const error = failed ? data.readUInt32BE(0) : 0;
    const message = failed ? data.subarray(6, 6 + data.readUInt16BE(4)).toString() : "";
    return { structured: true, type, error, cookie, data, message };
  }

  close(): void {
    this.socket.destroy();
  }
}
