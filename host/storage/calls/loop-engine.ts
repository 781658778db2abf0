/**
 * An io_uring for a thread whose loop is Node's. Every entry goes to a worker of the kernel (IOSQE_ASYNC), of which there are
 * as many as there are calls that wait: none of them keeps this thread waiting, or another call, as those of libuv's pool
 * would, which has four threads for the whole process.
 */
import { addressOf, type Poll, pollReadable, SystemError } from "../../platform/libc.js";
import { AT_EMPTY_PATH, AT_FDCWD, STATX_BASIC_STATS } from "../../platform/numbers.js";
import type { IoVector } from "../device.js";
import type { ErrnoDone, IoEngine, TransferDone } from "../engine.js";
import { Op } from "../uring/abi.js";
import { UringEngine } from "../uring/engine.js";
import { discardBlocks } from "./discard.js";
import { decodeStatx, type FileStats, STATX_BYTES } from "./file-stats.js";

/** Nothing is registered: these are few calls. */
const SIZES = { submissions: 256, completions: 4096, files: 0, buffers: 0, polled: true };
const EMPTY = Buffer.alloc(1);

export class LoopEngine implements IoEngine {
  readonly name = "io_uring";
  readonly #engine = new UringEngine(SIZES, true);
  /** Of the ring's descriptor; while a call is under way, which keeps the process alive as libuv's do. */
  #poll: Poll | null = null;
  #underWay = 0;
  #submitting = false;

  readv(fd: number, position: number, to: IoVector, done: TransferDone): void {
    this.#engine.readv(fd, position, to, this.#counted(done));
  }

  writev(fd: number, position: number, from: IoVector, done: TransferDone): void {
    this.#engine.writev(fd, position, from, this.#counted(done));
  }

  fdatasync(fd: number, done: ErrnoDone): void {
    this.#engine.fdatasync(fd, this.#counted(done));
  }

  fallocate(fd: number, mode: number, position: number, length: number, done: ErrnoDone): void {
    this.#engine.fallocate(fd, mode, position, length, this.#counted(done));
  }

  blockDiscard(fd: number, secure: boolean, position: number, length: number, done: ErrnoDone): void {
    discardBlocks(fd, secure, position, length, done);
  }

  openFile(path: string, flags: number, done: TransferDone): void {
    this.#engine.openFile(path, flags, this.#counted(done));
  }

  closeFile(fd: number, done: ErrnoDone): void {
    this.#engine.closeFile(fd, this.#counted(done));
  }

  soon(end: () => void): void {
    queueMicrotask(end);
  }

  close(): void {
    this.#poll?.close();
    this.#engine.close();
  }

  open(path: string, flags: number, mode: number): Promise<number> {
    return this.#promise("open", path, (done) => this.#engine.openAt(path, flags, mode, done));
  }

  /** stat(2) of a path, or fstat(2) of a descriptor. */
  async stat(file: string | number): Promise<FileStats> {
    const bytes = new Uint8Array(new ArrayBuffer(STATX_BYTES));
    const path = typeof file === "string" ? Buffer.from(`${file}\0`) : EMPTY;
    const [fd, flags] = typeof file === "string" ? [AT_FDCWD, 0] : [file, AT_EMPTY_PATH];
    const [to, from] = [addressOf(bytes), addressOf(path)];
    await this.#promise("stat", String(file), (done) =>
      this.#engine.call(Op.statx, fd, to, from, STATX_BASIC_STATS, flags, (result) => {
        keep(path);
        done(result);
      }),
    );
    return decodeStatx(bytes);
  }

  /** pread(2); how many bytes there were. The bytes must have a buffer of their own. */
  read(fd: number, bytes: Uint8Array, position: number): Promise<number> {
    return this.#transfer("read", Op.read, fd, bytes, position);
  }

  /** pwrite(2), or write(2) at the file's own position, -1; how many bytes were written. */
  write(fd: number, bytes: Uint8Array, position: number): Promise<number> {
    return this.#transfer("write", Op.write, fd, bytes, position);
  }

  #transfer(name: string, op: number, fd: number, bytes: Uint8Array, position: number): Promise<number> {
    const address = addressOf(bytes);
    return this.#promise(name, "", (done) =>
      this.#engine.call(op, fd, position, address, bytes.byteLength, 0, (result) => {
        keep(bytes);
        done(result);
      }),
    );
  }

  #promise(name: string, what: string, begin: (done: (result: number) => void) => void): Promise<number> {
    return new Promise((resolve, reject) => {
      const done = (result: number): void =>
        result < 0 ? reject(new SystemError(name, -result, what)) : resolve(result);
      begin(this.#counted(done));
    });
  }

  #counted<A extends unknown[]>(done: (...args: A) => void): (...args: A) => void {
    this.#underWay++;
    if (!this.#submitting) {
      this.#submitting = true;
      queueMicrotask(() => this.#submit());
    }
    return (...args) => {
      this.#underWay--;
      done(...args);
    };
  }

  /** Hands over what has been prepared meanwhile. */
  #submit(): void {
    this.#submitting = false;
    this.#engine.ring.enter(0, 0);
    this.#poll ??= pollReadable(this.#engine.ring.fd, () => this.#reap());
    this.#reap();
  }

  #reap(): void {
    do this.#engine.ring.enter(0, 0);
    while (this.#engine.reap() > 0);
    if (this.#underWay > 0) return;
    this.#poll?.close();
    this.#poll = null;
  }
}

/** What the kernel reads or writes must not be collected before it has. */
const kept = new WeakSet<object>();
function keep(bytes: object): void {
  kept.add(bytes);
}
