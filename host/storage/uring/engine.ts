/** The io_uring engine: system calls of one thread as entries of its ring. */
import { addressOf, SystemError } from "../../platform/libc.js";
import { AT_FDCWD, O_CLOEXEC } from "../../platform/numbers.js";
import { discardBlocks } from "../calls/discard.js";
import type { IoVector } from "../device.js";
import type { ErrnoDone, IoEngine, TransferDone } from "../engine.js";
import { ASYNC, CANCEL_ALL, FIXED_FILE, FSYNC_DATASYNC, Op, POLLIN, QUIET } from "./abi.js";
import { Uring, type UringSizes } from "./ring.js";

const TWO_TO_32 = 4294967296;

/** The upper word of user_data: whose completion it is. */
const Kind = { call: 0, queue: 1, poll: 2, word: 3, quiet: 4 } as const;

/** Words on their way into descriptors; each has been taken long before its place is used again. */
const WORDS = 4096;

/** Takes the completions of operations that name a place rather than a function: see {@link UringEngine.addQueue}. */
export interface CompletionQueue {
  /** `place` (0 to 65535) is what the operation was started with; `result` as the system call's, or -errno. */
  completed(place: number, result: number): void;
}

/** Somebody whose answers come in shared memory, and who signals one only where that was asked for before it came. */
export interface Answerer {
  readonly hasAnswers: boolean;
  /** Takes the answers that are there. */
  takeAnswers(): void;
  /** Asks for a signal at the next answer. */
  askForSignal(): void;
}

/** Slots for registered buffers are taken so many at a time. */
export const BUFFERS_A_BLOCK = 512;

/** Gets the system call's result, or -errno. */
export type Call = (result: number) => void;

/**
 * Nothing happens before {@link enter} is called, and `done` functions are called by {@link reap}: both are for the
 * loop that owns the thread.
 */
export class UringEngine implements IoEngine {
  readonly name = "io_uring";
  readonly ring: Uring;
  /** Operations of queues that the kernel has; the queues keep count. */
  underWay = 0;
  /** Operations that end on the event loop only: libuv's thread pool's, and {@link soon}'s. */
  foreign = 0;
  readonly #calls: (Call | null)[] = [];
  readonly #freeCalls: number[] = [];
  readonly #queues: (CompletionQueue | null)[] = [];
  readonly #polls: (() => void)[] = [];
  readonly #answerers: Answerer[] = [];
  readonly #words = new Uint32Array(new ArrayBuffer(4 * WORDS));
  readonly #wordsAddress = addressOf(new Uint8Array(this.#words.buffer));
  #nextWord = 0;
  /** Flags of every call's entry. */
  readonly #flags: number;
  /** Slots of registered descriptors. */
  readonly #files = new Map<number, number>();
  /** First slots of the blocks of buffers that nobody has. */
  readonly #freeBlocks: number[] = [];

  /**
   * With `async`, the kernel tries nothing in the thread that submits it: what waits there would make the thread wait.
   * Throws a SystemError where io_uring is missing, forbidden, or too old.
   */
  constructor(sizes: Partial<UringSizes> = {}, async = false) {
    this.#flags = async ? ASYNC : 0;
    this.ring = new Uring(sizes);
    for (let slot = this.ring.buffers - BUFFERS_A_BLOCK; slot >= 0; slot -= BUFFERS_A_BLOCK)
      this.#freeBlocks.push(slot);
  }

  readv(fd: number, position: number, to: IoVector, done: TransferDone): void {
    this.#vector(Op.readv, fd, position, to, done);
  }

  writev(fd: number, position: number, from: IoVector, done: TransferDone): void {
    this.#vector(Op.writev, fd, position, from, done);
  }

  fdatasync(fd: number, done: ErrnoDone): void {
    this.call(Op.fsync, fd, 0, 0, 0, FSYNC_DATASYNC, errnoOf(done));
  }

  fallocate(fd: number, mode: number, position: number, length: number, done: ErrnoDone): void {
    this.call(Op.fallocate, fd, position, length, mode, 0, errnoOf(done));
  }

