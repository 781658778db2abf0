/** The socket to a vhost-user server: messages, one at a time, and what the server says by itself. */
import { closeSync } from "node:fs";
import { connect, Socket } from "node:net";
import { peerOf } from "../../platform/libc.js";
import { sendWithDescriptors, socketPair } from "../../platform/sharing.js";
import { answersWithin } from "../calls/answers.js";
import { BackendMessage, HEADER_BYTES, MAX_PAYLOAD, Message, MessageFlag } from "./abi.js";

const GOODBYE_MS = 2000;
const NO_PAYLOAD = Buffer.alloc(0);

interface Waiting {
  readonly message: number;
  readonly resolve: (payload: Buffer) => void;
  readonly reject: (error: Error) => void;
}

export class Session {
  /** The server acknowledges what has no reply of its own. */
  acknowledges = false;
  /** Within which a message is to be answered; else the session ends. */
  milliseconds: number;
  /** The server says that its configuration has changed: the disk has grown. */
  onChange: () => void = () => {};
  /**
   * The session has ended, and not by {@link close}. Called once. `violated`: the server has said what it must not say,
   * and nothing more is to be believed.
   */
  onLost: (why: string, violated: boolean) => void = () => {};
  readonly #socket: Socket;
  #backend: Socket | null = null;
  #waiting: Waiting | null = null;
  /** The last message, which the next one waits for. */
  #last: Promise<unknown> = Promise.resolve();
  #lost: string | null = null;
  #closing = false;
  #violated = false;

  private constructor(socket: Socket, milliseconds: number) {
    this.#socket = socket;
    this.milliseconds = milliseconds;
    const take = reader(
      (why) => this.violate(why),
      (message, flags, payload) => this.#heard(message, flags, payload),
    );
    socket.on("data", take);
    socket.on("error", (error) => this.lose(`the connection to the server broke (${codeOf(error)})`));
    socket.on("close", () => this.lose("the server has closed its connection"));
  }

