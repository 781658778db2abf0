/** Sends what became ready during one turn of the event loop as one writev. */
import type { Socket } from "node:net";

export interface Outgoing {
  readonly bytes: Uint8Array;
  /** Called once, when the kernel has the bytes or the connection is lost: the bytes may be used again. */
  sent(): void;
}

/** At most one batch is with the socket; while the peer does not read, the rest waits here. */
export class Outbox {
  readonly #socket: Socket;
  #waiting: Outgoing[] = [];
  #scheduled = false;
  #writing = false;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  send(message: Outgoing): void {
    this.#waiting.push(message);
    if (this.#scheduled || this.#writing) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#write();
    });
  }

  #write(): void {
    const batch = this.#waiting;
    this.#waiting = [];
    const last = batch.length - 1;
    if (last < 0) return;
    if (!this.#socket.writable) {
      for (const message of batch) message.sent();
      return;
    }
    this.#writing = true;
    this.#socket.cork();
    for (let i = 0; i < last; i++) this.#socket.write(batch[i].bytes);
    this.#socket.write(batch[last].bytes, () => {
      this.#writing = false;
      for (const message of batch) message.sent();
      this.#write();
    });
    this.#socket.uncork();
  }
}
