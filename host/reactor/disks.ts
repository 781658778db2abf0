/** The stores that a reactor thread does I/O on. */
import { constants } from "node:fs";
import { SystemError } from "../platform/libc.js";
import type { IoEngine } from "../storage/engine.js";
import { RawDevice, type Store } from "../storage/raw.js";
import type { Most } from "../storage/transfer.js";
import { UringEngine } from "../storage/uring/engine.js";
import type { Activity } from "./activity.js";
import { partAmong } from "./gate.js";

interface Disk {
  readonly device: Promise<RawDevice>;
  users: number;
}

export class Disks {
  readonly #engine: IoEngine;
  readonly #most: () => Most;
  /** By the descriptor, which is another one's only after all users have let go. */
  readonly #disks = new Map<number, Disk>();

  constructor(engine: IoEngine, activity: Activity) {
    this.#engine = engine;
    this.#most = () => partAmong(activity);
  }

  /**
   * The device of a store that another thread has opened; `release` it for each `take`. Rejects with what open(2) says.
   * A file server that hangs keeps its own disks waiting, not the thread.
   */
  async take(store: Store): Promise<RawDevice> {
    let disk = this.#disks.get(store.fd);
    if (disk === undefined) this.#disks.set(store.fd, (disk = { device: this.#open(store), users: 0 }));
    disk.users++;
    try {
      return await disk.device;
    } catch (error) {
      if (--disk.users === 0) this.#disks.delete(store.fd);
      throw error;
    }
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

  async #open(store: Store): Promise<RawDevice> {
    // An open file of its own for fdatasync: of two that wait on one, only one is told that written data was lost.
    // What is written goes by the opener's, whose lock lasts until the last write has ended.
    const path = `/proc/self/fd/${store.fd}`;
    const ownFd = await new Promise<number>((resolve, reject) => {
      this.#engine.openFile(path, constants.O_RDONLY, (errno, fd) =>
        errno === 0 ? resolve(fd) : reject(new SystemError("open", errno, store.name)),
      );
    });
    if (this.#engine instanceof UringEngine) this.#engine.register(store.fd);
    return new RawDevice(store, this.#engine, ownFd, this.#most);
  }
}
