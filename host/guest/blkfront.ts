/** blkfront: a disk of the guest that a block backend serves (xen/include/public/io/blkif.h). */
import { PAGE_SIZE } from "../core/memory.js";
import { stateName, XenbusState } from "../platform/xenbus-state.js";
import {
  type BlkfrontOptions,
  type CloseReport,
  Connection,
  type GuestPlatform,
  type Negotiated,
} from "./connection.js";
import type { GuestDisk } from "./disk.js";
import {
  DISCARD_SECURE,
  MAX_INDIRECT_PAGES,
  MAX_SEGMENTS,
  Op,
  Rsp,
  SECTOR,
  SEGMENTS_PER_INDIRECT_PAGE,
} from "./layout.js";
import { type DiskDescription, readSectors } from "./negotiate.js";
import type { Counters } from "./queue.js";
import { Scheduler } from "./scheduler.js";
import { DiskError, type RawRequest, Transfer } from "./transfer.js";

export type { BlkfrontOptions, CloseReport, GuestPlatform, Negotiated } from "./connection.js";
export type { Abi } from "./layout.js";
export type { DiskDescription } from "./negotiate.js";
export type { Counters } from "./queue.js";
export { DiskError, type RawRequest } from "./transfer.js";

const MAX_RAW_SEGMENTS = MAX_INDIRECT_PAGES * SEGMENTS_PER_INDIRECT_PAGE;
const { Unknown, Connected, Closing, Closed } = XenbusState;

/**
 * Connects a guest's virtual device `devid` with its backend. Rejects with an Error that says what was waited for
 * when the backend does not come along.
 */
export async function connectBlkfront(
  platform: GuestPlatform,
  devid: number,
  options: Partial<BlkfrontOptions> = {},
): Promise<Blkfront> {
  const disk = new Blkfront(platform, devid, options);
  await disk.reconnect();
  return disk;
}

/**
 * A backend that is silent delays calls, for as long as it takes; one that goes away, or breaks the protocol,
 * fails them all with EIO. Use {@link connectBlkfront}.
 */
export class Blkfront implements GuestDisk {
  /** Totals since the disk was first connected. */
  readonly counters: Counters = {
    requests: 0,
    responses: 0,
    segments: 0,
    notificationsSent: 0,
    notificationsReceived: 0,
  };
  readonly devid: number;
  /** Called when the backend has changed the disk's size (bytes). */
  onResize: ((size: number) => void) | null = null;
  /** Called when the backend is gone or broke the protocol. `close` or `reconnect` is still to be called. */
  onFailure: ((error: Error) => void) | null = null;

  #platform: GuestPlatform;
  readonly #options: Partial<BlkfrontOptions>;
  #connection: Connection | null = null;
  #scheduler: Scheduler | null = null;
  /** Of the last connection. */
  #description: DiskDescription | null = null;
  #negotiated: Negotiated | null = null;
  #sectors = 0;
  /** What new calls are refused with; null while connected. */
  #refusal: Error | null;
  #broken: Error | null = null;
  /** The backend has answered EOPNOTSUPP to these. */
  #flushRefused = false;
  #discardRefused = false;

  constructor(platform: GuestPlatform, devid: number, options: Partial<BlkfrontOptions>) {
    this.#platform = platform;
    this.devid = devid;
    this.#options = options;
    this.#refusal = this.#error("the disk is not connected");
  }

  get size(): number {
    return this.#sectors * SECTOR;
  }

  get sectorSize(): number {
    return this.description.sectorSize;
  }

  get physicalSectorSize(): number {
    return this.description.physicalSectorSize;
  }

  get readOnly(): boolean {
    return this.description.readOnly;
  }

  get canFlush(): boolean {
    return (this.description.flushCache || this.description.barrier) && !this.#flushRefused;
  }

  get canDiscard(): boolean {
    return this.description.discard && !this.#discardRefused;
  }

  get canSecureDiscard(): boolean {
    return this.canDiscard && this.description.secureDiscard;
  }

  get preferredTransfer(): number {
    return (this.negotiated.indirectSegments || MAX_SEGMENTS) * PAGE_SIZE;
  }

