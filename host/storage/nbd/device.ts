/** A disk that an NBD server has. */
import { constants } from "node:os";
import { Command, CommandFlag, NbdError, Transmission } from "../../nbd/protocol.js";
import { SystemError } from "../../platform/libc.js";
import { type BlockDevice, type Done, type IoVector, type Outage, Result, views } from "../device.js";
import { SECTOR, wholeSectors } from "../geometry.js";
import { CANNOT_REPEAT, type KeptWrite, type KeptWrites } from "../kept-writes.js";
import { later, lossBy, type Outcome, outOfReach } from "../refusal.js";
import { Link, type LinkOptions } from "./link.js";
import type { Export, Line } from "./negotiate.js";
import { makeRequest, type Request, slice } from "./request.js";
import type { Session } from "./session.js";

const { EIO, EROFS, EOPNOTSUPP } = constants.errno;
const LARGEST_SECTOR = 4096;
/** Of one trim: the wire's 32 bits, in any blocks. */
const LONGEST_TRIM = 1 << 30;

export interface NbdDeviceOptions extends Pick<LinkOptions, "dial" | "reconnectMs" | "silenceMs" | "log"> {
  readonly name: string;
  readonly readOnly: boolean;
  /** What is written again when the server is lost: the device's to close. Null where there is no need. */
  readonly kept: KeptWrites | null;
  /** See {@link BlockDevice.fenced}. */
  readonly fenced?: boolean;
  /** See {@link BlockDevice.bases}. */
  readonly bases?: readonly string[];
  /** For people: what is connected to. */
  readonly server?: () => string;
  /** Lets go of what is behind the server, after the last connection to it. */
  readonly release?: () => Promise<void>;
}

/**
 * What is acknowledged and not flushed is kept ({@link KeptWrites}), so that a server may die. As on raw disks, a flush that
 * fails has failed for good: all writes, discards and flushes fail from then on.
 */
export class NbdDevice implements BlockDevice {
  readonly name: string;
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly canSecureDiscard = false;
  readonly discardGranularity: number;
  readonly discardAlignment = 0;
  readonly canDiscard: boolean;
  readonly fenced: boolean;
  readonly bases: readonly string[];
  flushErrno = 0;

  readonly #options: NbdDeviceOptions;
  readonly #link: Link;
  readonly #exported: Export;
  /** Bytes of data that a request may have: whole sectors. */
  readonly #longest: number;
  readonly #kept: KeptWrites | null;
  #size: number;
  #sizeSeen: number;
  #flushingFor = false;
  /** Writes that the server has acknowledged, and that are done as soon as there is room to keep them. */
  #held: Held[] = [];
  #underWay = 0;
  #drained: (() => void) | null = null;
  #closed: Promise<void> | null = null;

