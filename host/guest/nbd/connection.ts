/** One client: negotiation, then transmission, then an orderly or a sudden end. */
import type { Socket } from "node:net";
import type { BufferPool } from "./buffers.js";
import type { Export } from "./export.js";
import { type Agreement, Negotiation } from "./handshake.js";
import { Intake } from "./intake.js";
import { Outbox } from "./outbox.js";
import { type Limits, Transmission } from "./transmission.js";

export class Connection {
  /** Resolves when the socket is closed and the disk has nothing of this client under way. */
  readonly settled: Promise<void>;
  readonly #socket: Socket;
  readonly #intake: Intake;
  readonly #outbox: Outbox;
  #transmission: Transmission | null = null;
  #draining = false;
  #ended = false;
  #closed = false;
  #settle: () => void = () => {};

  constructor(socket: Socket, exported: Export, pool: BufferPool, limits: Limits) {
    this.#socket = socket;
    this.#intake = new Intake(socket, () => this.#left());
    this.#outbox = new Outbox(socket);
    this.settled = new Promise((resolve) => {
      this.#settle = resolve;
    });
    // A client that goes away is no error; "close" follows.
    socket.on("error", () => {});
    socket.on("close", () => {
      this.#closed = true;
      this.#left();
      this.#endWhenIdle();
    });
    const agreed = (agreement: Agreement | null) => {
      if (this.#draining || this.#closed) return;
      if (agreement) this.#transmit(agreement, exported, pool, limits);
      else this.drain();
    };
    new Negotiation(exported, this.#intake, this.#outbox, agreed).start();
  }

  /** Reads nothing any more, answers what is under way, then closes. */
  drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    if (this.#transmission) this.#transmission.stop();
    else this.#intake.stop();
    this.#endWhenIdle();
  }

  /** Closes at once; operations that the disk has begun still run to their end. */
  destroy(): void {
    this.#transmission?.abandon();
    this.#socket.destroy();
  }

  /** The client left without NBD_CMD_DISC. */
  #left(): void {
    if (this.#draining) return;
    this.#transmission?.abandon();
    this.drain();
  }

  #transmit({ structured }: Agreement, { disk }: Export, pool: BufferPool, limits: Limits): void {
    this.#transmission = new Transmission({
      disk,
      intake: this.#intake,
      outbox: this.#outbox,
      pool,
      limits,
      structured,
      parted: (politely) => (politely ? this.drain() : this.destroy()),
      idle: () => this.#endWhenIdle(),
    });
    this.#transmission.start();
  }

  #endWhenIdle(): void {
    if (this.#transmission && this.#transmission.requests > 0) return;
    if (this.#closed) {
      this.#settle();
    } else if (this.#draining && !this.#ended) {
      this.#ended = true;
      this.#socket.end(() => this.#socket.destroy());
    }
  }
}