  /** What the backend said when it connected (`size` is current, `sectors` there is not). */
  get description(): DiskDescription {
    if (!this.#description) throw this.#refusal;
    return this.#description;
  }

  /** What came of the options. */
  get negotiated(): Negotiated {
    if (!this.#negotiated) throw this.#refusal;
    return this.#negotiated;
  }

  /** How the backend broke the protocol; null as long as it kept to it. */
  get broken(): Error | null {
    return this.#broken;
  }

  /** Calls that have not ended. */
  get pending(): number {
    return this.#scheduler?.pending ?? 0;
  }

  read(position: number, into: Uint8Array): Promise<void> {
    return this.#data(Op.read, position, into);
  }

  write(position: number, from: Uint8Array): Promise<void> {
    return this.#data(Op.write, position, from);
  }

  /**
   * As `read` or `write`, for those who start very many: without a promise. Exactly one of `done` and `failed` is
   * called, once, and may start the next call; `failed` perhaps before this returns.
   */
  start(
    operation: "read" | "write",
    position: number,
    data: Uint8Array,
    done: () => void,
    failed: (error: Error) => void,
  ): void {
    const code = operation === "read" ? Op.read : Op.write;
    const refusal = this.#refusal ?? this.#objection(code, position, data.length, null);
    if (refusal) process.nextTick(failed, refusal);
    else if (data.length === 0) process.nextTick(done);
    else this.#scheduler!.submit(new Transfer(code, position, data.length, data, 0, null, done, failed));
  }

  /** Uses a barrier where the backend has no flush. */
  flush(): Promise<void> {
    const operation = this.#description?.flushCache === false ? Op.writeBarrier : Op.flushDiskcache;
    return this.#start(operation, 0, 0, null, 0, this.canFlush ? null : "flushes");
  }

  /**
   * Every write that was called before it is done before `from` is written, and every one after it is done after.
   * `from` must fit into one request of 11 segments.
   */
  barrier(position = 0, from: Uint8Array = new Uint8Array(0)): Promise<void> {
    if ((position % PAGE_SIZE) + from.length > MAX_SEGMENTS * PAGE_SIZE)
      return Promise.reject(this.#error("a barrier must fit into 11 pages", "EINVAL"));
    return this.#data(Op.writeBarrier, position, from, this.description.barrier ? null : "barriers");
  }

  /** With `secure`, the old content is gone for good afterwards. */
  discard(position: number, length: number, secure = false): Promise<void> {
    const can = secure ? this.canSecureDiscard : this.canDiscard;
    const missing = can ? null : secure ? "secure discards" : "discards";
    if (length === 0 && !missing && !this.#refusal) return Promise.resolve();
    return this.#start(Op.discard, position, length, null, secure ? DISCARD_SECURE : 0, missing);
  }

  /** Sends one request as it is, unchecked; resolves with the status that the backend answered. */
  submit(raw: RawRequest): Promise<number> {
    if (this.#refusal) return Promise.reject(this.#refusal);
    if ((raw.segments?.length ?? 0) > MAX_RAW_SEGMENTS)
      return Promise.reject(this.#error(`a request has at most ${MAX_RAW_SEGMENTS} segments`, "EINVAL"));
    const operation = raw.discard ? Op.discard : raw.operation;
    return new Promise((resolve, reject) => {
      this.#scheduler!.submit(new Transfer(operation, 0, 0, null, 0, raw, resolve, reject));
    });
  }

  /**
   * Waits for calls that are under way, closes the connection and takes all pages back. Rejects when the backend
   * does not follow in time; the connection is gone all the same. Does nothing when there is none.
   */
  async close(): Promise<CloseReport> {
    const connection = this.#connection;
    const scheduler = this.#scheduler;
    if (!scheduler) return { grantsInUse: 0 };
    this.#connection = this.#scheduler = null;
    const closed = this.#error("the disk was closed");
    this.#refusal ??= closed;
    if (!connection) {
      scheduler.stop(closed);
      return { grantsInUse: 0 };
    }
    await connection.drain(scheduler.idle());
    connection.state.onWrite = null;
    scheduler.stop(closed);
    return connection.close();
  }

  /** Closes the connection if there is one and makes a new one, with the options of the first. */
  async reconnect(): Promise<CloseReport> {
    const report = await this.close();
    await this.#connect(this.#makeScheduler());
    return report;
  }

  /**
   * The guest is suspended for a migration: its rings are left as they are, without a word to their backend, and calls,
   * those under way included, wait for {@link resume}. Does nothing when the disk is not connected.
   */
  suspend(): void {
    const connection = this.#connection;
    const before = this.#scheduler;
    if (!connection || !before || this.#refusal) return;
    this.#connection = null;
    // Its machine goes, and perhaps its xenstored first.
    connection.forget().catch(() => {});
    this.#scheduler = this.#makeScheduler();
    for (const transfer of before.abandon()) {
      if (transfer.raw) {
        transfer.fail(
          this.#error("the pages of a raw request stay with the machine that the guest has left"),
        );
        continue;
      }
      transfer.rewind();
      this.#scheduler.submit(transfer);
    }
  }

  /**
   * Goes on with the backend of another machine. As Linux does (blkfront_resume): calls without an answer are made again, in
   * their order. Whatever the backend before still does for them must have ended: that is for those who migrate. Rejects,
   * and the calls with it, when the backend does not come along.
   */
  async resume(platform: GuestPlatform): Promise<void> {
    const scheduler = this.#scheduler;
    if (this.#connection || !scheduler) throw this.#error("the disk is not suspended", "EINVAL");
    this.#platform = platform;
    try {
      await this.#connect(scheduler);
    } catch (error) {
      this.#fail(scheduler, error as Error);
      throw error;
    }
    scheduler.roomMade();
  }

  #makeScheduler(): Scheduler {
    const scheduler: Scheduler = new Scheduler(
      this.counters,
      (transfer) => this.#refused(transfer),
      (error) => this.#breakDown(scheduler, error),
    );
    return scheduler;
  }

  async #connect(scheduler: Scheduler): Promise<void> {
    this.#broken = null;
    this.#flushRefused = this.#discardRefused = false;
    const { queues } = scheduler;
    const connection = await Connection.open(this.#platform, this.devid, scheduler, queues, this.#options);
    this.#connection = connection;
    this.#scheduler = scheduler;
    this.#description = connection.disk;
    this.#negotiated = connection.negotiated;
    this.#sectors = connection.disk.sectors;
    this.#refusal = null;
    connection.state.onWrite = (state) => this.#backendChanged(connection, scheduler, state);
    this.#backendChanged(connection, scheduler, connection.state.current);
  }

  #data(operation: number, position: number, data: Uint8Array, missing: string | null = null): Promise<void> {
    if (data.length === 0 && operation !== Op.writeBarrier && !this.#refusal) return Promise.resolve();
    return this.#start(operation, position, data.length, data, 0, missing);
  }

  /** `missing` names what the backend lacks for this operation, if it lacks anything. */
  #start(
    operation: number,
    position: number,
    length: number,
    data: Uint8Array | null,
    flag: number,
    missing: string | null,
  ): Promise<void> {
    const refusal = this.#refusal ?? this.#objection(operation, position, length, missing);
    if (refusal) return Promise.reject(refusal);
    return new Promise<unknown>((resolve, reject) => {
      this.#scheduler!.submit(new Transfer(operation, position, length, data, flag, null, resolve, reject));
    }) as Promise<void>;
  }

  #objection(operation: number, position: number, length: number, missing: string | null): DiskError | null {
    if (missing) return this.#error(`the backend offers no ${missing}`, "EOPNOTSUPP");
    const { sectorSize, readOnly } = this.description;
    if (position % sectorSize !== 0 || length % sectorSize !== 0)
      return this.#error(`${length} bytes at ${position} are not whole ${sectorSize}-byte sectors`, "EINVAL");
    if (position < 0 || position + length > this.size)
      return this.#error(`${length} bytes at ${position} are outside of ${this.size}`, "EINVAL");
    if (readOnly && length > 0 && operation !== Op.read) return this.#error("the disk is read-only", "EROFS");
    return null;
  }

  /** As Linux does: what is not supported is not asked for again. */
  #refused(transfer: Transfer): void {
    if (transfer.raw || transfer.status !== Rsp.eopnotsupp) return;
    if (transfer.operation === Op.discard) this.#discardRefused = true;
    else if (transfer.length === 0) this.#flushRefused = true;
  }

  #backendChanged(connection: Connection, scheduler: Scheduler, state: number): void {
    if (state === Connected) void this.#lookAtSize(connection);
    else if (state === Closing || state === Closed || state === Unknown)
      this.#fail(
        scheduler,
        this.#error(`the backend ${connection.device.backend} went to ${stateName(state)}`),
      );
  }

  async #lookAtSize(connection: Connection): Promise<void> {
    try {
      const sectors = await readSectors(this.#platform.xenstore, connection.device.backend);
      if (connection !== this.#connection || sectors === this.#sectors) return;
      this.#sectors = sectors;
    } catch {
      // The size stays as it was: a key that is gone for a moment is no reason to take the disk from the guest.
      return;
    }
    this.onResize?.(this.size);
  }

  #breakDown(scheduler: Scheduler, violation: Error): void {
    this.#broken ??= violation;
    this.#fail(scheduler, this.#error(`${violation.message}; the disk is disabled`));
  }

  #fail(scheduler: Scheduler, error: Error): void {
    const first = this.#refusal === null;
    // Before calls fail: their callers may make others.
    this.#refusal ??= error;
    scheduler.stop(error);
    if (first) this.onFailure?.(error);
  }

  #error(message: string, code = "EIO"): DiskError {
    return new DiskError(code, `blkfront ${this.devid}: ${message}`);
  }
}
