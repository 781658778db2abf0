/** One client: its socket, its watches and its open transactions. */
import type { Socket } from "node:net";
import {
  encodeMessage,
  type Message,
  MessageDecoder,
  MessageType,
  PAYLOAD_MAX,
} from "../../xenstore/wire.js";
import { Refusal } from "./store.js";
import type { Transaction } from "./transaction.js";
import type { Watch, Watcher } from "./watches.js";

/**
 * Bytes of answers that wait for the client, from which on its requests are not read and its events are merged. More
 * than the socket's own high-water mark, so that "drain" comes.
 */
const BACKLOG = 64 * 1024;
/** Characters of merged events that wait for the client, beyond which it is given up. */
const EVENTS_MAX = 1024 * 1024;

/** Answers one request, or throws a {@link Refusal}. */
export type Dispatch = (connection: Connection, message: Message) => void;

export class Connection implements Watcher {
  readonly domid: number;
  readonly transactions = new Map<number, Transaction>();
  /** By {@link watchKey}. */
  readonly watches = new Map<string, Watch>();
  #socket: Socket;
  #dispatch: Dispatch;
  #decoder = new MessageDecoder();
  #lastTransaction = 0;
  /** Payloads of events that wait, in order, each once. */
  #events = new Set<string>();
  #eventsLength = 0;

  constructor(socket: Socket, domid: number, dispatch: Dispatch) {
    this.domid = domid;
    this.#socket = socket;
    this.#dispatch = dispatch;
    socket.on("data", (chunk: Buffer) => {
      this.#decoder.push(chunk);
      this.#work();
    });
    socket.on("drain", () => this.#drained());
    // "close" follows, which is where the server lets go of the connection.
    socket.on("error", () => {});
  }

  /** The next number for a transaction: from 1, as C xenstored's. */
  nextTransactionId(): number {
    do this.#lastTransaction = (this.#lastTransaction % 0xffffffff) + 1;
    while (this.transactions.has(this.#lastTransaction));
    return this.#lastTransaction;
  }

  /** Answers `request`; an answer that does not fit into a message becomes E2BIG. */
  answer(request: Message, payload: Uint8Array): void {
    if (payload.length > PAYLOAD_MAX) throw new Refusal("E2BIG");
    this.#send(request.type, request, payload);
  }

  refuse(request: Message, code: string): void {
    this.#send(MessageType.error, request, Buffer.from(`${code}\0`, "latin1"));
  }

  sendEvent(path: string, token: string): void {
    const payload = `${path}\0${token}\0`;
    // As in C xenstored: an event that does not fit is left out.
    if (payload.length > PAYLOAD_MAX || this.#socket.destroyed) return;
    if (this.#events.size === 0 && !this.#isFull()) {
      this.#writeEvent(payload);
      return;
    }
    if (this.#events.has(payload)) return;
    this.#events.add(payload);
    this.#eventsLength += payload.length;
    if (this.#eventsLength > EVENTS_MAX) this.drop();
  }

  drop(): void {
    this.#events.clear();
    this.#socket.destroy();
  }

  /** Takes requests until there is none, or until the client has to read first. */
  #work(): void {
    this.#socket.cork();
    try {
      while (!this.#isFull()) {
        const message = this.#decoder.next();
        if (!message) break;
        this.#serve(message);
      }
    } catch {
      // An oversized message: nothing that follows can be understood. Answers given so far still go out.
      this.#socket.removeAllListeners("data");
      this.#socket.destroySoon();
    }
    if (this.#isFull()) this.#socket.pause();
    this.#socket.uncork();
  }

  #isFull(): boolean {
    return this.#socket.writableLength >= BACKLOG;
  }

  #serve(message: Message): void {
    try {
      this.#dispatch(this, message);
    } catch (error) {
      if (!(error instanceof Refusal)) reportOnce(error);
      this.refuse(message, error instanceof Refusal ? error.code : "EIO");
    }
  }

  #drained(): void {
    this.#socket.cork();
    for (const payload of this.#events) {
      if (this.#isFull()) break;
      this.#events.delete(payload);
      this.#eventsLength -= payload.length;
      this.#writeEvent(payload);
    }
    this.#socket.uncork();
    if (this.#events.size > 0 || !this.#socket.isPaused()) return;
    this.#socket.resume();
    this.#work();
  }

  #writeEvent(payload: string): void {
    this.#socket.write(encodeMessage(MessageType.watchEvent, 0, 0, Buffer.from(payload, "latin1")));
  }

  #send(type: number, { requestId, transactionId }: Message, payload: Uint8Array): void {
    if (!this.#socket.destroyed) this.#socket.write(encodeMessage(type, requestId, transactionId, payload));
  }
}

let reported = false;

/** A fault of ours. A client must not be able to fill a log with it. */
function reportOnce(error: unknown): void {
  if (!reported) process.emitWarning(`xenstored: please report this: ${(error as Error)?.stack ?? error}`);
  reported = true;
}

export function watchKey(path: string, token: string): string {
  return `${path}\0${token}`;
}
