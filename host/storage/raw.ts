/** A raw image file or block device as a disk. */
import { constants } from "node:os";
import { SystemError } from "../platform/libc.js";
import { FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE } from "../platform/numbers.js";
import { Place } from "./calls/place.js";
import { type BlockDevice, type Done, type IoVector, type Outage, Result } from "./device.js";
import type { ErrnoDone, IoEngine, TransferDone } from "./engine.js";
import { type Geometry, type StoreKind, storeBytes, wholeSectors } from "./geometry.js";
import { lossBy, type Outcome, outOfReach } from "./refusal.js";
import { type Most, transfer, WHOLE, withRetries } from "./transfer.js";

const { EROFS, EOPNOTSUPP, ENOSYS, ENOTTY } = constants.errno;
const PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

const SUCCESS: Outcome = { result: Result.Success };
const whole = (): Most => WHOLE;

/** A store that was opened and locked (see open.ts). Plain data, so that it can go to another thread. */
export interface Store extends Geometry {
  readonly fd: number;
  readonly name: string;
  readonly kind: StoreKind;
  readonly readOnly: boolean;
  /** When it was opened; whole sectors or not. */
  readonly bytes: number;
  /** One i32 for all threads that use the store: the errno of the fdatasync that failed, or 0. */
  readonly flushErrno: SharedArrayBuffer;
}

/**
 * A disk whose bytes are those of an image file or block device, through the page cache.
 *
 * Flushing is fail-stop. When fdatasync fails, the kernel may have dropped the pages that it could not write and
 * report success the next time; and Linux's frontend takes an error on an empty flush for "cannot flush" and goes on
 * without. So after one failure all writes, discards and flushes fail, in all threads, and the guest sees it; reads
 * go on. Only opening the store again ends that. For the same reason at most one fdatasync is under way at a time on
 * one open file: of two, only one would be told of an error. Flushes that come meanwhile share the next one.
 */
export class RawDevice implements BlockDevice {
  readonly name: string;
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly discardGranularity: number;
  readonly discardAlignment: number;

  readonly store: Store;
  readonly #flushErrno: Int32Array;
  /** The open file that fdatasync goes to, and that is closed at the end. */
  readonly #ownFd: number;
  readonly #engine: IoEngine;
  readonly #most: () => Most;
  readonly #readv: (position: number, to: IoVector, done: TransferDone) => void;
  readonly #writev: (position: number, from: IoVector, done: TransferDone) => void;
  #size = 0;
  #canDiscard: boolean;
  #canSecureDiscard: boolean;
  #underWay = 0;
  #flushing = false;
  #flushWaiters: Done[] = [];
  #closed: Promise<void> | null = null;
  #drained: (() => void) | null = null;

  /**
   * Takes over the store's descriptor, or `ownFd`, another open file of the same store, where that is given; the
   * engine stays the caller's. `most` says what one call may move, at present.
   */
  constructor(store: Store, engine: IoEngine, ownFd = store.fd, most = whole) {
    this.name = store.name;
    this.sectorSize = store.sectorSize;
    this.physicalSectorSize = store.physicalSectorSize;
    this.readOnly = store.readOnly;
    this.discardGranularity = store.discardGranularity;
    this.discardAlignment = store.discardAlignment;
    this.store = store;
    this.#flushErrno = new Int32Array(store.flushErrno);
    this.#ownFd = ownFd;
    this.#engine = engine;
    this.#most = most;
    this.#readv = (position, to, done) => engine.readv(store.fd, position, to, done);
    this.#writev = (position, from, done) => engine.writev(store.fd, position, from, done);
    this.#canDiscard = store.canDiscard;
    this.#canSecureDiscard = store.canSecureDiscard;
    this.#size = wholeSectors(store.bytes, store.sectorSize);
  }

  get size(): number {
    return this.#size;
  }

  /** What was asked of the store here besides I/O. */
  get outage(): Outage | null {
    return Place.outageAt(this.name);
  }

  /** Of the fdatasync that failed, here or in another thread; 0 when none did. */
  get flushErrno(): number {
    return this.#flushErrno[0];
  }

