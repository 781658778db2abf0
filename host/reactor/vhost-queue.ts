/**
 * I/Os of a ring over a virtqueue of a vhost-user server. The ring's data window lies in the memory that is shared with it, so
 * data are copied between the guest's pages and the window alone, as for every disk without persistent grants.
 *
 * The server has the eventfds, too, and may do with them what it likes: so all that happens to them goes through io_uring,
 * where whatever never ends makes nobody wait.
 */
import { constants } from "node:os";
import type { BlkifCore } from "../core/blkif.js";
import { DATA_WINDOW } from "../core/windows.js";
import { addressOf, mapFixed, viewBytes } from "../platform/libc.js";
import { removePages } from "../platform/sharing.js";
import { Op } from "../storage/uring/abi.js";
import type { UringEngine } from "../storage/uring/engine.js";
import { CONTROL_BYTES, copyWindow, type Mapping, mapArea, sliceAt } from "../storage/vhost-user/area.js";
import { WindowPath } from "../storage/vhost-user/data-path.js";
import { Follower } from "../storage/vhost-user/follower.js";
import { QueueDisk } from "../storage/vhost-user/queue-disk.js";
import { Fault, type VhostStore } from "../storage/vhost-user/store.js";
import { DeviceQueue } from "./device-queue.js";
import type { IoOwner, IoQueue } from "./io-queue.js";

const EVENT_BYTES = 8;
const WINDOW_BYTES = DATA_WINDOW.end - DATA_WINDOW.start;
/** What is written to eventfds, and behind it what they had counted, of which nobody wants to know. */
const words = new BigUint64Array(new ArrayBuffer(2 * EVENT_BYTES));
words[0] = 1n;
/**
 * Kicks of which one is waited for. The others end nobody's sleep; but a server that has filled the counter makes them all
 * wait in the kernel.
 */
const KICKS_A_REPORT = 16;

export class VhostQueue implements IoQueue {
  readonly discardData = removePages;
  readonly #engine: UringEngine;
  readonly #store: VhostStore;
  /** The core's, as a native address. */
  readonly #window: number;
  #control: Mapping | null = null;
  /** Of {@link words}, which are there as long as something names them, and this does. */
  readonly #words = addressOf(new Uint8Array(words.buffer));
  readonly #disk: QueueDisk;
  readonly #follower: Follower;
  readonly #ios: DeviceQueue;
  /** Calls of io_uring that are under way. */
  #hearing = -1;
  #listening = -1;
  #kicking = -1;
  /** The server is to be woken again, when it has been woken. */
  #kickAgain = false;
  /** Kicks without a report since the last one with it. */
  #quietKicks = 0;
  /** The core's memory is not this one's any more. */
  #closed = false;
  #finished = false;

  /** Puts the shared memory into the core's data window, until whoever owns the core's memory replaces it. */
  constructor(engine: UringEngine, store: VhostStore, core: BlkifCore, owner: IoOwner) {
    const { index, limits } = store;
    this.#engine = engine;
    this.#store = store;
    this.#window = core.memory.base + DATA_WINDOW.start;
    this.#disk = new QueueDisk({
      store,
      path: new WindowPath(index, limits, viewBytes(this.#window, WINDOW_BYTES)),
      kick: () => this.#kick(),
      soon: (end) => engine.soon(end),
      onViolation: () => this.#follower.report(Fault.ring),
    });
    this.#follower = new Follower({
      store,
      disk: this.#disk,
      connect: (memoryFd, before) => this.#connect(memoryFd, before),
    });
    this.#ios = new DeviceQueue(this.#disk, core, owner);
    engine.addAnswerer(this.#disk);
    this.#hear();
    this.#listen();
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

  /** The core's memory may be used for other things from now on. */
  close(): void {
    this.#closed = true;
  }

  /** Resolves when nothing is under way any more: a flush may be, which the guest has not asked for. */
  async finish(): Promise<void> {
    await this.#disk.close();
    this.#finished = true;
    const engine = this.#engine;
    engine.removeAnswerer(this.#disk);
    for (const call of [this.#hearing, this.#listening, this.#kicking]) if (call >= 0) engine.cancel(call);
    engine.cancelQuiet(this.#store.kickFd);
    // The descriptors are closed by another thread, and must not be others by the time the kernel hears of them.
    while (engine.ring.prepared > 0) engine.ring.enter(0, 0);
    this.#control?.close();
  }

  #connect(memoryFd: number, before: number): ArrayBuffer {
    const { index } = this.#store;
    if (memoryFd !== before && !this.#closed) {
      // A server that was given up may still write to the memory of before.
      if (before >= 0) copyWindow(before, memoryFd, index);
      mapFixed(this.#window, WINDOW_BYTES, memoryFd, sliceAt(index) + CONTROL_BYTES, true);
    }
    this.#control?.close();
    this.#control = mapArea(memoryFd, sliceAt(index), CONTROL_BYTES);
    return this.#control.bytes;
  }

  /** Waits for orders. */
  #listen(): void {
    const { toldFd } = this.#store;
    const at = this.#words + EVENT_BYTES;
    this.#listening = this.#engine.call(Op.read, toldFd, 0, at, EVENT_BYTES, 0, () => {
      this.#listening = -1;
      if (this.#finished) return;
      this.#follower.obey();
      this.#listen();
    });
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
        if (this.#finished) return;
        if (result < 0 && result !== -constants.errno.EINTR) {
          // Only a server that has made it non-blocking, which would have us look again and again.
          this.#disk.lose("the server has changed the event descriptor of a virtqueue");
          this.#follower.report(Fault.event);
          return;
        }
        // Answers are taken when all completions are.
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
    if (this.#quietKicks++ < KICKS_A_REPORT) {
      this.#engine.writeQuietly(kickFd, this.#words, EVENT_BYTES);
      return;
    }
    this.#quietKicks = 0;
    this.#kicking = this.#engine.call(Op.write, kickFd, 0, this.#words, EVENT_BYTES, 0, () => {
      this.#kicking = -1;
      if (!this.#kickAgain || this.#finished) return;
      this.#kickAgain = false;
      this.#kick();
    });
  }
}
