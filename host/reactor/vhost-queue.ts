/**
 * I/Os of a ring over a virtqueue of a vhost-user server. The ring's data window lies in the memory that is shared with it, so
 * data are copied between the guest's pages and the window alone, as for every disk without persistent grants.
 *
 * The server has the eventfds, too, and may do with them what it likes: so all that happens to them goes through io_uring,
 * where whatever never ends makes nobody wait.
 */
import { constants } from "node:os";
import { DATA, SRING } from "../../assembly/abi.js";
import type { BlkifCore } from "../core/blkif.js";
import { addressOf, mapFixed, signalEventFd } from "../platform/libc.js";
import { removePages } from "../platform/sharing.js";
import { Op, POLLIN } from "../storage/uring/abi.js";
import type { UringEngine } from "../storage/uring/engine.js";
import { CONTROL_BYTES, type Mapping, mapArea, sliceAt } from "../storage/vhost-user/area.js";
import { WindowPath } from "../storage/vhost-user/data-path.js";
import { QueueDisk } from "../storage/vhost-user/queue-disk.js";
import type { VhostStore } from "../storage/vhost-user/store.js";
import { DeviceQueue } from "./device-queue.js";
import type { IoOwner, IoQueue } from "./io-queue.js";

const EVENT_BYTES = 8;
/** What is written to eventfds, and behind it what they had counted, of which nobody wants to know. */
const words = new BigUint64Array(new ArrayBuffer(2 * EVENT_BYTES));
words[0] = 1n;

export class VhostQueue implements IoQueue {
  readonly discardData = removePages;
  readonly #engine: UringEngine;
  readonly #store: VhostStore;
  readonly #control: Mapping;
  /** Of {@link words}, which are there as long as something names them, and this does. */
  readonly #words = addressOf(new Uint8Array(words.buffer));
  readonly #disk: QueueDisk;
  readonly #ios: DeviceQueue;
  /** Calls of io_uring that are under way. */
  #hearing = -1;
  #losing = -1;
  #kicking = -1;
  /** The server is to be woken again, when it has been woken. */
  #kickAgain = false;
  #closed = false;

  /** Puts the shared memory into the core's data window, until whoever owns the core's memory replaces it. */
  constructor(engine: UringEngine, store: VhostStore, core: BlkifCore, owner: IoOwner) {
    const { memoryFd, index, lostFd } = store;
    this.#engine = engine;
    this.#store = store;
    const { memory } = core;
    mapFixed(memory.base + DATA, SRING - DATA, memoryFd, sliceAt(index) + CONTROL_BYTES, true);
    this.#control = mapArea(memoryFd, sliceAt(index), CONTROL_BYTES);
    this.#disk = new QueueDisk({
      store,
      control: this.#control.bytes,
      path: new WindowPath(index, store.limits),
      kick: () => this.#kick(),
      soon: (end) => engine.soon(end),
      onViolation: () => signalEventFd(lostFd),
    });
    this.#ios = new DeviceQueue(this.#disk, core, owner);
    this.#hear();
    this.#losing = engine.call(Op.pollAdd, lostFd, 0, 0, 0, POLLIN, () => {
      this.#losing = -1;
      if (!this.#closed) this.#disk.lose("the server is lost");
    });
  }

  /** See {@link QueueDisk.flushErrno}. */
  get flushErrno(): number {
    return this.#disk.flushErrno;
  }

  noteSize(bytes: number): void {
    this.#disk.size = bytes;
  }

  start(slot: number): void {
    this.#ios.start(slot);
  }

  close(): void {
    this.#closed = true;
    const engine = this.#engine;
    for (const call of [this.#hearing, this.#losing, this.#kicking]) if (call >= 0) engine.cancel(call);
    // The descriptors are closed by another thread, and must not be others by the time the kernel hears of them.
    while (engine.ring.prepared > 0) engine.ring.enter(0, 0);
    this.#control.close();
  }

  /** Waits for the server's call. */
  #hear(): void {
    const { callFd } = this.#store;
    this.#hearing = this.#engine.call(
      Op.read,
      callFd,
      0,
      this.#words + EVENT_BYTES,
      EVENT_BYTES,
      0,
      (result) => {
        this.#hearing = -1;
        if (this.#closed) return;
        if (result < 0 && result !== -constants.errno.EINTR) {
          // Only a server that has made it non-blocking, which would have us look again and again.
          this.#disk.lose("the server has changed the event descriptor of a virtqueue");
          signalEventFd(this.#store.lostFd);
          return;
        }
        this.#disk.answered();
        this.#hear();
      },
    );
  }

  #kick(): void {
    if (this.#kicking >= 0) {
      this.#kickAgain = true;
      return;
    }
    const { kickFd } = this.#store;
    this.#kicking = this.#engine.call(Op.write, kickFd, 0, this.#words, EVENT_BYTES, 0, () => {
      this.#kicking = -1;
      if (!this.#kickAgain || this.#closed) return;
      this.#kickAgain = false;
      this.#kick();
    });
  }
}
