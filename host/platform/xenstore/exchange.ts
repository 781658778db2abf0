/** Requests and their answers, many under way at once where the stream can bear it; events apart from them. */
import { XenstoreError } from "../ports.js";
import type { ByteStream } from "./stream.js";
import {
  ANSWER_MAX,
  decodeStrings,
  encodeMessage,
  type Message,
  MessageDecoder,
  MessageType,
} from "./wire.js";

interface Pending {
  readonly type: number;
  readonly transactionId: number;
  readonly payload: Buffer;
  readonly what: string;
  resolve(payload: Buffer): void;
  reject(error: Error): void;
}

export class Exchange {
  /** Called for each WATCH_EVENT. Must not throw. */
  onEvent: (path: string, token: string) => void = () => {};
  /** Called once when the stream has ended and {@link close} was not the reason. */
  onLost: (error: Error) => void = () => {};
  #stream: ByteStream;
  #decoder = new MessageDecoder(ANSWER_MAX);
  #pending = new Map<number, Pending>();
  /** Not sent yet. */
  #waiting: Pending[] = [];
  #lastId = 0;
  #ended: Error | null = null;

  constructor(stream: ByteStream) {
    this.#stream = stream;
    stream.start(
      (bytes) => this.#receive(bytes),
      (error) => this.#lost(error),
    );
  }

  /**
   * Resolves with the answer's payload. Rejects with a {@link XenstoreError} of xenstored's word, of E2BIG if the
   * request does not fit into a message, or of the reason why the connection has ended. `what` is for messages.
   */
  request(type: number, payload: Buffer, transactionId: number, what: string): Promise<Buffer> {
    if (this.#ended) return Promise.reject(this.#ended);
    if (payload.length > this.#stream.payloadMax) return Promise.reject(new XenstoreError("E2BIG", what));
    return new Promise((resolve, reject) => {
      this.#waiting.push({ type, transactionId, payload, what, resolve, reject });
      this.#send();
    });
  }

  close(): void {
    if (this.#ended) return;
    this.#end(new XenstoreError("EIO", "the connection has been closed"));
    this.#stream.close();
  }

  #send(): void {
    while (this.#waiting.length > 0 && !(this.#stream.holdsOne && this.#pending.size > 0)) {
      const request = this.#waiting.shift() as Pending;
      const id = this.#nextId();
      this.#pending.set(id, request);
      this.#stream.write(encodeMessage(request.type, id, request.transactionId, request.payload));
    }
  }

  #nextId(): number {
    do this.#lastId = (this.#lastId + 1) >>> 0;
    while (this.#pending.has(this.#lastId));
    return this.#lastId;
  }

  #receive(bytes: Buffer): void {
    if (this.#ended) return;
    try {
      this.#decoder.push(bytes);
      for (let message = this.#decoder.next(); message; message = this.#decoder.next()) this.#take(message);
    } catch (error) {
      this.#lost(new XenstoreError("EIO", `xenstore protocol error: ${(error as Error).message}`));
      this.#stream.close();
    }
  }

  #take({ type, requestId, payload }: Message): void {
    if (type === MessageType.watchEvent) {
      const [path, token] = decodeStrings(payload);
      if (path !== undefined && token !== undefined) this.onEvent(path, token);
      return;
    }
    const pending = this.#pending.get(requestId);
    if (!pending || (type !== pending.type && type !== MessageType.error)) {
      throw new Error(`an answer of type ${type} to request ${requestId}, which was not requested`);
    }
    this.#pending.delete(requestId);
    if (type === MessageType.error) {
      pending.reject(new XenstoreError(decodeStrings(payload)[0] ?? "EIO", pending.what));
    } else {
      // A copy: the payload is good until the decoder moves on.
      pending.resolve(Buffer.from(payload));
    }
    this.#send();
  }

  #lost(error: Error): void {
    if (this.#ended) return;
    this.#end(error);
    this.onLost(error);
  }

  #end(error: Error): void {
    this.#ended = error;
    const pending = [...this.#pending.values(), ...this.#waiting.splice(0)];
    this.#pending.clear();
    for (const { reject } of pending) reject(error);
  }
}
