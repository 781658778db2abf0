/** The transmission phase: takes requests in, has the disk carry them out in any order, sends the replies. */

import { Command, wireError } from "../../nbd/protocol.js";
import type { GuestDisk } from "../disk.js";
import { type BufferPool, HEADROOM, type MessageBuffer } from "./buffers.js";
import type { Intake } from "./intake.js";
import { lead, operate, payloadBytes } from "./operate.js";
import type { Outbox } from "./outbox.js";
import { dataReply, errorReply, plainReply } from "./reply.js";
import { parseRequest, REQUEST_BYTES, type Refusal, type Request, refuse } from "./request.js";

/** What one connection may have under way; a request is under way until the kernel has its reply. */
export interface Limits {
  readonly requests: number;
  /** Bytes of data. A single request may exceed it when it is alone. */
  readonly bytes: number;
}

/** A request that was looked at. */
interface Examined {
  readonly request: Request;
  readonly refusal: Refusal | null;
  /** Bytes of data that it needs a buffer for. */
  readonly payload: number;
}

/** A request that was let in. */
interface Admitted extends Examined {
  readonly buffer: MessageBuffer;
}

export interface TransmissionParts {
  readonly disk: GuestDisk;
  readonly intake: Intake;
  readonly outbox: Outbox;
  readonly pool: BufferPool;
  readonly limits: Limits;
  readonly structured: boolean;
  /** The client said goodbye, or what it sends is no request. */
  readonly parted: (politely: boolean) => void;
  /** The last request that was under way is over. */
  readonly idle: () => void;
}

export class Transmission {
  readonly #parts: TransmissionParts;
  readonly #header = new Uint8Array(REQUEST_BYTES);
  readonly #view = new DataView(this.#header.buffer);
  /** Does not fit yet; reading is held until it does. */
  #waiting: Examined | null = null;
  /** Let in, but its data have not all come. */
  #receiving: Admitted | null = null;
  #requests = 0;
  #bytes = 0;
  #stopped = false;
  #abandoned = false;
  readonly #isAbandoned = () => this.#abandoned;

  constructor(parts: TransmissionParts) {
    this.#parts = parts;
  }

  /** Requests that are under way. */
  get requests(): number {
    return this.#requests;
  }

  start(): void {
    this.#parts.intake.take(this.#header, () => this.#headerCame());
  }

  /** Takes nothing in any more; what is under way goes on. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#waiting = null;
    this.#parts.intake.stop();
    const receiving = this.#receiving;
    this.#receiving = null;
    if (receiving) this.#finish(receiving);
  }

  /** As `stop`; and long operations end at their next piece, with ESHUTDOWN. */
  abandon(): void {
    this.#abandoned = true;
    this.stop();
  }

  #headerCame(): void {
    const { disk, intake, structured, parted } = this.#parts;
    const request = parseRequest(this.#view);
    if (!request || request.command === Command.disconnect) {
      parted(request !== null);
      return;
    }
    const refusal = refuse(disk, request, structured);
    const examined = { request, refusal, payload: refusal ? 0 : payloadBytes(disk, request) };
    if (this.#hasRoom(examined)) {
      this.#admit(examined);
    } else {
      this.#waiting = examined;
      intake.hold();
    }
  }

  #hasRoom({ payload }: Examined): boolean {
    const { requests, bytes } = this.#parts.limits;
    if (this.#requests >= requests) return false;
    return this.#bytes === 0 || this.#bytes + payload <= bytes;
  }

  #admit({ request, refusal, payload }: Examined): void {
    const { intake, pool } = this.#parts;
    const buffer = pool.acquire(payload);
    const admitted: Admitted = { request, refusal, payload, buffer };
    this.#requests++;
    this.#bytes += payload;
    if (request.command !== Command.write) {
      void this.#run(admitted);
      this.start();
      return;
    }
    this.#receiving = admitted;
    const received = () => {
      this.#receiving = null;
      void this.#run(admitted);
      this.start();
    };
    if (refusal) intake.skip(request.length, received);
    else intake.take(buffer.bytes.subarray(HEADROOM), received);
  }

  async #run(admitted: Admitted): Promise<void> {
    const { disk, outbox } = this.#parts;
    const { request, buffer } = admitted;
    let refusal = admitted.refusal;
    if (!refusal) {
      try {
        await operate(disk, request, buffer, this.#isAbandoned);
      } catch (error) {
        refusal = { error: wireError(error), message: error instanceof Error ? error.message : "I/O error" };
      }
    }
    outbox.send({ bytes: this.#reply(admitted, refusal), sent: () => this.#finish(admitted) });
  }

  #reply({ request, buffer }: Admitted, refusal: Refusal | null): Uint8Array {
    const { disk, structured } = this.#parts;
    if (refusal) return errorReply(buffer, refusal, request, structured);
    if (request.command !== Command.read) return plainReply(buffer, request);
    return dataReply(buffer, HEADROOM + lead(disk, request), request, structured);
  }

  #finish({ payload, buffer }: Admitted): void {
    this.#requests--;
    this.#bytes -= payload;
    this.#parts.pool.release(buffer);
    const waiting = this.#waiting;
    if (waiting && this.#hasRoom(waiting)) {
      this.#waiting = null;
      this.#admit(waiting);
      this.#parts.intake.release();
    }
    if (this.#requests === 0) this.#parts.idle();
  }
}
