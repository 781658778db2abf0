/** The stores that a reactor thread does I/O on. */
import { constants, openSync } from "node:fs";
import type { IoEngine } from "../storage/engine.js";
import { RawDevice, type Store } from "../storage/raw.js";
import { UringEngine } from "../storage/uring/engine.js";

interface Disk {
  readonly device: RawDevice;
  users: number;
}

export class Disks {
  readonly #engine: IoEngine;
  /** By the descriptor, which is another one's only after all users have let go. */
  readonly #disks = new Map<number, Disk>();

  constructor(engine: IoEngine) {
    this.#engine = engine;
  }

  /** The device of a store that another thread has opened; `release` it for each `take`. Throws what open(2) throws. */
  take(store: Store): RawDevice {
    let disk = this.#disks.get(store.fd);
    if (disk === undefined) {
      // An open file of its own for fdatasync: of two that wait on one, only one is told that written data was lost.
      // What is written goes by the opener's, whose lock lasts until the last write has ended.
      const ownFd = openSync(`/proc/self/fd/${store.fd}`, constants.O_RDONLY);
      disk = { device: new RawDevice(store, this.#engine, ownFd), users: 0 };
      this.#disks.set(store.fd, disk);
      if (this.#engine instanceof UringEngine) this.#engine.register(store.fd);
    }
    disk.users++;
    return disk.device;
  }

  /** Resolves when the device is let go, if this was its last user. */
  async release(device: RawDevice): Promise<void> {
    const { fd } = device.store;
    const disk = this.#disks.get(fd) as Disk;
    if (--disk.users > 0) return;
    this.#disks.delete(fd);
    if (this.#engine instanceof UringEngine) this.#engine.unregister(fd);
    await device.close();
  }
}
