/**
 * A disk that a vhost-user-blk server has, as the thread sees it that has the socket. Rings in reactor threads take queues
 * of their own; what is asked of the disk here goes through one more, with copies.
 *
 * What is acknowledged and not flushed is kept ({@link KeptWrites}), so that a server may die. As on raw disks, a flush that
 * fails has failed for good: all writes, discards and flushes fail from then on.
 */
import { constants } from "node:os";
import {
  type BlockDevice,
  type Done,
  flush,
  type IoVector,
  type Outage,
  type QueueLease,
  Result,
} from "../device.js";
import type { KeptWrites } from "../kept-writes.js";
import type { Patience } from "../patience.js";
import { later } from "../refusal.js";
import { type Offer, objectionTo, readConfig, sizeIn } from "./handshake.js";
import { type Connection, Link } from "./link.js";
import { type OwnQueue, ownQueue } from "./own-queue.js";
import type { QueueDisk } from "./queue-disk.js";
import type { Session } from "./session.js";

const { EIO } = constants.errno;

export interface VhostDeviceOptions {
  readonly name: string;
  readonly readOnly: boolean;
  /** Connects to the server, within a bounded time, or rejects. Called again when it is lost, until the disk is closed. */
  readonly dial: () => Promise<Session>;
  readonly patience: Patience;
  /** A line for the operator. */
  readonly log: (line: string) => void;
  /** What is written again when the server is lost: the device's to close. Null where there is no need. */
  readonly kept: KeptWrites | null;
  /** See {@link BlockDevice.fenced}: servers differ in what they still do for a connection that has ended. */
  readonly fenced: boolean;
  /** See {@link BlockDevice.bases}. */
  readonly bases?: readonly string[];
  /** See {@link VhostStore.connectionFd}. Default: -1. */
  readonly connectionFd?: number;
  /** See {@link VhostStore.failureMeans}. Default: null. */
  readonly failureMeans?: string | null;
  /** A server that comes back with a larger disk has grown it. Default: it has another one. */
  readonly mayReturnLarger?: boolean;
  /** For people: what is connected to. */
  readonly server?: () => string;
  /** Ends what is behind the server, after the last connection to it. */
  readonly release?: () => Promise<void>;
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
  readonly #offer: Offer;
  readonly #link: Link;
  readonly #kept: KeptWrites | null;
  readonly #flushErrno = new SharedArrayBuffer(4);
  #own: Promise<OwnQueue> | null = null;
  #size: number;
  /** The server says that the disk has another size. */
  #changed = false;
  #closed: Promise<void> | null = null;