  openFile(path: string, flags: number, done: TransferDone): void {
    this.openAt(path, flags, 0, (result) => (result < 0 ? done(-result, 0) : done(0, result)));
  }

  closeFile(fd: number, done: ErrnoDone): void {
    this.call(Op.close | ASYNC, fd, 0, 0, 0, 0, errnoOf(done));
  }

  /** open(2) with the mode of a file that is made. */
  openAt(path: string, flags: number, mode: number, done: Call): void {
    const name = Buffer.from(`${path}\0`);
    this.call(Op.openat | ASYNC, AT_FDCWD, 0, addressOf(name), mode, flags | O_CLOEXEC, (result) => {
      // Until now it was the kernel's to read.
      name.fill(0);
      done(result);
    });
  }

  /** The ring has no such command before Linux 6.12, and no secure one. */
  blockDiscard(fd: number, secure: boolean, position: number, length: number, done: ErrnoDone): void {
    this.foreign++;
    discardBlocks(fd, secure, position, length, (errno) => {
      this.foreign--;
      done(errno);
    });
  }

  /** The thread may be about to sleep in the kernel, where no microtask runs. */
  soon(end: () => void): void {
    this.foreign++;
    queueMicrotask(() => {
      this.foreign--;
      end();
    });
  }

  /** A number for a queue, which {@link queueUserData} turns into the lower word of user_data. */
  addQueue(queue: CompletionQueue): number {
    const free = this.#queues.indexOf(null);
    const index = free < 0 ? this.#queues.length : free;
    this.#queues[index] = queue;
    return index;
  }

  /** Nothing of the queue's may be under way. */
  removeQueue(index: number): void {
    this.#queues[index] = null;
  }

  /** Calls `ready` once when `fd` is readable, or is so already. */
  poll(fd: number, ready: () => void): void {
    let index = this.#polls.indexOf(ready);
    if (index < 0) index = this.#polls.push(ready) - 1;
    this.ring.prepare(Op.pollAdd, fd, 0, 0, 0, 0, 0, POLLIN, index, Kind.poll);
  }

  /** Reads what there is, or else what comes next, to a native address; then `done` gets read(2)'s result, or -errno. */
  read(fd: number, address: number, length: number, done: (result: number) => void): void {
    this.call(Op.read, fd, 0, address, length, 0, done);
  }

  /** Writes 4 bytes to a descriptor that never makes a writer wait. It is open until the next {@link Uring.enter}. */
  writeWord(fd: number, word: number): void {
    const index = this.#nextWord;
    this.#nextWord = (index + 1) % WORDS;
    this.#words[index] = word;
    const address = this.#wordsAddress + 4 * index;
    const high = Math.floor(address / TWO_TO_32);
    this.ring.prepare(Op.write | QUIET, fd, 0, 0, address - high * TWO_TO_32, high, 4, 0, 0, Kind.word);
  }

  /** Writes to a descriptor, and nobody hears whether that succeeded: without a completion, it ends no sleep. */
  writeQuietly(fd: number, address: number, length: number): void {
    const file = this.fileOf(fd);
    const high = Math.floor(address / TWO_TO_32);
    const low = address - high * TWO_TO_32;
    this.ring.prepare(Op.write | QUIET | file.flags, file.fd, 0, 0, low, high, length, 0, fd, Kind.quiet);
  }

  /** Ends such writes to a descriptor that wait; before Linux 5.19 one of them. */
  cancelQuiet(fd: number): void {
    this.ring.prepare(Op.asyncCancel, -1, 0, 0, fd, Kind.quiet, 0, CANCEL_ALL, 0, Kind.quiet);
  }

  /** Registers a descriptor, so that the kernel need not look it up for each operation. */
  register(fd: number): void {
    const slot = this.ring.addFile(fd);
    if (slot !== null) this.#files.set(fd, slot);
  }