  set flushErrno(errno: number) {
    Atomics.store(this.#flushErrno, 0, errno);
  }

  get canDiscard(): boolean {
    return this.#canDiscard;
  }

  get canSecureDiscard(): boolean {
    return this.#canSecureDiscard;
  }

  read(position: number, to: IoVector, done: Done): void {
    const refusal = this.#outOfReach("read", position, to.bytes);
    if (refusal) {
      this.#later(done, refusal);
      return;
    }
    this.#underWay++;
    const ended: TransferDone = (errno, moved) => {
      this.#settle(done, this.#transferred("read", position, to.bytes, errno, moved));
    };
    transfer(this.#readv, position, to, ended, this.#most());
  }

  write(position: number, from: IoVector, done: Done): void {
    const refusal = this.#unchangeable("write") ?? this.#outOfReach("write", position, from.bytes);
    if (refusal) {
      this.#later(done, refusal);
      return;
    }
    this.#underWay++;
    const ended: TransferDone = (errno, moved) => {
      this.#settle(done, this.#transferred("write", position, from.bytes, errno, moved));
    };
    transfer(this.#writev, position, from, ended, this.#most());
  }

  flush(done: Done): void {
    // A read-only device has had no writes.
    const nothingToDo = this.readOnly ? SUCCESS : this.#unchangeable("flush");
    const outcome = this.#outOfReach("flush", 0, 0) ?? nothingToDo;
    if (outcome) {
      this.#later(done, outcome);
      return;
    }
    this.#underWay++;
    this.#flushWaiters.push(done);
    if (!this.#flushing) this.#startFlush();
  }

  discard(position: number, length: number, secure: boolean, done: Done): void {
    const verb = secure ? "secure discard" : "discard";
    const refusal = this.#unchangeable(verb) ?? this.#outOfReach(verb, position, length);
    const able = secure ? this.#canSecureDiscard : this.#canDiscard;
    const what = `${length} bytes at ${position} of ${this.name}`;
    if (refusal || !able || length === 0) {
      this.#later(done, refusal ?? (able ? SUCCESS : failed(verb, EOPNOTSUPP, what)));
      return;
    }
    this.#underWay++;
    const { fd, kind } = this.store;
    const call = (ended: ErrnoDone): void => {
      if (kind === "image") this.#engine.fallocate(fd, PUNCH, position, length, ended);
      else this.#engine.blockDiscard(fd, secure, position, length, ended);
    };
    withRetries(call, (errno) => {
      const outcome = errno === 0 ? SUCCESS : failed(verb, errno, what);
      if (outcome.result === Result.Unsupported) this.#forgetDiscard(secure);
      this.#settle(done, outcome);
    });
  }

  /** Whether a read or write that ends at byte `end` may go to the engine without any of the checks above. */
  admits(write: boolean, end: number): boolean {
    return end <= this.#size && !this.#closed && !(write && (this.readOnly || this.#flushErrno[0] !== 0));
  }

  /** Why a read or write failed that went to the engine by another way. */
  failure(write: boolean, position: number, length: number, errno: number): Outcome {
    return failed(write ? "write" : "read", errno, `${length} bytes at ${position} of ${this.name}`);
  }

  /** Another thread has found the store to have another size. */
  noteSize(bytes: number): void {
    this.#size = wholeSectors(bytes, this.sectorSize);
  }

  async refreshSize(): Promise<boolean> {
    if (this.#closed !== null) return false;
    const before = this.#size;
    // Closing waits: the descriptor must not become another file's meanwhile.
    this.#underWay++;
    try {
      const { fd, kind, sectorSize } = this.store;
      this.#size = wholeSectors(await storeBytes(fd, kind, Place.of(this.name)), sectorSize);
    } catch {
      // A device that went away has no size to tell; reads and writes report that better than this could.
    } finally {
      this.#end();
    }
    return this.#size !== before;
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    if (this.#underWay > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
    const { fd, name } = this.store;
    if (this.#ownFd === fd) await Place.of(name).close(fd);
    else await new Promise<void>((resolve) => this.#engine.closeFile(this.#ownFd, () => resolve()));
  }

  #outOfReach(verb: string, position: number, length: number): Outcome | null {
    return outOfReach(this, this.#closed !== null, verb, position, length);
  }

  /** Why the device must not, or may no longer, be changed. */
  #unchangeable(verb: string): Outcome | null {
    if (this.readOnly) return failed(verb, EROFS, this.name);
    const errno = this.#flushErrno[0];
    return errno === 0 ? null : { result: Result.Failure, error: this.#lossOf(errno) };
  }

  #lossOf(errno: number): Error {
    return lossBy(new SystemError("fdatasync", errno, this.name));
  }

  /** Capabilities that the store turned out not to have. A store that cannot discard cannot discard securely. */
  #forgetDiscard(secure: boolean): void {
    this.#canSecureDiscard = false;
    if (!secure) this.#canDiscard = false;
  }

  #startFlush(): void {
    const waiters = this.#flushWaiters;
    this.#flushWaiters = [];
    this.#flushing = true;
    withRetries(
      (ended) => this.#engine.fdatasync(this.#ownFd, ended),
      (errno) => this.#endFlush(errno, waiters),
    );
  }

  #endFlush(errno: number, waiters: Done[]): void {
    this.#flushing = false;
    let outcome = SUCCESS;
    if (errno !== 0) {
      Atomics.compareExchange(this.#flushErrno, 0, 0, errno);
      outcome = { result: Result.Failure, error: this.#lossOf(errno) };
      waiters.push(...this.#flushWaiters.splice(0));
    } else if (this.#flushWaiters.length > 0) {
      this.#startFlush();
    }
    for (const done of waiters) this.#settle(done, outcome);
  }

  #transferred(verb: string, position: number, length: number, errno: number, moved: number): Outcome {
    if (errno === 0 && moved >= length) return SUCCESS;
    const range = `${length} bytes at ${position} of ${this.name}`;
    if (errno !== 0) return failed(verb, errno, range);
    const error = new Error(`${verb} ${range}: the disk ends after ${moved} of them`);
    return { result: Result.Failure, error };
  }

  /** `done` never comes before the call returns. */
  #later(done: Done, { result, error }: Outcome): void {
    this.#engine.soon(() => done(result, error));
  }

  #settle(done: Done, { result, error }: Outcome): void {
    this.#end();
    done(result, error);
  }

  #end(): void {
    if (--this.#underWay === 0) this.#drained?.();
  }
}

function failed(verb: string, errno: number, what: string): Outcome {
  return { result: resultOf(errno), error: new SystemError(verb, errno, what) };
}

function resultOf(errno: number): Result {
  if (errno === EROFS) return Result.ReadOnly;
  if (errno === EOPNOTSUPP || errno === ENOSYS || errno === ENOTTY) return Result.Unsupported;
  return Result.Failure;
}