  /** Takes the first connection over. */
  constructor(first: Connection, options: VhostDeviceOptions) {
    const { name, readOnly, dial, patience, log } = options;
    const { limits, shape, physicalSectorSize, discardGranularity, size } = first.offer;
    this.#options = options;
    this.#offer = first.offer;
    this.name = name;
    this.readOnly = readOnly;
    this.fenced = options.fenced;
    this.bases = options.bases ?? [];
    this.sectorSize = limits.sectorSize;
    this.physicalSectorSize = physicalSectorSize;
    this.discardGranularity = discardGranularity;
    this.canDiscard = !readOnly && limits.discard !== null;
    this.#size = size;
    this.#kept = options.kept;
    this.flushErrno = options.kept?.lost ?? 0;
    this.#link = new Link({
      ...{ first, dial, patience, log, kept: this.#kept },
      store: {
        name,
        readOnly,
        limits,
        shape,
        connectionFd: options.connectionFd ?? -1,
        failureMeans: options.failureMeans ?? null,
        flushErrno: this.#flushErrno,
      },
      objection: (offer) => this.#objectionTo(offer),
      onChange: () => {
        this.#changed = true;
      },
      onLoss: () => {
        if (!readOnly) this.flushErrno ||= EIO;
      },
    });
  }

  get size(): number {
    return this.#size;
  }

  get through(): string {
    const { lost, outage } = this.#link;
    if (lost !== null) return `${this.#server}, lost: ${lost}`;
    return outage === null ? this.#server : `${this.#server}, ${again(outage)}`;
  }

  get outage(): Outage | null {
    const { outage } = this.#link;
    return outage && { ...outage, reason: `${this.#server} is away, ${again(outage)}` };
  }

  get #server(): string {
    return this.#options.server?.() ?? "a vhost-user server";
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
    const { queues, lost } = this.#link;
    // All rings of a disk, or none: one of them here and another elsewhere would need one queue more.
    const free = queues.count - (this.#own === null ? 0 : 1);
    if (rings > free || lost !== null) return null;
    const index = queues.free("first");
    if (index < 0) return null;
    const store = await this.#setUp(index, false);
    return { store, release: () => queues.stop(index) };
  }

  async refreshSize(): Promise<boolean> {
    const { session } = this.#link;
    if (session === null || this.#closed || (this.#offer.announces && !this.#changed)) return false;
    this.#changed = false;
    const before = this.#size;
    try {
      this.#size = sizeIn(await readConfig(session), this.sectorSize);
      const own = await this.#own?.catch(() => null);
      if (own) own.disk.size = this.#size;
    } catch (error) {
      // As it is then lost, or says a size that cannot be.
      if (session.lost === null) session.violate((error as Error).message);
    }
    return this.#size !== before;
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await this.#flushLast();
    const own = await this.#own?.catch(() => null);
    if (own) {
      await own.disk.close();
      own.close();
      await this.#link.queues.stop(own.index);
    }
    await this.#link.close();
    this.#kept?.close();
    await this.#options.release?.();
  }

  /** The copies go with us, and the guest may go on under another process. */
  async #flushLast(): Promise<void> {
    if (this.#kept === null || this.#kept.count === 0 || this.flushErrno !== 0) return;
    this.#own ??= this.#open();
    let timer: NodeJS.Timeout | null = null;
    const flushed = this.#own.then(
      async ({ disk }) => (await flush(disk)).result === Result.Success,
      () => false,
    );
    const late = new Promise<boolean>((resolve) => {
      timer = setTimeout(resolve, this.#options.patience.reconnectMs, false);
    });
    const ended = await Promise.race([flushed, late]);
    if (timer) clearTimeout(timer);
    if (ended) return;
    this.flushErrno ||= EIO;
    this.#options.log("the last writes cannot be flushed and may be lost");
  }

  #objectionTo(offer: Offer): string | null {
    const { readOnly } = this;
    const grown = this.#options.mayReturnLarger === true && offer.size > this.#size;
    this.#changed ||= grown;
    return objectionTo(offer, { ...this.#offer, readOnly }, grown ? offer.size : this.#size);
  }

  /** Does it on this thread's own queue. */
  #do(operation: (disk: QueueDisk) => void, done: Done): void {
    if (this.#closed !== null) {
      later(done, { result: Result.Failure, error: new Error(`${this.name}: the disk is closed`) });
      return;
    }
    this.#own ??= this.#open();
    this.#own.then(
      ({ disk }) => operation(disk),
      (error: Error) => done(Result.Failure, error),
    );
  }

  async #open(): Promise<OwnQueue> {
    const { queues } = this.#link;
    const index = queues.free("last");
    if (index < 0) throw new Error(`${this.name}: all of the server's ${queues.count} queues are in use`);
    const own = ownQueue(await this.#setUp(index, true));
    own.disk.size = this.#size;
    return own;
  }

  #setUp(index: number, here: boolean): ReturnType<Link["setUp"]> {
    return this.#link.setUp(index, here, this.#size).catch((error: Error) => {
      throw new Error(`${this.name}: ${error.message}`);
    });
  }
}

function again({ reason, since }: Outage): string {
  return `connecting again since ${new Date(since).toTimeString().slice(0, 8)} (${reason})`;
}
