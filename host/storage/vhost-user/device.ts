/**
 * A disk that a vhost-user-blk server has, as the thread sees it that has the socket. Rings in reactor threads take queues
 * of their own; what is asked of the disk here goes through one more, with copies.
 */
import { closeSync } from "node:fs";
import { constants } from "node:os";
import { eventFd, type Poll, pollReadable, signalEventFd } from "../../platform/libc.js";
import { drainEventFd, ring, socketPair, waitingEventFd } from "../../platform/sharing.js";
import { type BlockDevice, type Done, type IoVector, type QueueLease, Result } from "../device.js";
import { later } from "../refusal.js";
import { Message } from "./abi.js";
import { CONTROL_BYTES, Control, mapArea, SHARED_BASE, sliceAt } from "./area.js";
import { CopyPath, PLACES_BYTES } from "./data-path.js";
import { type Offer, readConfig, sizeIn } from "./handshake.js";
import { QueueDisk } from "./queue-disk.js";
import type { Session } from "./session.js";
import { Progress, type VhostStore } from "./store.js";
import { clearRing, ringSize } from "./virtqueue.js";

const { EIO } = constants.errno;
/** A timer of Node's has no more; it stands for "never". */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

export interface VhostDeviceOptions {
  readonly name: string;
  readonly readOnly: boolean;
  readonly session: Session;
  readonly offer: Offer;
  /** The shared memory, for `offer.queues`; the device's to close. */
  readonly memoryFd: number;
  /** Milliseconds after which a server that owes an answer and gives none is lost. */
  readonly silenceMs: number;
  /** A line for the operator. */
  readonly log: (line: string) => void;
  /** See {@link BlockDevice.fenced}: servers differ in what they still do for a connection that has ended. */
  readonly fenced: boolean;
  /** See {@link BlockDevice.bases}. */
  readonly bases?: readonly string[];
  /** For people: what is connected to. */
  readonly server?: () => string;
  /** Ends what is behind the server, after the last connection to it. */
  readonly release?: () => Promise<void>;
}

/** A queue that is set up. */
interface Queue {
  readonly store: VhostStore;
  readonly progress: Progress;
  /** Our ends. */
  readonly descriptors: readonly number[];
  /** Answers when they were looked at last, and since when there are no more of them. */
  answers: number;
  since: number;
}

/** This thread's own way to the disk. */
interface Own {
  readonly disk: QueueDisk;
  close(): void;
}

export class VhostDevice implements BlockDevice {
  readonly name: string;
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly canDiscard: boolean;
  readonly canSecureDiscard = false;
  readonly discardGranularity: number;
  readonly discardAlignment = 0;
  readonly fenced: boolean;
  readonly bases: readonly string[];
  readonly mapsNoGrants = true;

  readonly #options: VhostDeviceOptions;
  readonly #session: Session;
  readonly #offer: Offer;
  readonly #queues: (Queue | null)[];
  readonly #flushErrno = new SharedArrayBuffer(4);
  readonly #lostFd = eventFd();
  /** Null when it is lost or closed. */
  #lostPoll: Poll | null;
  readonly #timer: NodeJS.Timeout;
  #own: Promise<Own> | null = null;
  #size: number;
  /** The server says that the disk has another size. */
  #changed = false;
  #lost: string | null = null;
  #closed: Promise<void> | null = null;

  constructor(options: VhostDeviceOptions) {
    const { name, readOnly, session, offer, silenceMs } = options;
    const { limits, physicalSectorSize, discardGranularity, size, queues } = offer;
    this.#options = options;
    this.#session = session;
    this.#offer = offer;
    this.name = name;
    this.readOnly = readOnly;
    this.fenced = options.fenced;
    this.bases = options.bases ?? [];
    this.sectorSize = limits.sectorSize;
    this.physicalSectorSize = physicalSectorSize;
    this.discardGranularity = discardGranularity;
    this.canDiscard = !readOnly && limits.discard !== null;
    this.#size = size;
    this.#queues = new Array<Queue | null>(queues).fill(null);
    session.milliseconds = Math.min(silenceMs, LONGEST_TIMER_MS);
    session.onLost = (why) => this.#lose(why);
    session.onChange = () => {
      this.#changed = true;
    };
    this.#lostPoll = pollReadable(this.#lostFd, () => this.#lose("a virtqueue cannot be believed any more"));
    this.#timer = setInterval(() => this.#look(), Math.min(1000, Math.max(silenceMs / 4, 10))).unref();
  }