  /** To be called before the descriptor is closed, when nothing on it is under way. */
  unregister(fd: number): void {
    const slot = this.#files.get(fd);
    if (slot !== undefined) this.ring.removeFile(slot);
    this.#files.delete(fd);
  }

  /** What an operation's entry has in its first word besides the operation, and as its descriptor. */
  fileOf(fd: number): { flags: number; fd: number } {
    const slot = this.#files.get(fd);
    return slot === undefined ? { flags: 0, fd } : { flags: FIXED_FILE, fd: slot };
  }

  /** The first of {@link BUFFERS_A_BLOCK} slots for registered buffers; null where there are none. */
  takeBlock(): number | null {
    return this.#freeBlocks.pop() ?? null;
  }

  /** All slots of the block must be empty. */
  giveBlock(slot: number): void {
    this.#freeBlocks.push(slot);
  }

  /** Takes answers at each {@link reap}, from now on. */
  addAnswerer(answerer: Answerer): void {
    this.#answerers.push(answerer);
  }

  removeAnswerer(answerer: Answerer): void {
    this.#answerers.splice(this.#answerers.indexOf(answerer), 1);
  }

  /** Whether {@link reap} would find answers. */
  get hasAnswers(): boolean {
    for (const answerer of this.#answerers) if (answerer.hasAnswers) return true;
    return false;
  }

  /** To be called before a sleep, which an answer ends only if that was asked for. True if there are some by now. */
  askForSignals(): boolean {
    for (const answerer of this.#answerers) answerer.askForSignal();
    return this.hasAnswers;
  }

  /** Hands out the completions that are there, and has answers taken; returns how many completions there were. */
  reap(): number {
    const completions = this.ring.reap(this);
    for (const answerer of this.#answerers) if (answerer.hasAnswers) answerer.takeAnswers();
    return completions;
  }

  completed(low: number, high: number, result: number): void {
    if (high === Kind.queue) this.#queues[low >>> 16]?.completed(low & 0xffff, result);
    else if (high === Kind.poll) this.#polls[low]();
    else if (high === Kind.quiet) return;
    else if (high === Kind.word) throw new SystemError("write", -result, "event channels");
    else {
      const call = this.#calls[low] as Call;
      this.#calls[low] = null;
      this.#freeCalls.push(low);
      call(result);
    }
  }

  /** All operations must have ended; polls may be under way. */
  close(): void {
    this.ring.close();
  }

  #vector(op: number, fd: number, position: number, io: IoVector, done: TransferDone): void {
    const address = io.memory.base + io.table;
    this.call(op, fd, position, address, io.count, 0, (result) => {
      if (result < 0) done(-result, 0);
      else done(0, result);
    });
  }

  /** Ends a call that is under way, if it waits; it gets -ECANCELED then. */
  cancel(call: number): void {
    const index = this.#place(() => {});
    this.ring.prepare(Op.asyncCancel, -1, 0, 0, call, Kind.call, 0, 0, index, Kind.call);
  }

  #place(call: Call): number {
    const index = this.#freeCalls.pop() ?? this.#calls.length;
    this.#calls[index] = call;
    return index;
  }

  /** One entry, by its words: see {@link Uring.prepare}. `call` gets the result. Returns what {@link cancel} takes until then. */
  call(
    op: number,
    fd: number,
    offset: number,
    address: number,
    length: number,
    flags: number,
    call: Call,
  ): number {
    const index = this.#place(call);
    const file = this.fileOf(fd);
    this.ring.prepare(
      op | this.#flags | file.flags,
      file.fd,
      offset % TWO_TO_32,
      Math.floor(offset / TWO_TO_32),
      address % TWO_TO_32,
      Math.floor(address / TWO_TO_32),
      length,
      flags,
      index,
      Kind.call,
    );
    return index;
  }
}

/** user_data of an operation at a place of a queue: its lower and upper word. */
export function queueUserData(queue: number, place: number): number {
  return (queue << 16) | place;
}
export const QUEUE_KIND = Kind.queue;

function errnoOf(done: ErrnoDone): Call {
  return (result) => done(result < 0 ? -result : 0);
}
