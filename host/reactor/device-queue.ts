/** I/Os of a ring on any {@link BlockDevice}. */
import * as abi from "../../assembly/abi.js";
import type { BlkifCore, CoreIo } from "../core/blkif.js";
import { type BlockDevice, type Done, type IoVector, Result } from "../storage/device.js";
import type { IoOwner, IoQueue } from "./io-queue.js";

/** What of a device it takes. */
type Operations = Pick<BlockDevice, "read" | "write" | "flush" | "discard">;

export class DeviceQueue implements IoQueue {
  readonly #device: Operations;
  readonly #core: BlkifCore;
  readonly #owner: IoOwner;

  /** The device stays the caller's. */
  constructor(device: Operations, core: BlkifCore, owner: IoOwner) {
    this.#device = device;
    this.#core = core;
    this.#owner = owner;
  }

  start(slot: number): void {
    const device = this.#device;
    const io = this.#core.ioAt(slot);
    const done: Done = (result, error) => this.#owner.ended(slot, result, error);
    if (io.operation === abi.IO_FLUSH) device.flush(done);
    else if (io.operation === abi.IO_DISCARD) {
      device.discard(io.position, io.length, (io.flags & abi.IO_SECURE) !== 0, done);
    } else {
      const memory = this.#core.memory;
      const vector: IoVector = { memory, table: io.table, count: io.iovecs, bytes: io.length };
      if (io.operation === abi.IO_READ) device.read(io.position, vector, done);
      else this.#write(io, vector, done);
    }
  }

  close(): void {}

  /** A write, with the flushes around it that a flush or barrier with data asks for. */
  #write(io: CoreIo, vector: IoVector, done: Done): void {
    const device = this.#device;
    const write = (): void => {
      if (!(io.flags & abi.IO_FUA)) device.write(io.position, vector, done);
      else {
        device.write(io.position, vector, (result, error) =>
          result === Result.Success ? device.flush(done) : done(result, error),
        );
      }
    };
    if (!(io.flags & abi.IO_PREFLUSH)) {
      write();
      return;
    }
    device.flush((result, error) => (result === Result.Success ? write() : done(result, error)));
  }
}
