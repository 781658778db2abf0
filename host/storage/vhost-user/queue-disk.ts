/**
 * A disk through one virtqueue, in whatever thread. The server may say what it likes: a request that it fails, or answers with
 * nonsense, costs an I/O error; a ring that cannot be believed costs the disk. While there is no connection, requests wait.
 */
import { constants } from "node:os";
import { isHungUp } from "../../platform/connection.js";
import { SystemError } from "../../platform/libc.js";
import { type BlockDevice, type Done, type IoVector, Result } from "../device.js";
import { KeptWrites } from "../kept-writes.js";
import { lossBy, type Outcome, outOfReach } from "../refusal.js";
import type { Answerer } from "../uring/engine.js";
import { Request, SECTOR_SHIFT, Status } from "./abi.js";
import type { DataPath, PartData } from "./data-path.js";
import { QueueState, type VhostStore } from "./store.js";
import { type QueuedRequest, Violation, Virtqueue } from "./virtqueue.js";

const { EIO, EOPNOTSUPP, EROFS } = constants.errno;
const SECTOR_BYTES = 2 ** SECTOR_SHIFT;
const SUCCESS: Outcome = { result: Result.Success };

export interface QueueDiskOptions {
  readonly store: VhostStore;
  readonly path: DataPath;
  /** Wakes the server. */
  readonly kick: () => void;
  /** Calls `end` soon after it has returned. */
  readonly soon: (end: () => void) => void;
  /** The server has said what cannot be; the disk has failed. Called at most once. */
  readonly onViolation: (why: string) => void;
}

/** An operation, in one request or more. */
interface Operation {
  readonly verb: string;
  readonly position: number;
  readonly length: number;
  readonly done: Done;
  left: number;
  outcome: Outcome;
}

type Range = QueuedRequest["range"];

class Part implements QueuedRequest {
  readonly operation: Operation;
  readonly type: number;
  readonly sector: number;
  readonly data: PartData | null;
  readonly range: Range;
  /** When its connection was first lost, by performance.now(). */
  lostAt: number | null = null;
  /** A number of {@link QueueDisk.#holds}, when it was held last. */
  heldAs = 0;

  constructor(operation: Operation, type: number, position: number, data: PartData | null, range: Range) {
    this.operation = operation;
    this.type = type;
    this.sector = position / SECTOR_BYTES;
    this.data = data;
    this.range = range;
  }

  get reads(): boolean {
    return this.type === Request.in;
  }
}

export class QueueDisk implements Pick<BlockDevice, "read" | "write" | "flush" | "discard">, Answerer {
  readonly name: string;
  readonly #options: QueueDiskOptions;
  readonly #store: VhostStore;
  readonly #state: QueueState;
  readonly #kept: KeptWrites | null;
  readonly #flushErrno: Int32Array;
  /** What is out, by the number of its request. */
  readonly #out: (Part | null)[] = [];
  /** What waits for room, or for a connection. */
  #waiting: Part[] = [];
  /** Writes that the server has acknowledged, and that end as soon as there is room to keep them. */
  #held: Part[] = [];
  /** What the server has failed because its own connection broke: they wait for the next server. */
  #cutOff: Part[] = [];
  /** How many were held, ever. */
  #holds = 0;
  #flushingForGuest = false;
  /** Null while there is no connection. */
  #queue: Virtqueue | null = null;
  /** Why everything fails until there is a connection. */
  #failing: string | null = null;
  #size: number;
  /** Why everything fails; null while the server is believed. */
  #lost: string | null = null;
  #closed = false;
  #underWay = 0;
  #drained: (() => void) | null = null;
  /** Since the progress was noted. */
  #answers = 0;
  readonly #ended = (id: number, status: number, fault: string | null): void => {
    const part = this.#out[id] as Part;
    this.#out[id] = null;
    if (status === Status.ioError && fault === null && this.#isCutOff) {
      this.#cutOff.push(part);
      return;
    }
    this.#answers++;
    const good = status === Status.ok && fault === null;
    if (good && part.reads) part.data?.fetch?.(id);
    if (good && part.type === Request.out && !this.#keep(part)) return;
    this.#settle(part, status, fault);
  };

  /** Without a connection, until {@link resume}. */
  constructor(options: QueueDiskOptions) {
    const { store } = options;
    this.#options = options;
    this.#store = store;
    this.name = store.name;
    this.#size = store.bytes;
    this.#state = new QueueState(store.state);
    this.#kept = store.kept && new KeptWrites(store.kept);
    this.#flushErrno = new Int32Array(store.flushErrno);
  }

  get size(): number {
    return this.#size;
  }

  set size(bytes: number) {
    this.#size = bytes;
  }

  /** Of the flush that failed, here or in another thread; 0 when none did. */
  get flushErrno(): number {
    return this.#flushErrno[0];
  }

  read(position: number, to: IoVector, done: Done): void {
    const refusal = this.#refusal("read", position, to.bytes);
    if (refusal) this.#later(done, refusal);
    else this.#transfer("read", position, to.bytes, this.#options.path.parts(to), done);
  }

