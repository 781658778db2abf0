/** One end of a xenstore conversation at the level of messages, for tests: sends what it is told, records the rest. */
import { once } from "node:events";
import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { encodeMessage, MessageDecoder, MessageType } from "../../host/platform/xenstore/wire.js";

/** A duplex byte stream: a Unix socket, or the ring page that a guest shares with xenstored. */
interface Stream {
  write(bytes: Uint8Array): void;
  close(): void;
}

export interface Answer {
  readonly type: number;
  readonly requestId: number;
  readonly transactionId: number;
  /** latin1, so that every byte can be seen. */
  readonly payload: string;
}

export class Peer {
  /** Payloads of the WATCH_EVENTs so far. */
  readonly events: string[] = [];
  /** Types in the order of arrival, events included. */
  readonly order: number[] = [];
  readonly closed: Promise<void>;
  #waiting: { resolve(answer: Answer): void; reject(error: Error): void }[] = [];
  #decoder = new MessageDecoder();
  #stream: Stream;
  #nextId = 1;
  #sawClose: () => void = () => {};
  #isClosed = false;

  private constructor(open: (onData: (chunk: Buffer) => void, onClose: () => void) => Stream) {
    this.closed = new Promise((resolve) => {
      this.#sawClose = resolve;
    });
    this.#stream = open(
      (chunk) => this.#receive(chunk),
      () => this.#ended(),
    );
  }

  static async overSocket(path: string): Promise<Peer> {
    const socket = await connectSocket(path);
    return new Peer((onData, onClose) => {
      socket.on("data", onData);
      socket.on("error", () => {});
      socket.on("close", onClose);
      return { write: (bytes) => socket.write(bytes), close: () => socket.destroy() };
    });
  }

  /** Acts as the guest whose ring page is the file `page`; `ring` rings xenstored's doorbell. */
  static overRing(page: string, ring: () => void): Peer {
    return new Peer((onData) => openRing(page, ring, onData));
  }

  /** Sends a request and waits for its answer. */
  request(type: number, payload: string | Uint8Array, transactionId = 0): Promise<Answer> {
    const bytes = typeof payload === "string" ? Buffer.from(payload, "latin1") : payload;
    const answer = this.#expect();
    this.#stream.write(encodeMessage(type, this.#nextId++, transactionId, bytes));
    return answer;
  }

  /** The answer in short: its payload, or in angle brackets the error's word. */
  async ask(type: number, payload: string | Uint8Array, transactionId = 0): Promise<string> {
    const { type: kind, payload: text } = await this.request(type, payload, transactionId);
    return kind === MessageType.error ? `<${text.slice(0, -1)}>` : text;
  }

  /** Events that came since the last call; asks something first, whose answer comes behind them. */
  async takeEvents(): Promise<string[]> {
    await this.request(MessageType.getDomainPath, "0\0");
    return this.events.splice(0);
  }

  sendBytes(bytes: Uint8Array): void {
    this.#stream.write(bytes);
  }

  close(): void {
    this.#stream.close();
    this.#ended();
  }

  #expect(): Promise<Answer> {
    if (this.#isClosed) return Promise.reject(new Error("connection closed"));
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  #receive(chunk: Buffer): void {
    this.#decoder.push(chunk);
    for (let message = this.#decoder.next(); message; message = this.#decoder.next()) {
      const { type, requestId, transactionId } = message;
      const payload = message.payload.toString("latin1");
      this.order.push(type);
      if (type === MessageType.watchEvent) this.events.push(payload);
      else this.#waiting.shift()?.resolve({ type, requestId, transactionId, payload });
    }
  }

  #ended(): void {
    this.#isClosed = true;
    for (const { reject } of this.#waiting.splice(0)) reject(new Error("connection closed"));
    this.#sawClose();
  }
}

/** C xenstored's backlog is 1; a connection that finds it full fails with EAGAIN. */
async function connectSocket(path: string): Promise<Socket> {
  for (let tries = 1; ; tries++) {
    const socket = connect(path);
    try {
      await once(socket, "connect");
      return socket;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN" || tries === 6000) throw error;
      await sleep(5);
    }
  }
}

/** struct xenstore_domain_interface (xen/include/public/io/xs_wire.h): two rings of 1024 bytes, then the indices. */
const RING_BYTES = 1024;
const ANSWERS_AT = 1024;
const REQ_CONS = 2048;
const REQ_PROD = 2052;
const RSP_CONS = 2056;
const RSP_PROD = 2060;

function openRing(page: string, ring: () => void, onData: (chunk: Buffer) => void): Stream {
  const fd = openSync(page, "r+");
  const index = Buffer.alloc(4);
  const readIndex = (at: number) => {
    readSync(fd, index, 0, 4, at);
    return index.readUInt32LE();
  };
  const writeIndex = (at: number, value: number) => {
    index.writeUInt32LE(value >>> 0);
    writeSync(fd, index, 0, 4, at);
  };
  let unsent: Buffer[] = [];

  const send = () => {
    for (let chunk = unsent[0]; chunk; chunk = unsent[0]) {
      const produced = readIndex(REQ_PROD);
      const room = RING_BYTES - ((produced - readIndex(REQ_CONS)) >>> 0);
      const at = produced % RING_BYTES;
      const n = Math.min(chunk.length, room, RING_BYTES - at);
      if (n === 0) return;
      writeSync(fd, chunk, 0, n, at);
      writeIndex(REQ_PROD, produced + n);
      if (n === chunk.length) unsent.shift();
      else unsent[0] = chunk.subarray(n);
      ring();
    }
  };
  const receive = () => {
    const consumed = readIndex(RSP_CONS);
    const ready = (readIndex(RSP_PROD) - consumed) >>> 0;
    if (ready === 0) return;
    const at = consumed % RING_BYTES;
    const chunk = Buffer.alloc(Math.min(ready, RING_BYTES - at));
    readSync(fd, chunk, 0, chunk.length, ANSWERS_AT + at);
    writeIndex(RSP_CONS, consumed + chunk.length);
    ring();
    onData(chunk);
  };
  let open = true;
  const poll = () => {
    if (!open) return;
    receive();
    send();
    setTimeout(poll, 0);
  };
  poll();
  return {
    write: (bytes) => {
      unsent.push(Buffer.from(bytes));
      send();
    },
    close: () => {
      if (open) closeSync(fd);
      open = false;
      unsent = [];
    },
  };
}
