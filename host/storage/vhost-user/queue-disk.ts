/**
 * A disk through one virtqueue, in whatever thread. The server may say what it likes: a request that it fails, or answers with
 * nonsense, costs an I/O error; a ring that cannot be believed, or a server that is lost, costs the disk.
 */
import { constants } from "node:os";
import { SystemError } from "../../platform/libc.js";
import { type BlockDevice, type Done, type IoVector, Result } from "../device.js";
import { lossBy, type Outcome, outOfReach } from "../refusal.js";
import { Request, SECTOR_SHIFT, Status } from "./abi.js";
import type { DataPath, PartData } from "./data-path.js";
import { Progress, type VhostStore } from "./store.js";
import { type QueuedRequest, Violation, Virtqueue } from "./virtqueue.js";

const { EIO, EOPNOTSUPP, EROFS } = constants.errno;
const SUCCESS: Outcome = { result: Result.Success };

export interface QueueDiskOptions {
  readonly store: VhostStore;
  /** The control part of the queue's slice. */
  readonly control: ArrayBuffer;
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

type Part = Omit<QueuedRequest, "segments"> & {
  readonly operation: Operation;
  readonly data: PartData | null;
};

export class QueueDisk implements Pick<BlockDevice, "read" | "write" | "flush" | "discard"> {
  readonly name: string;
  readonly #options: QueueDiskOptions;
  readonly #store: VhostStore;
  readonly #queue: Virtqueue;
  readonly #progress: Progress;
  readonly #flushErrno: Int32Array;
  /** What is out, by the number of its request. */
  readonly #out: (Part | null)[] = [];
  /** What waits for room. */
  #waiting: Part[] = [];
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
    this.#answers++;
    if (status === Status.ok && fault === null && part.reads) part.data?.fetch?.(id);
    this.#settle(part, status, fault);
  };

  constructor(options: QueueDiskOptions) {
    const { store, control } = options;
    this.#options = options;
    this.#store = store;
    this.name = store.name;
    this.#size = store.bytes;
    this.#queue = new Virtqueue(control, store.index, store.shape);
    this.#progress = new Progress(store.progress);
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
    else this.#transfer("read", position, to, done);
  }

  write(position: number, from: IoVector, done: Done): void {
    const refusal = this.#refusal("write", position, from.bytes) ?? this.#unchangeable("write");
    if (refusal) this.#later(done, refusal);
    else this.#transfer("write", position, from, done);
  }

  flush(done: Done): void {
    const { readOnly, limits } = this.#store;
    const refusal = this.#refusal("flush", 0, 0) ?? (readOnly ? null : this.#unchangeable("flush"));
    // Of a server without flush, all that it has acknowledged is on stable storage, or will never be.
    if (refusal || readOnly || !limits.flush) {
      this.#later(done, refusal ?? SUCCESS);
      return;
    }
    const ended: Done = (result, error) => {
      if (result !== Result.Success) Atomics.compareExchange(this.#flushErrno, 0, 0, EIO);
      // One beside another that has failed may succeed although data are lost.
      const outcome = this.#unchangeable("flush");
      if (result === Result.Success && outcome) done(outcome.result, outcome.error);
      else done(result, error);
    };
    const operation = this.#begin("flush", 0, 0, ended, 1);
    this.#send({ operation, type: Request.flush, sector: 0, reads: false, data: null });
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
    const longest = discard.sectors * 2 ** SECTOR_SHIFT;
    const operation = this.#begin(verb, position, length, done, Math.ceil(length / longest));
    for (let at = 0; at < length; at += longest) {
      this.#send({
        operation,
        type: discard.type,
        sector: (position + at) / 2 ** SECTOR_SHIFT,
        reads: false,
        data: null,
        range: { sectors: Math.min(longest, length - at) / 2 ** SECTOR_SHIFT, flags: discard.flags },
      });
    }
  }

  /** The server may have answered something. */
  answered(): void {
    if (this.#lost !== null) return;
    try {
      this.#queue.take(this.#ended);
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      const why = `the server violates the virtqueue protocol: ${error.message}`;
      this.lose(why);
      this.#options.onViolation(why);
      return;
    }
    while (this.#waiting.length > 0 && this.#queue.next !== null) this.#push(this.#waiting.shift() as Part);
    this.#progress.note(this.#queue.out, this.#answers);
    this.#answers = 0;
  }

  /** Nothing is expected of the server any more: what is out fails, and so does all that comes. */
  lose(why: string): void {
    if (this.#lost !== null) return;
    this.#lost = why;
    if (!this.#store.readOnly) Atomics.compareExchange(this.#flushErrno, 0, 0, EIO);
    this.#progress.note(0, 0);
    const out = this.#out.splice(0).filter((part) => part !== null);
    for (const part of [...out, ...this.#waiting.splice(0)]) this.#settle(part, Status.ioError, why);
  }

  /** Resolves when nothing is under way; what comes then fails. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#underWay > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
  }

  #transfer(verb: "read" | "write", position: number, vector: IoVector, done: Done): void {
    const parts = this.#options.path.parts(vector);
    const operation = this.#begin(verb, position, vector.bytes, done, parts.length);
    const reads = verb === "read";
    let at = position;
    for (const data of parts) {
      const sector = at / 2 ** SECTOR_SHIFT;
      this.#send({ operation, type: reads ? Request.in : Request.out, sector, reads, data });
      at += data.bytes;
    }
  }

  #begin(verb: string, position: number, length: number, done: Done, left: number): Operation {
    this.#underWay++;
    return { verb, position, length, done, left, outcome: SUCCESS };
  }

  #send(part: Part): void {
    if (this.#waiting.length > 0 || this.#queue.next === null) {
      this.#waiting.push(part);
      return;
    }
    this.#push(part);
    this.#progress.note(this.#queue.out, 0);
  }

  #push(part: Part): void {
    const id = this.#queue.next as number;
    this.#out[id] = part;
    const segments = part.data?.place(id, part.reads) ?? [];
    if (this.#queue.push({ ...part, segments })) this.#options.kick();
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
    if (refusal || this.#lost === null) return refusal;
    const error = new Error(`${new SystemError(verb, EIO, this.name).message}: ${this.#lost}`);
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
