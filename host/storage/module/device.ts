/**
 * A disk that a module of another package supplies. The module works on copies of the guest's data, in a thread of its own: what is
 * late, wrong or thrown there is an I/O error here. After an operation that did not end in its time the disk is broken until it is
 * attached again: a write that came through later could spoil a newer one.
 */
import { constants } from "node:os";
import { SystemError } from "../../platform/libc.js";
import { type BlockDevice, type Done, type IoVector, Result, views } from "../device.js";
import { SECTOR, wholeSectors } from "../geometry.js";
import { later, lossBy, type Outcome, outOfReach } from "../refusal.js";
import type { Description, ModuleRequest } from "./messages.js";
import type { ModuleThread } from "./thread.js";

const { EIO, EOPNOTSUPP, EROFS } = constants.errno;
const DEFAULT_TIMEOUT_SECONDS = 60;
/** For the last call, which nobody but the daemon waits for. */
const LONGEST_CLOSE_MS = 10_000;

export interface ModuleDeviceOptions {
  readonly name: string;
  /** The module's. */
  readonly path: string;
  readonly readOnly: boolean;
}

export class ModuleDevice implements BlockDevice {
  readonly name: string;
  readonly size: number;
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly canDiscard: boolean;
  readonly canSecureDiscard = false;
  readonly discardGranularity: number;
  readonly discardAlignment = 0;
  readonly fenced: boolean;
  readonly volatile: boolean;
  flushErrno = 0;
  readonly #path: string;
  readonly #thread: ModuleThread;
  readonly #flushes: boolean;
  readonly #timeoutMs: number;
  #underWay = 0;
  #drained: (() => void) | null = null;
  #closed: Promise<void> | null = null;

  /** Takes the thread over, whose description {@link faultOf} must have found good. */
  constructor(thread: ModuleThread, described: Description, { name, path, readOnly }: ModuleDeviceOptions) {
    const { size, sectorSize = SECTOR, survives, timeoutSeconds = DEFAULT_TIMEOUT_SECONDS } = described;
    this.#thread = thread;
    this.#path = path;
    this.name = name;
    this.readOnly = readOnly;
    this.sectorSize = this.physicalSectorSize = this.discardGranularity = sectorSize;
    this.size = wholeSectors(size, sectorSize);
    this.canDiscard = described.discards && !readOnly;
    this.fenced = survives === "kill";
    this.volatile = survives === undefined;
    this.#flushes = described.flushes;
    this.#timeoutMs = timeoutSeconds * 1000;
  }

  get through(): string {
    const { broken } = this.#thread;
    return broken === null ? `the module ${this.#path}` : `the module ${this.#path}, failed: ${broken}`;
  }

  read(position: number, to: IoVector, done: Done): void {
    const length = to.bytes;
    this.#begin({ operation: "read", position, length, bytes: null }, null, done, (bytes) => {
      let at = 0;
      for (const view of views(to)) {
        view.set(bytes.subarray(at, at + view.length));
        at += view.length;
      }
    });
  }

  write(position: number, from: IoVector, done: Done): void {
    const length = from.bytes;
    const refusal = this.#unchangeable("write");
    const bytes = new Uint8Array(refusal ? 0 : length);
    let at = 0;
    for (const view of refusal ? [] : views(from)) {
      bytes.set(view, at);
      at += view.length;
    }
    this.#begin({ operation: "write", position, length, bytes }, refusal, done);
  }

  flush(done: Done): void {
    const needless = { result: Result.Success };
    const refusal = this.readOnly
      ? needless
      : (this.#unchangeable("flush") ?? (this.#flushes ? null : needless));
    this.#begin({ operation: "flush", position: 0, length: 0, bytes: null }, refusal, (result, error) => {
      if (result !== Result.Success) this.flushErrno = EIO;
      done(result, error);
    });
  }

  discard(position: number, length: number, secure: boolean, done: Done): void {
    const unable = { result: Result.Unsupported, error: new SystemError("discard", EOPNOTSUPP, this.name) };
    const refusal = this.#unchangeable("discard") ?? (secure || !this.canDiscard ? unable : null);
    this.#begin({ operation: "discard", position, length, bytes: null }, refusal, done);
  }

  async refreshSize(): Promise<boolean> {
    return false;
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    if (this.#underWay > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
    await new Promise<void>((resolve) => {
      const last = { operation: "close", position: 0, length: 0, bytes: null } as const;
      this.#thread.ask(last, Math.min(this.#timeoutMs, LONGEST_CLOSE_MS), () => resolve());
    });
    await this.#thread.end();
  }

  #begin(
    request: Omit<ModuleRequest, "id">,
    refusal: Outcome | null,
    done: Done,
    take: (bytes: Uint8Array) => void = () => {},
  ): void {
    const { operation, position, length } = request;
    const outcome = outOfReach(this, this.#closed !== null, operation, position, length) ?? refusal;
    if (outcome) {
      later(done, outcome);
      return;
    }
    this.#underWay++;
    this.#thread.ask(request, this.#timeoutMs, (why, bytes) => {
      if (--this.#underWay === 0) this.#drained?.();
      if (bytes && why === null) take(bytes);
      if (why === null) return done(Result.Success);
      const what = operation === "flush" ? this.name : `${length} bytes at ${position} of ${this.name}`;
      done(Result.Failure, new Error(`${operation} ${what}: ${why}`));
    });
  }

  #unchangeable(verb: string): Outcome | null {
    if (this.readOnly) return { result: Result.ReadOnly, error: new SystemError(verb, EROFS, this.name) };
    if (this.flushErrno === 0) return null;
    return { result: Result.Failure, error: lossBy(new SystemError("flush", this.flushErrno, this.name)) };
  }
}
