/** What the storage tests share: scatter lists, promises around operations, images that go away, a faulty engine. */
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { allocateMemory, type LinearMemory } from "../../host/core/memory.js";
import { addressOf } from "../../host/platform/libc.js";
import { type BlockDevice, IOVEC_BYTES, type IoVector, type Result } from "../../host/storage/device.js";
import type { ErrnoDone, IoEngine, TransferDone } from "../../host/storage/engine.js";
import { libuvEngine } from "../../host/storage/libuv.js";
import { type OpenOptions, openDevice } from "../../host/storage/open.js";
import { UringEngine } from "../../host/storage/uring/engine.js";
import type { UringSizes } from "../../host/storage/uring/ring.js";

/** The example of a device's module, as an administrator keeps it: a checkout may be writable by its user's group. */
export function exampleModule(): string {
  const scratch = mkdtempSync(join(tmpdir(), "xbdback-example-"));
  process.on("exit", () => rmSync(scratch, { recursive: true, force: true }));
  const path = join(scratch, "memory.js");
  const example = new URL("../../../examples/device/memory.js", import.meta.url);
  writeFileSync(path, readFileSync(example), { mode: 0o644 });
  return path;
}

export const LIMIT = { timeout: 120_000 };
export const { EAGAIN, EBUSY, EINTR, EIO, EINVAL, ENOSPC, EOPNOTSUPP, EROFS } = constants.errno;

export interface Outcome {
  readonly result: Result;
  readonly error: Error | undefined;
}

/** A scatter list of buffers of these lengths, with a gap between any two, in reverse order of address. */
export function scatter(...lengths: number[]): IoVector {
  const bytes = lengths.reduce((sum, length) => sum + length, 0);
  const dataAt = Math.ceil((lengths.length * IOVEC_BYTES) / 4096) * 4096;
  const memory: LinearMemory = allocateMemory(dataAt + bytes + lengths.length * 64, addressOf);
  const entries = new BigUint64Array(memory.memory.buffer, 0, lengths.length * 2);
  let at = dataAt + bytes + lengths.length * 64;
  lengths.forEach((length, i) => {
    at -= length + 64;
    entries[i * 2] = BigInt(memory.base + at);
    entries[i * 2 + 1] = BigInt(length);
  });
  return { memory, table: 0, count: lengths.length, bytes };
}

function buffers({ memory, table, count }: IoVector): Uint8Array[] {
  const entries = new BigUint64Array(memory.memory.buffer, table, count * 2);
  return Array.from({ length: count }, (_, i) => {
    const start = Number(entries[i * 2]) - memory.base;
    return memory.u8.subarray(start, start + Number(entries[i * 2 + 1]));
  });
}

export function fill(io: IoVector, from: Uint8Array): IoVector {
  let at = 0;
  for (const buffer of buffers(io)) {
    buffer.set(from.subarray(at, at + buffer.length));
    at += buffer.length;
  }
  return io;
}

export function gather(io: IoVector): Buffer {
  return Buffer.concat(buffers(io));
}

/** The bytes of the table of iovecs itself. */
export function tableOf({ memory, table, count }: IoVector): Buffer {
  return Buffer.from(memory.u8.slice(table, table + count * IOVEC_BYTES));
}

/** Bytes that differ from sector to sector and from seed to seed. */
export function pattern(bytes: number, seed = 1): Buffer {
  const data = Buffer.alloc(bytes);
  for (let i = 0; i < bytes; i++) data[i] = (i * 7 + (i >> 9) * 13 + seed * 31) & 0xff;
  return data;
}

function outcome(start: (done: (result: Result, error?: Error) => void) => void): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    let calls = 0;
    let returned = false;
    start((result, error) => {
      if (calls++ > 0) reject(new Error("done was called twice"));
      if (!returned) reject(new Error("done was called before the operation returned"));
      resolve({ result, error });
    });
    returned = true;
  });
}

export const read = (device: BlockDevice, position: number, to: IoVector): Promise<Outcome> =>
  outcome((done) => device.read(position, to, done));

export const write = (device: BlockDevice, position: number, from: IoVector): Promise<Outcome> =>
  outcome((done) => device.write(position, from, done));

export const flush = (device: BlockDevice): Promise<Outcome> => outcome((done) => device.flush(done));

export const discard = (
  device: BlockDevice,
  position: number,
  length: number,
  secure = false,
): Promise<Outcome> => outcome((done) => device.discard(position, length, secure, done));