  /** Takes the line over, whose export {@link sectorsOf} must have found good. */
  constructor(line: Line, options: NbdDeviceOptions) {
    const { exported } = line;
    const { flags, preferredBlock } = exported;
    this.#options = options;
    this.#kept = options.kept;
    this.flushErrno = options.kept?.lost ?? 0;
    this.#exported = exported;
    this.name = options.name;
    this.readOnly = options.readOnly;
    this.fenced = options.fenced ?? false;
    this.bases = options.bases ?? [];
    this.sectorSize = sectorsOf(exported);
    this.physicalSectorSize = Math.max(this.sectorSize, Math.min(preferredBlock, 4096));
    this.discardGranularity = this.physicalSectorSize;
    this.canDiscard = !this.readOnly && (flags & Transmission.sendTrim) !== 0;
    this.#longest = wholeSectors(exported.maximumPayload, this.sectorSize);
    this.#size = this.#sizeSeen = wholeSectors(exported.size, this.sectorSize);
    this.#link = new Link(line, {
      ...options,
      objection: (other) => this.#objection(other),
      restore: (session, broken) => this.#restore(session, broken),
      restoresFirst: (options.kept?.count ?? 0) > 0,
    });
  }

  get size(): number {
    return this.#size;
  }

  get through(): string {
    const server = this.#options.server?.() ?? "an NBD server";
    const { outage } = this.#link;
    return outage === null ? server : `${server}, not connected: ${outage.reason}`;
  }

  get outage(): Outage | null {
    const { outage } = this.#link;
    if (outage === null) return null;
    return { ...outage, reason: `${this.#options.server?.() ?? "an NBD server"} is away: ${outage.reason}` };
  }

  /** The server was seen to be gone. */
  lose(why: string): void {
    this.#link.drop(why);
  }

  read(position: number, to: IoVector, done: Done): void {
    const outcome = this.#outOfReach("read", position, to.bytes);
    if (outcome) {
      later(done, outcome);
      return;
    }
    this.#transfer(
      Command.read,
      0,
      position,
      views(to),
      to.bytes,
      this.#counted("read", position, to.bytes, done),
    );
  }

  write(position: number, from: IoVector, done: Done): void {
    this.#write(position, from, 0, done);
  }

  writeThrough(position: number, from: IoVector, done: Done): void {
    if (this.#exported.flags & Transmission.sendFua) {
      this.#write(position, from, CommandFlag.fua, done);
      return;
    }
    this.#write(position, from, 0, (result, error) =>
      result === Result.Success ? this.flush(done) : done(result, error),
    );
  }

  flush(done: Done): void {
    const outcome = this.#outOfReach("flush", 0, 0) ?? (this.readOnly ? null : this.#unchangeable("flush"));
    if (outcome) {
      later(done, outcome);
      return;
    }
    // Of a server without flush, all that it acknowledges is on stable storage, or will never be.
    if (this.readOnly || !this.#flushes) {
      later(done, { result: Result.Success });
      return;
    }
    this.#flush(done);
  }

  #flush(done: Done): void {
    const mark = this.#kept?.mark() ?? 0;
    const covered = new Set(this.#held);
    const counted = this.#counted("flush", 0, 0, done);
    this.#send({ command: Command.flush, flags: 0, position: 0, length: 0, views: [] }, (errno, message) => {
      // One that was sent again, or beside another that failed, may succeed although data are lost.
      this.flushErrno ||= errno;
      if (this.flushErrno === 0) this.#kept?.forget(mark);
      counted(errno || this.flushErrno, message);
      this.#releaseHeld(covered);
    });
  }

  discard(position: number, length: number, secure: boolean, done: Done): void {
    const verb = secure ? "secure discard" : "discard";
    const outcome = this.#unchangeable(verb) ?? this.#outOfReach(verb, position, length);
    if (outcome) {
      later(done, outcome);
      return;
    }
    if (secure || !this.canDiscard) {
      const error = new SystemError(verb, EOPNOTSUPP, this.name);
      later(done, { result: Result.Unsupported, error });
      return;
    }
    if (length === 0) {
      later(done, { result: Result.Success });
      return;
    }
    this.#transfer(Command.trim, 0, position, [], length, this.#counted(verb, position, length, done));
  }

  /** A server tells its size when it is connected to. */
  async refreshSize(): Promise<boolean> {
    const changed = this.#size !== this.#sizeSeen;
    this.#sizeSeen = this.#size;
    return changed;
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    if (this.#underWay > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
    await this.#flushLast();
    await this.#link.close();
    this.#kept?.close();
    await this.#options.release?.();
  }

  /** The copies go with us, and the guest may go on under another process. */
  async #flushLast(): Promise<void> {
    if (this.#kept === null || this.#kept.count === 0 || this.flushErrno !== 0) return;
    let timer: NodeJS.Timeout | null = null;
    const ended = await Promise.race([
      new Promise<boolean>((resolve) => this.#flush(() => resolve(true))),
      new Promise<boolean>((resolve) => {
        timer = setTimeout(resolve, this.#options.reconnectMs, false);
      }),
    ]);
    if (timer) clearTimeout(timer);
    if (!ended) this.flushErrno ||= EIO;
    if (this.flushErrno !== 0) this.#options.log("the last writes cannot be flushed and may be lost");
  }

  get #flushes(): boolean {
    return (this.#exported.flags & Transmission.sendFlush) !== 0;
  }

  #write(position: number, from: IoVector, flags: number, done: Done): void {
    const outcome = this.#unchangeable("write") ?? this.#outOfReach("write", position, from.bytes);
    if (outcome) {
      later(done, outcome);
      return;
    }
    const data = views(from);
    const counted = this.#counted("write", position, from.bytes, done);
    this.#transfer(Command.write, flags, position, data, from.bytes, (errno, message) => {
      const kept = this.#kept;
      if (errno !== 0 || kept === null) {
        counted(errno, message);
        return;
      }
      const end = (): void => counted(this.flushErrno, this.flushErrno === 0 ? "" : "a flush has failed");
      // Also one that is on stable storage: an earlier one, written again, must not cover it.
      if (this.flushErrno !== 0 || kept.add(position, data, from.bytes)) counted(0, "");
      else this.#held.push({ position, data, length: from.bytes, end });
      if (this.#held.length > 0 || kept.wantsFlush) this.#flushForGuest();
    });
  }

  #flushForGuest(): void {
    if (this.#flushingFor || this.flushErrno !== 0) return;
    this.#flushingFor = true;
    this.#flush(() => {
      this.#flushingFor = false;
    });
  }

  /** A flush has ended, which covers some of those that were held. */
  #releaseHeld(covered: ReadonlySet<Held>): void {
    while (this.#held.length > 0) {
      const held = this.#held[0];
      const { position, data, length, end } = held;
      if (this.flushErrno === 0 && !covered.has(held) && !this.#kept?.add(position, data, length)) {
        this.#flushForGuest();
        return;
      }
      this.#held.shift();
      end();
    }
  }

  /** One operation, in as many requests as the server wants; `done` gets the first error. */
  #transfer(
    command: number,
    flags: number,
    position: number,
    data: readonly Uint8Array[],
    length: number,
    done: Request["done"],
  ): void {
    const longest = command === Command.trim ? LONGEST_TRIM : this.#longest;
    if (length <= longest) {
      this.#send({ command, flags, position, length, views: data }, done);
      return;
    }
    let left = Math.ceil(length / longest);
    let failure: [number, string] = [0, ""];
    for (let at = 0; at < length; at += longest) {
      const part = Math.min(longest, length - at);
      const request = { command, flags, position: position + at, length: part, views: slice(data, at, part) };
      this.#send(request, (errno, message) => {
        if (failure[0] === 0) failure = [errno, message];
        if (--left === 0) done(...failure);
      });
    }
  }

  #send(parts: Omit<Request, "lostAt" | "done">, done: Request["done"]): void {
    const request = makeRequest({
      ...parts,
      done: (errno, message) => {
        this.#link.settled(request);
        done(errno, message);
      },
    });
    this.#link.submit(request);
  }

  #counted(verb: string, position: number, length: number, done: Done): Request["done"] {
    this.#underWay++;
    return (errno, message) => {
      if (--this.#underWay === 0) this.#drained?.();
      if (errno === 0) return done(Result.Success);
      const what = verb === "flush" ? this.name : `${length} bytes at ${position} of ${this.name}`;
      const { message: text } = new SystemError(verb, errno, what);
      done(resultOf(errno), new Error(message === "" ? text : `${text}: ${message.slice(0, 256)}`));
    };
  }

  #outOfReach(verb: string, position: number, length: number): Outcome | null {
    return outOfReach(this, this.#closed !== null, verb, position, length);
  }

  #unchangeable(verb: string): Outcome | null {
    if (this.readOnly) return { result: Result.ReadOnly, error: new SystemError(verb, EROFS, this.name) };
    if (this.flushErrno === 0) return null;
    return { result: Result.Failure, error: lossBy(new SystemError("flush", this.flushErrno, this.name)) };
  }

  /** The guest has been told what it has; another connection must have at least that. */
  #objection(other: Export): string | null {
    const size = wholeSectors(other.size, this.sectorSize);
    const lacking =
      this.#exported.flags &
      ~other.flags &
      (Transmission.sendFlush | Transmission.sendFua | Transmission.sendTrim);
    const differs =
      size < this.#size ||
      other.minimumBlock > this.sectorSize ||
      other.maximumPayload < this.#longest ||
      lacking !== 0 ||
      other.structured !== this.#exported.structured ||
      (!this.readOnly && (other.flags & Transmission.readOnly) !== 0);
    if (differs)
      return `the server offers a different disk: ${describe(other)}, not ${describe(this.#exported)}`;
    this.#size = size;
    return null;
  }

  /** Writes again, one by one, what the last server may have lost. */
  async #restore(session: Session, broken: Promise<never>): Promise<void> {
    const held = this.#held.map(({ position, data, length }) => ({ position, views: data, length }));
    for (const write of [...(this.#kept?.writes() ?? []), ...held]) {
      const errno = await this.#repeat(write, session, broken);
      if (errno === 0) continue;
      // What the guest has seen written is gone.
      this.flushErrno ||= errno;
      this.#options.log(CANNOT_REPEAT);
      this.#kept?.lose(errno);
      this.#releaseHeld(new Set());
      return;
    }
  }

  /** The errno, or 0. */
  async #repeat(
    { position, length, views: data }: KeptWrite,
    session: Session,
    broken: Promise<never>,
  ): Promise<number> {
    if (position + length > this.#size) return EIO;
    for (let at = 0; at < length; at += this.#longest) {
      const part = slice(data, at, Math.min(this.#longest, length - at));
      const errno = await Promise.race([broken, rewrite(session, position + at, part)]);
      if (errno !== 0) return errno;
    }
    return 0;
  }
}

/** A write that is done as soon as it is kept, or a flush has failed. */
interface Held {
  readonly position: number;
  readonly length: number;
  readonly data: readonly Uint8Array[];
  readonly end: () => void;
}

function rewrite(session: Session, position: number, views: readonly Uint8Array[]): Promise<number> {
  const length = views.reduce((sum, view) => sum + view.length, 0);
  return new Promise((done) => {
    session.send(makeRequest({ command: Command.write, flags: 0, position, length, views, done }));
  });
}

/** The sectors in which an export can be served. Throws an Error when there are none. */
export function sectorsOf({ minimumBlock, maximumPayload, size }: Export): number {
  const sectorSize = Math.max(minimumBlock, SECTOR);
  if (sectorSize > LARGEST_SECTOR) {
    throw new Error(
      `the server's minimum block size is ${minimumBlock} bytes, and a guest's sector size at most ${LARGEST_SECTOR}: ` +
        "put `nbdkit --filter=blocksize` in front of it",
    );
  }
  if (maximumPayload < sectorSize)
    throw new Error(`the server's maximum request size is ${maximumPayload} bytes, less than a sector`);
  if (size < sectorSize) throw new Error(`the export has ${size} bytes, less than a sector`);
  return sectorSize;
}

/** For people. */
export function describe({ size, flags, minimumBlock }: Export): string {
  return `${size} bytes in blocks of ${minimumBlock}${flags & Transmission.readOnly ? ", read-only" : ""}`;
}

function resultOf(errno: number): Result {
  if (errno === NbdError.EPERM || errno === EROFS) return Result.ReadOnly;
  if (errno === NbdError.ENOTSUP) return Result.Unsupported;
  return errno === 0 ? Result.Success : Result.Failure;
}