  /** Connects to the socket at a path. `milliseconds` as above, and for the connection. */
  static async connect(path: string, milliseconds: number): Promise<Session> {
    // connect(2) looks the path up in this thread.
    if (!(await answersWithin(path, milliseconds)))
      throw new Error("the socket's file system does not answer; check it");
    const socket = connect({ path });
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        socket.destroy();
        reject(new Error(`the server does not accept a connection within ${milliseconds / 1000} s`));
      }, milliseconds);
      socket.once("connect", () => {
        clearTimeout(timer);
        resolve();
      });
      socket.once("error", (error) => {
        clearTimeout(timer);
        reject(error);
      });
    });
    socket.removeAllListeners();
    return new Session(socket, milliseconds);
  }

  get lost(): string | null {
    return this.#lost;
  }

  /** The process that listens on the socket, as the kernel knows it; 0 where it is not seen from here. */
  get peer(): number {
    return peerOf(descriptorOf(this.#socket)).pid;
  }

  /** Sends a message that has a reply; resolves with what the server replies. */
  ask(message: number, payload: Buffer = NO_PAYLOAD): Promise<Buffer> {
    return this.#inTurn(() => this.#exchange(message, MessageFlag.version, payload, []));
  }

  async askNumber(message: number): Promise<bigint> {
    const reply = await this.ask(message);
    if (reply.length !== 8)
      throw this.violate(`the server replies to message ${message} with ${reply.length} bytes`);
    return reply.readBigUInt64LE();
  }

  /** Sends a message without a reply, with descriptors; resolves when the server has it, as far as that can be known. */
  tell(message: number, payload: Buffer = NO_PAYLOAD, descriptors: readonly number[] = []): Promise<void> {
    return this.#inTurn(async () => {
      const { version, needReply } = MessageFlag;
      if (!this.acknowledges) {
        this.#send(message, version, payload, descriptors);
        return;
      }
      const reply = await this.#exchange(message, version | needReply, payload, descriptors);
      if (reply.length !== 8 || reply.readBigUInt64LE() !== 0n)
        throw new Error(`the server refuses message ${message}`);
    });
  }

  tellNumber(message: number, value: bigint): Promise<void> {
    const payload = Buffer.alloc(8);
    payload.writeBigUInt64LE(value);
    return this.tell(message, payload);
  }

  /** Gives the server a socket for messages of its own. */
  async listen(): Promise<void> {
    const [ours, theirs] = socketPair();
    try {
      const backend = new Socket({ fd: ours, readable: true, writable: true });
      this.#backend = backend;
      const take = reader(
        (why) => this.violate(why),
        (message, flags) => {
          if (message === BackendMessage.configChange) this.onChange();
          if (flags & MessageFlag.needReply) this.#acknowledge(ours, message);
        },
      );
      backend.on("data", take);
      backend.on("error", () => backend.destroy());
      await this.tell(Message.setBackendRequestFd, NO_PAYLOAD, [theirs]);
    } finally {
      closeSync(theirs);
    }
  }

  /** Ends the session, because the server has said what it must not say; the reason, as an Error. */
  violate(why: string): Error {
    this.#violated ||= this.#lost === null;
    return this.lose(why);
  }

  /** Ends the session; the reason, as an Error. */
  lose(why: string): Error {
    const error = new Error(why);
    if (this.#lost !== null) return new Error(this.#lost);
    this.#lost = why;
    this.#socket.destroy();
    this.#backend?.destroy();
    this.#waiting?.reject(error);
    this.#waiting = null;
    if (!this.#closing) this.onLost(why, this.#violated);
    return error;
  }

  /** Resolves when the server has closed its end, too, or has been given time to. */
  async close(): Promise<void> {
    this.#closing = true;
    if (this.#lost !== null) return;
    const timer = setTimeout(() => this.lose("the disk is closed"), GOODBYE_MS);
    await new Promise<void>((resolve) => {
      this.#socket.once("close", () => resolve());
      this.#socket.end();
    });
    clearTimeout(timer);
    this.lose("the disk is closed");
  }

  /** One after the other, so that a reply is that of the message before it. */
  #inTurn<T>(exchange: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(() => {
      if (this.#lost !== null) throw new Error(this.#lost);
      return exchange();
    });
    this.#last = turn.catch(() => {});
    return turn;
  }

  #exchange(
    message: number,
    flags: number,
    payload: Buffer,
    descriptors: readonly number[],
  ): Promise<Buffer> {
    return new Promise<Buffer>((resolve, reject) => {
      const timer = setTimeout(
        () => this.lose(`the server does not answer message ${message} within ${this.milliseconds / 1000} s`),
        this.milliseconds,
      );
      const end = (): void => clearTimeout(timer);
      this.#waiting = {
        message,
        resolve: (reply) => {
          end();
          resolve(reply);
        },
        reject: (error) => {
          end();
          reject(error);
        },
      };
      try {
        this.#send(message, flags, payload, descriptors);
      } catch (error) {
        this.lose((error as Error).message);
      }
    });
  }

  #send(message: number, flags: number, payload: Buffer, descriptors: readonly number[]): void {
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt32LE(message, 0);
    header.writeUInt32LE(flags, 4);
    header.writeUInt32LE(payload.length, 8);
    sendWithDescriptors(descriptorOf(this.#socket), Buffer.concat([header, payload]), descriptors);
  }

  #heard(message: number, flags: number, payload: Buffer): void {
    const waiting = this.#waiting;
    const replies = (flags & MessageFlag.reply) !== 0;
    if (waiting === null || !replies || message !== waiting.message) {
      this.violate(`the server sends a message that was not asked for (${message})`);
      return;
    }
    this.#waiting = null;
    waiting.resolve(payload);
  }

  #acknowledge(fd: number, message: number): void {
    const reply = Buffer.alloc(HEADER_BYTES + 8);
    reply.writeUInt32LE(message, 0);
    reply.writeUInt32LE(MessageFlag.version | MessageFlag.reply, 4);
    reply.writeUInt32LE(8, 8);
    // What is not known here was not done.
    if (message !== BackendMessage.configChange) reply.writeBigUInt64LE(1n, HEADER_BYTES);
    try {
      sendWithDescriptors(fd, reply, []);
    } catch {
      this.lose("the server does not read what it has asked for");
    }
  }
}

/** Takes bytes apart into messages. */
function reader(
  refuse: (why: string) => void,
  take: (message: number, flags: number, payload: Buffer) => void,
): (data: Buffer) => void {
  let held: Buffer = NO_PAYLOAD;
  return (data) => {
    held = held.length === 0 ? data : Buffer.concat([held, data]);
    while (held.length >= HEADER_BYTES) {
      const flags = held.readUInt32LE(4);
      const length = held.readUInt32LE(8);
      if ((flags & MessageFlag.versionMask) !== MessageFlag.version || length > MAX_PAYLOAD) {
        held = NO_PAYLOAD;
        refuse("the server sends what is not a vhost-user message");
        return;
      }
      if (held.length < HEADER_BYTES + length) return;
      const message = held.readUInt32LE(0);
      const payload = Buffer.from(held.subarray(HEADER_BYTES, HEADER_BYTES + length));
      held = held.subarray(HEADER_BYTES + length);
      take(message, flags, payload);
    }
  };
}

/** Node sends no descriptors. It has the socket's own where the handle of a pipe shows it. */
function descriptorOf(socket: Socket): number {
  const fd = (socket as unknown as { _handle: { fd?: number } | null })._handle?.fd ?? -1;
  if (fd < 0) throw new Error("the connection to the server is closed");
  return fd;
}

function codeOf(error: Error): string {
  return (error as NodeJS.ErrnoException).code ?? error.message;
}