/** A directory that goes away with the test. */
export function directory(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "xbdback-storage-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** A sparse image file of `bytes` that goes away with the test. */
export function image(t: TestContext, bytes: number, content?: Uint8Array): string {
  const path = join(directory(t), "disk.img");
  writeFileSync(path, content ?? "");
  if (!content) truncateSync(path, bytes);
  return path;
}

export const ENGINES = ["libuv", "io_uring"] as const;

/** Opens a disk whose engine works on the test's own event loop. */
export function openOn(
  engine: (typeof ENGINES)[number],
  path: string,
  options: OpenOptions,
): Promise<BlockDevice> {
  return openDevice(path, engine === "libuv" ? options : { ...options, engine: pumped() });
}

let pump: PumpedUring | null = null;
function pumped(): PumpedUring {
  pump ??= new PumpedUring();
  return pump;
}

/** The io_uring engine, which is made for a thread of its own, on Node's event loop. */
export class PumpedUring implements IoEngine {
  readonly name = "io_uring";
  readonly engine: UringEngine;
  #underWay = 0;
  #closed = false;

  constructor(sizes: Partial<UringSizes> = {}) {
    this.engine = new UringEngine(sizes);
  }

  readv(fd: number, position: number, to: IoVector, done: TransferDone): void {
    this.engine.readv(fd, position, to, this.#counted(done));
  }
  writev(fd: number, position: number, from: IoVector, done: TransferDone): void {
    this.engine.writev(fd, position, from, this.#counted(done));
  }
  fdatasync(fd: number, done: ErrnoDone): void {
    this.engine.fdatasync(fd, this.#counted(done));
  }
  fallocate(fd: number, mode: number, position: number, length: number, done: ErrnoDone): void {
    this.engine.fallocate(fd, mode, position, length, this.#counted(done));
  }
  blockDiscard(fd: number, secure: boolean, position: number, length: number, done: ErrnoDone): void {
    this.engine.blockDiscard(fd, secure, position, length, this.#counted(done));
  }
  openFile(path: string, flags: number, done: TransferDone): void {
    this.engine.openFile(path, flags, this.#counted(done));
  }
  closeFile(fd: number, done: ErrnoDone): void {
    this.engine.closeFile(fd, this.#counted(done));
  }
  soon(end: () => void): void {
    this.engine.soon(end);
  }
  close(): void {
    this.#closed = true;
    this.engine.close();
  }

  #counted<A extends unknown[]>(done: (...args: A) => void): (...args: A) => void {
    if (this.#underWay++ === 0) setImmediate(() => this.#turn());
    return (...args) => {
      this.#underWay--;
      done(...args);
    };
  }

  #turn(): void {
    if (this.#closed) return;
    this.engine.ring.enter(1, 1);
    this.engine.reap();
    if (this.#underWay > 0) setImmediate(() => this.#turn());
  }
}

/** The libuv engine with faults: each list is used up call by call, and then all goes well. */
export class FaultyEngine implements IoEngine {
  readonly name = "faulty";
  /** For readv and writev: an errno that they give, or `{ atMost }` bytes that they move. */
  transfers: (number | { atMost: number })[] = [];
  syncs: number[] = [];
  allocations: number[] = [];
  /** Calls made so far. */
  readonly calls = { readv: 0, writev: 0, fdatasync: 0, fallocate: 0 };
  /** While set, an fdatasync does not start before it is resolved. */
  gate: Promise<void> | null = null;

  readv(fd: number, position: number, to: IoVector, done: TransferDone): void {
    this.calls.readv++;
    this.#transfer(to, done, (io) => libuvEngine.readv(fd, position, io, done));
  }

  writev(fd: number, position: number, from: IoVector, done: TransferDone): void {
    this.calls.writev++;
    this.#transfer(from, done, (io) => libuvEngine.writev(fd, position, io, done));
  }

  fdatasync(fd: number, done: ErrnoDone): void {
    this.calls.fdatasync++;
    const errno = this.syncs.shift() ?? 0;
    const start = (): void => {
      if (errno === 0) libuvEngine.fdatasync(fd, done);
      else setImmediate(done, errno);
    };
    if (this.gate !== null) void this.gate.then(start);
    else start();
  }

  fallocate(fd: number, mode: number, position: number, length: number, done: ErrnoDone): void {
    this.calls.fallocate++;
    const errno = this.allocations.shift() ?? 0;
    if (errno === 0) libuvEngine.fallocate(fd, mode, position, length, done);
    else setImmediate(done, errno);
  }

  blockDiscard = libuvEngine.blockDiscard;
  openFile = libuvEngine.openFile;
  closeFile = libuvEngine.closeFile;
  soon = libuvEngine.soon;
  close(): void {}

  #transfer(io: IoVector, done: TransferDone, move: (io: IoVector) => void): void {
    const fault = this.transfers.shift();
    if (fault === undefined) move(io);
    else if (typeof fault === "number") setImmediate(done, fault, 0);
    else if (fault.atMost === 0) setImmediate(done, 0, 0);
    else move(firstBytes(io, fault.atMost));
  }
}

/** A copy of a scatter list that ends after `bytes`. */
function firstBytes(io: IoVector, bytes: number): IoVector {
  const { memory, table, count } = io;
  const source = new BigUint64Array(memory.memory.buffer, table, count * 2);
  // The end of the gap behind the first table: the tests' tables are small.
  const at = 2048;
  const copy = new BigUint64Array(memory.memory.buffer, at, count * 2);
  let left = bytes;
  let entries = 0;
  for (; entries < count && left > 0; entries++) {
    const length = Math.min(left, Number(source[entries * 2 + 1]));
    copy[entries * 2] = source[entries * 2];
    copy[entries * 2 + 1] = BigInt(length);
    left -= length;
  }
  return { memory, table: at, count: entries, bytes };
}