  get size(): number {
    return this.#size;
  }

  get through(): string {
    const server = this.#options.server?.() ?? "a vhost-user server";
    return this.#lost === null ? server : `${server}, lost: ${this.#lost}`;
  }

  get flushErrno(): number {
    return new Int32Array(this.#flushErrno)[0];
  }

  set flushErrno(errno: number) {
    Atomics.store(new Int32Array(this.#flushErrno), 0, errno);
  }

  read(position: number, to: IoVector, done: Done): void {
    this.#do((disk) => disk.read(position, to, done), done);
  }

  write(position: number, from: IoVector, done: Done): void {
    this.#do((disk) => disk.write(position, from, done), done);
  }

  flush(done: Done): void {
    this.#do((disk) => disk.flush(done), done);
  }

  discard(position: number, length: number, secure: boolean, done: Done): void {
    this.#do((disk) => disk.discard(position, length, secure, done), done);
  }

  async takeQueue(rings: number): Promise<QueueLease | null> {
    // All rings of a disk, or none: one of them here and another elsewhere would need one queue more.
    const free = this.#queues.length - (this.#own === null ? 0 : 1);
    if (rings > free || this.#lost !== null) return null;
    const index = this.#queues.indexOf(null);
    if (index < 0) return null;
    const store = await this.#setUp(index, false);
    return { store, release: () => this.#stop(index) };
  }

  async refreshSize(): Promise<boolean> {
    if (this.#lost !== null || this.#closed || (this.#offer.announces && !this.#changed)) return false;
    this.#changed = false;
    const before = this.#size;
    try {
      this.#size = sizeIn(await readConfig(this.#session), this.sectorSize);
      const own = await this.#own?.catch(() => null);
      if (own) own.disk.size = this.#size;
    } catch (error) {
      // As it is then lost, or says a size that cannot be.
      this.#session.lose((error as Error).message);
    }
    return this.#size !== before;
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const own = await this.#own?.catch(() => null);
    await own?.disk.close();
    clearInterval(this.#timer);
    this.#stopListening();
    own?.close();
    await this.#session.close();
    for (const queue of this.#queues) for (const fd of queue?.descriptors ?? []) closeSync(fd);
    closeSync(this.#lostFd);
    closeSync(this.#options.memoryFd);
    await this.#options.release?.();
  }

  /** Does it on this thread's own queue. */
  #do(operation: (disk: QueueDisk) => void, done: Done): void {
    if (this.#closed) {
      later(done, { result: Result.Failure, error: new Error(`${this.name}: the disk is closed`) });
      return;
    }
    this.#own ??= this.#open();
    this.#own.then(
      ({ disk }) => operation(disk),
      (error: Error) => done(Result.Failure, error),
    );
  }

  async #open(): Promise<Own> {
    const index = this.#queues.lastIndexOf(null);
    if (index < 0)
      throw new Error(`${this.name}: all of the server's ${this.#queues.length} queues are in use`);
    const store = await this.#setUp(index, true);
    const { memoryFd, kickFd, callFd } = store;
    const control = mapArea(memoryFd, sliceAt(index), CONTROL_BYTES);
    const places = mapArea(memoryFd, sliceAt(index) + CONTROL_BYTES, PLACES_BYTES);
    const disk = new QueueDisk({
      store,
      control: control.bytes,
      path: new CopyPath(places.bytes, index, store.limits),
      kick: () => ring(kickFd),
      soon: queueMicrotask,
      onViolation: (why) => this.#lose(why),
    });
    disk.size = this.#size;
    if (this.#lost !== null) disk.lose(this.#lost);
    const poll = pollReadable(callFd, () => {
      drainEventFd(callFd);
      disk.answered();
    });
    return {
      disk,
      close() {
        poll.close();
        control.close();
        places.close();
      },
    };
  }

  /** Makes a queue known to the server. `here`: it is kicked by this thread, which must never wait. */
  async #setUp(index: number, here: boolean): Promise<VhostStore> {
    const callFd = waitingEventFd();
    const [kickFd, theirKick] = here ? socketPair() : twice(waitingEventFd());
    const { name, readOnly, memoryFd } = this.#options;
    const { limits, shape } = this.#offer;
    const progress = new SharedArrayBuffer(Progress.BYTES);
    const store: VhostStore = {
      kind: "vhost-user",
      name,
      readOnly,
      bytes: this.#size,
      limits,
      shape,
      index,
      memoryFd,
      kickFd,
      callFd,
      lostFd: this.#lostFd,
      flushErrno: this.#flushErrno,
      progress,
    };
    this.#queues[index] = {
      store,
      progress: new Progress(progress),
      descriptors: [callFd, kickFd],
      answers: 0,
      since: performance.now(),
    };
    try {
      const control = mapArea(memoryFd, sliceAt(index), CONTROL_BYTES);
      clearRing(control.bytes);
      control.close();
      await this.#announce(index, callFd, theirKick);
      return store;
    } catch (error) {
      this.#queues[index] = null;
      for (const fd of [callFd, kickFd]) closeSync(fd);
      throw new Error(`${name}: ${(error as Error).message}`);
    } finally {
      if (theirKick !== kickFd) closeSync(theirKick);
    }
  }

  async #announce(index: number, callFd: number, kickFd: number): Promise<void> {
    const session = this.#session;
    const control = SHARED_BASE + sliceAt(index);
    await session.tell(Message.setVringNum, pair(index, ringSize(this.#offer.shape)));
    await session.tell(Message.setVringBase, pair(index, 0));
    // Index, flags; descriptors, used ring, available ring, log.
    const address = Buffer.alloc(40);
    address.writeUInt32LE(index, 0);
    address.writeBigUInt64LE(BigInt(control + Control.descriptors), 8);
    address.writeBigUInt64LE(BigInt(control + Control.used), 16);
    address.writeBigUInt64LE(BigInt(control + Control.available), 24);
    await session.tell(Message.setVringAddr, address);
    await session.tell(Message.setVringCall, number(index), [callFd]);
    await session.tell(Message.setVringKick, number(index), [kickFd]);
    await session.tell(Message.setVringEnable, pair(index, 1));
  }

  /** The ring that had the queue is done with it. */
  async #stop(index: number): Promise<void> {
    const queue = this.#queues[index];
    try {
      await this.#session.ask(Message.getVringBase, pair(index, 0));
    } catch {
      // It is lost: nobody has a queue any more.
    }
    for (const fd of queue?.descriptors ?? []) closeSync(fd);
    this.#queues[index] = null;
  }

  /** Looks for queues whose server has fallen silent. */
  #look(): void {
    const { silenceMs } = this.#options;
    const now = performance.now();
    for (const queue of this.#queues) {
      if (queue === null) continue;
      const { out, answers } = queue.progress;
      if (out === 0 || answers !== queue.answers) {
        queue.answers = answers;
        queue.since = now;
      } else if (now - queue.since >= silenceMs) {
        this.#lose(`no answer to the requests on a virtqueue for ${silenceMs / 1000} s`);
        return;
      }
    }
  }

  #lose(why: string): void {
    if (this.#lost !== null) return;
    this.#lost = why;
    this.#session.lose(why);
    this.#stopListening();
    if (!this.readOnly) this.flushErrno ||= EIO;
    signalEventFd(this.#lostFd);
    void this.#own?.then(({ disk }) => disk.lose(why)).catch(() => {});
    this.#options.log(`${why}; all I/O fails until the disk is attached again`);
  }

  #stopListening(): void {
    this.#lostPoll?.close();
    this.#lostPoll = null;
  }
}

function twice(fd: number): [number, number] {
  return [fd, fd];
}

function pair(index: number, value: number): Buffer {
  const payload = Buffer.alloc(8);
  payload.writeUInt32LE(index, 0);
  payload.writeUInt32LE(value, 4);
  return payload;
}

function number(index: number): Buffer {
  const payload = Buffer.alloc(8);
  payload.writeUInt32LE(index, 0);
  return payload;
}