  write(position: number, from: IoVector, done: Done): void {
    const refusal = this.#refusal("write", position, from.bytes) ?? this.#unchangeable("write");
    if (refusal) this.#later(done, refusal);
    else this.writeParts(position, from.bytes, this.#options.path.parts(from), done);
  }

  /** As `write`, of a range that the caller has checked. */
  writeParts(position: number, length: number, parts: readonly PartData[], done: Done): void {
    this.#transfer("write", position, length, parts, done);
  }

  flush(done: Done): void {
    const { readOnly, limits } = this.#store;
    const refusal = this.#refusal("flush", 0, 0) ?? (readOnly ? null : this.#unchangeable("flush"));
    // Of a server without flush, all that it has acknowledged is on stable storage, or will never be.
    if (refusal || readOnly || !limits.flush) {
      this.#later(done, refusal ?? SUCCESS);
      return;
    }
    this.#flush(done);
  }

  #flush(done: Done): void {
    const mark = this.#kept?.mark() ?? 0;
    const holds = this.#holds;
    const ended: Done = (result, error) => {
      if (result !== Result.Success) Atomics.compareExchange(this.#flushErrno, 0, 0, EIO);
      // One beside another that has failed may succeed although data are lost.
      const outcome = this.#unchangeable("flush");
      if (outcome === null) this.#kept?.forget(mark);
      if (result === Result.Success && outcome) done(outcome.result, outcome.error);
      else done(result, error);
      this.#releaseHeld(outcome === null ? holds : 0);
    };
    const operation = this.#begin("flush", 0, 0, ended, 1);
    this.#send(new Part(operation, Request.flush, 0, null, null));
  }

  discard(position: number, length: number, secure: boolean, done: Done): void {
    const verb = secure ? "secure discard" : "discard";
    const refusal = this.#refusal(verb, position, length) ?? this.#unchangeable(verb);
    const { discard } = this.#store.limits;
    if (refusal || secure || discard === null || length === 0) {
      const error = new SystemError(verb, EOPNOTSUPP, this.name);
      const unable = secure || discard === null ? { result: Result.Unsupported, error } : SUCCESS;
      this.#later(done, refusal ?? unable);
      return;
    }
    const longest = discard.sectors * SECTOR_BYTES;
    const operation = this.#begin(verb, position, length, done, Math.ceil(length / longest));
    for (let at = 0; at < length; at += longest) {
      const range = { sectors: Math.min(longest, length - at) / SECTOR_BYTES, flags: discard.flags };
      this.#send(new Part(operation, discard.type, position + at, null, range));
    }
  }

  /** The server has answered something. */
  get hasAnswers(): boolean {
    return this.#queue?.hasAnswers ?? false;
  }

  takeAnswers(): void {
    if (this.#take()) this.#sendWaiting();
  }

  /** Asks the server for a call at the next answer. */
  askForSignal(): void {
    this.#queue?.askForCall();
  }

  /** False where nothing more can come of it. */
  #take(): boolean {
    if (this.#lost !== null || this.#queue === null) return false;
    try {
      this.#queue.take(this.#ended);
      return true;
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      const why = `the server violates the virtqueue protocol: ${error.message}`;
      this.lose(why);
      this.#options.onViolation(why);
      return false;
    }
  }

  /** The connection is lost, whose last answers count: what has none waits for another one. */
  park(): void {
    this.#take();
    if (this.#lost !== null) return;
    this.#queue = null;
    const now = performance.now();
    const out = this.#out.splice(0).filter((part) => part !== null);
    const again = [...this.#cutOff.splice(0), ...out, ...this.#held.splice(0)];
    for (const part of again) part.lostAt ??= now;
    const patience = this.#store.reconnectMs;
    const overdue = (part: Part): boolean => now - (part.lostAt ?? now) >= patience;
    this.#waiting.unshift(...again.filter((part) => !overdue(part)));
    this.#note();
    const why = `no answer within ${patience / 1000} s after the connection was first lost`;
    for (const part of again.filter(overdue)) this.#settle(part, Status.ioError, why);
  }

  /** There is a connection, with this control part of the queue's slice, in which all is zero. */
  resume(control: ArrayBuffer): void {
    if (this.#lost !== null) return;
    this.#failing = null;
    this.#queue = new Virtqueue(control, this.#store.index, this.#store.shape);
    this.#sendWaiting();
  }

  /** There has been no connection for too long: what waits fails, and so does all that comes, until {@link resume}. */
  fail(why: string): void {
    if (this.#queue !== null) this.park();
    if (this.#lost !== null) return;
    this.#failing = why;
    this.#end(this.#waiting.splice(0), why);
  }

  /** Nothing is expected of any server any more: what is out fails, and so does all that comes. */
  lose(why: string): void {
    if (this.#lost !== null) return;
    this.#lost = why;
    if (!this.#store.readOnly) Atomics.compareExchange(this.#flushErrno, 0, 0, EIO);
    const out = this.#out.splice(0).filter((part) => part !== null);
    this.#queue = null;
    this.#end([...this.#cutOff.splice(0), ...out, ...this.#held.splice(0), ...this.#waiting.splice(0)], why);
  }

  /** The server cannot reach its data. Asked when it has failed something: its connection broke before that. */
  get #isCutOff(): boolean {
    const { connectionFd, failureMeans } = this.#store;
    return failureMeans !== null || (connectionFd >= 0 && isHungUp(connectionFd));
  }

  #end(parts: readonly Part[], why: string): void {
    this.#note();
    for (const part of parts) this.#settle(part, Status.ioError, why);
  }

  #sendWaiting(): void {
    while (this.#waiting.length > 0 && this.#queue !== null && this.#queue.next !== null)
      this.#push(this.#waiting.shift() as Part, this.#queue);
    this.#note();
  }

  #note(): void {
    const out = (this.#queue?.out ?? 0) + this.#waiting.length + this.#held.length + this.#cutOff.length;
    this.#state.note(out, this.#answers, this.#cutOff.length);
    this.#answers = 0;
  }

  /** Keeps what the server has written and not flushed; false where the guest must wait until there is room. */
  #keep(part: Part): boolean {
    const kept = this.#kept;
    const { data, sector } = part;
    if (kept === null || data === null || this.flushErrno !== 0) return true;
    const has = kept.add(sector * SECTOR_BYTES, data.views(), data.bytes);
    if (!has) {
      part.heldAs = ++this.#holds;
      this.#held.push(part);
    }
    if (!has || kept.wantsFlush) this.#flushForGuest();
    return has;
  }

  #flushForGuest(): void {
    if (this.#flushingForGuest) return;
    this.#flushingForGuest = true;
    this.#flush(() => {
      this.#flushingForGuest = false;
    });
  }

  /** A flush has ended, which covers the first so many that were held. */
  #releaseHeld(covered: number): void {
    for (const part of this.#held.splice(0)) {
      if ((part.heldAs as number) <= covered) this.#settle(part, Status.ok, null);
      else if (this.flushErrno !== 0) this.#settle(part, Status.ioError, "a flush has failed");
      else if (this.#keep(part)) this.#settle(part, Status.ok, null);
    }
  }

  /** Resolves when nothing is under way; what comes then fails. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#underWay > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
    this.#kept?.close();
  }

  #transfer(
    verb: "read" | "write",
    position: number,
    length: number,
    parts: readonly PartData[],
    done: Done,
  ): void {
    const operation = this.#begin(verb, position, length, done, parts.length);
    const type = verb === "read" ? Request.in : Request.out;
    let at = position;
    for (const data of parts) {
      this.#send(new Part(operation, type, at, data, null));
      at += data.bytes;
    }
  }

  #begin(verb: string, position: number, length: number, done: Done, left: number): Operation {
    this.#underWay++;
    return { verb, position, length, done, left, outcome: SUCCESS };
  }

  #send(part: Part): void {
    const queue = this.#queue;
    if (this.#waiting.length > 0 || queue === null || queue.next === null) this.#waiting.push(part);
    else this.#push(part, queue);
    this.#note();
  }

  #push(part: Part, queue: Virtqueue): void {
    const id = queue.next as number;
    this.#out[id] = part;
    const segments = part.data?.place(id, part.reads) ?? [];
    if (queue.push(part, segments)) this.#options.kick();
  }

  #settle({ operation }: Part, status: number, fault: string | null): void {
    if (status !== Status.ok || fault !== null) {
      if (operation.outcome === SUCCESS) operation.outcome = this.#failure(operation, status, fault);
    }
    if (--operation.left > 0) return;
    if (--this.#underWay === 0) this.#drained?.();
    operation.done(operation.outcome.result, operation.outcome.error);
  }

  #failure({ verb, position, length }: Operation, status: number, fault: string | null): Outcome {
    const what = verb === "flush" ? this.name : `${length} bytes at ${position} of ${this.name}`;
    if (fault === null && status === Status.unsupported)
      return { result: Result.Unsupported, error: new SystemError(verb, EOPNOTSUPP, what) };
    const why = fault ?? (status === Status.ioError ? null : `the server has answered with status ${status}`);
    const { message } = new SystemError(verb, EIO, what);
    return { result: Result.Failure, error: new Error(why === null ? message : `${message}: ${why}`) };
  }

  #refusal(verb: string, position: number, length: number): Outcome | null {
    const refusal = outOfReach(this, this.#closed, verb, position, length);
    const why = this.#lost ?? this.#failing;
    if (refusal || why === null) return refusal;
    const error = new Error(`${new SystemError(verb, EIO, this.name).message}: ${why}`);
    return { result: Result.Failure, error };
  }

  /** Why the disk must not, or may no longer, be changed. */
  #unchangeable(verb: string): Outcome | null {
    if (this.#store.readOnly)
      return { result: Result.ReadOnly, error: new SystemError(verb, EROFS, this.name) };
    const errno = this.#flushErrno[0];
    if (errno === 0) return null;
    return { result: Result.Failure, error: lossBy(new SystemError("flush", errno, this.name)) };
  }

  #later(done: Done, { result, error }: Outcome): void {
    this.#options.soon(() => done(result, error));
  }
}
