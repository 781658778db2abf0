/**
 * One io_uring of one thread, without a native addon: the kernel maps its rings where it likes, and they are reached
 * through a view of those bytes. Only the thread that made it may use it (IORING_SETUP_SINGLE_ISSUER).
 */
import { closeSync } from "node:fs";
import { constants, release } from "node:os";
import {
  addressOf,
  ioUringEnter,
  ioUringRegister,
  ioUringSetup,
  mapBuffer,
  SystemError,
  unmapBuffer,
} from "../../platform/libc.js";
import {
  CQE_WORDS,
  CqOff,
  Enter,
  Feature,
  GETEVENTS_ARG_BYTES,
  OFF_SQ_RING,
  OFF_SQES,
  PARAMS_BYTES,
  Params,
  Register,
  RSRC_REGISTER_SPARSE,
  RSRC_UPDATE2_BYTES,
  Setup,
  SQ_TASKRUN,
  SQE_WORDS,
  Sqe,
  SqOff,
} from "./abi.js";

const { EINVAL, EOPNOTSUPP } = constants.errno;
const TWO_TO_32 = 4294967296;
const NEEDED = Feature.singleMmap | Feature.noDrop | Feature.extArg | Feature.cqeSkip;

export interface UringSizes {
  /** Entries that can be submitted with one call; powers of two. */
  readonly submissions: number;
  /** Completions that wait for us before the kernel has to keep more in a list of its own. */
  readonly completions: number;
  /** Descriptors that can be registered. */
  readonly files: number;
  /** Buffers that can be registered; at most 16384 (IORING_MAX_REG_BUFFERS). */
  readonly buffers: number;
  /**
   * The ring's descriptor is polled: the kernel posts completions when they come, and not at the next {@link Uring.enter} only,
   * of which a poll would hear nothing.
   */
  readonly polled: boolean;
}

const DEFAULT_SIZES: UringSizes = {
  submissions: 512,
  completions: 4096,
  files: 1024,
  buffers: 16384,
  polled: false,
};
const IOVEC_WORDS = 4;
/** More than all rings of a thread have requests in flight. A worker exists while a call waits, and costs some 20 KiB. */
const MAX_WORKERS = 16384;

/** Gets the completions: user_data as two words, the result (or a negative errno). */
export interface CompletionHandler {
  completed(low: number, high: number, result: number): void;
}

export class Uring {
  /** Whether the kernel can wait a little for more than one completion (6.12). */
  readonly canWaitForMore: boolean;
  /** Slots for registered buffers: none where the kernel has no such table, or lets go of them late. */
  readonly buffers: number;
  /** Calls of io_uring_enter so far, and entries that the kernel has taken. */
  enters = 0;
  submitted = 0;

  /** Readable when there are completions. */
  readonly fd: number;
  readonly #maps: { address: number; length: number }[] = [];
  #sqes: Uint32Array;
  #ring: Int32Array;
  #cqes: Int32Array;
  readonly #entries: number;
  readonly #sqMask: number;
  readonly #cqMask: number;
  readonly #sqTail: number;
  readonly #sqFlags: number;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #enterFd: number;
  readonly #enterFlags: number;
  /** Entries prepared, and those that the kernel has taken; free-running u32. */
  #tail: number;
  #taken: number;
  #head: number;
  /** struct io_uring_getevents_arg, then the struct __kernel_timespec that it points to; must not move. */
  readonly #argument = new Uint32Array(new ArrayBuffer(GETEVENTS_ARG_BYTES + 16));
  readonly #argumentAddress: number;
  readonly #freeFiles: number[] = [];

  /** Throws a SystemError where io_uring is missing, forbidden, or too old. */
  constructor(sizes: Partial<UringSizes> = {}) {
    const { submissions, completions, files, buffers, polled } = { ...DEFAULT_SIZES, ...sizes };
    const params = new Uint32Array(PARAMS_BYTES / 4);
    this.fd = setUp(submissions, completions, polled, params);
    try {
      if ((params[Params.features] & NEEDED) !== NEEDED) throw new SystemError("io_uring_setup", EOPNOTSUPP);
      const sq = (field: number): number => params[Params.sqOff + field];
      const cq = (field: number): number => params[Params.cqOff + field];
      this.#entries = params[Params.sqEntries];
      const cqEntries = params[Params.cqEntries];
      const ringBytes = Math.max(
        sq(SqOff.array) + this.#entries * 4,
        cq(CqOff.cqes) + cqEntries * CQE_WORDS * 4,
      );
      const ring = this.#map(OFF_SQ_RING, ringBytes);
      this.#ring = new Int32Array(ring);
      this.#cqes = new Int32Array(ring, cq(CqOff.cqes), cqEntries * CQE_WORDS);
      this.#sqes = new Uint32Array(this.#map(OFF_SQES, this.#entries * SQE_WORDS * 4));
      this.#sqMask = this.#entries - 1;
      this.#cqMask = cqEntries - 1;
      this.#sqTail = sq(SqOff.tail) >> 2;
      this.#sqFlags = sq(SqOff.flags) >> 2;
      this.#cqHead = cq(CqOff.head) >> 2;
      this.#cqTail = cq(CqOff.tail) >> 2;
      this.#tail = this.#taken = this.#ring[this.#sqTail] >>> 0;
      this.#head = this.#ring[this.#cqHead];
      // Entries are used in order, so the indirection between ring and entries is the same for ever.
      for (let i = 0; i < this.#entries; i++) this.#ring[(sq(SqOff.array) >> 2) + i] = i;
      this.canWaitForMore = (params[Params.features] & Feature.minTimeout) !== 0;
      this.#argumentAddress = addressOf(new Uint8Array(this.#argument.buffer));
      const registered = this.#registerSelf();
      this.#enterFd = registered ?? this.fd;
      this.#enterFlags = Enter.getEvents | Enter.extArg | (registered === null ? 0 : Enter.registeredRing);
      this.#allowWorkers();
      this.#reserveFiles(files);
      this.buffers = this.#reserve(Register.buffers2, buffers) ? buffers : 0;
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Entries that are prepared and that the kernel does not know of. */
  get prepared(): number {
    return (this.#tail - this.#taken) >>> 0;
  }

  /**
   * Fills the next submission entry; `opcode` is its whole first word. What the words mean depends on the operation.
   * The entry is handed over by the next {@link enter}, or here and now where there is no other room.
   */
  prepare(
    opcode: number,
    fd: number,
    offsetLow: number,
    offsetHigh: number,
    addressLow: number,
    addressHigh: number,
    length: number,
    operationFlags: number,
    userLow: number,
    userHigh: number,
    bufferIndex = 0,
  ): void {
    while (this.prepared >= this.#entries) this.enter(0, 0);
    const at = (this.#tail & this.#sqMask) * SQE_WORDS;
    const sqes = this.#sqes;
    sqes[at + Sqe.opcode] = opcode;
    sqes[at + Sqe.fd] = fd;
    sqes[at + Sqe.offset] = offsetLow;
    sqes[at + Sqe.offset + 1] = offsetHigh;
    sqes[at + Sqe.address] = addressLow;
    sqes[at + Sqe.address + 1] = addressHigh;
    sqes[at + Sqe.length] = length;
    sqes[at + Sqe.operationFlags] = operationFlags;
    sqes[at + Sqe.userData] = userLow;
    sqes[at + Sqe.userData + 1] = userHigh;
    sqes[at + Sqe.bufferIndex] = bufferIndex;
    // The other words are zero from the start and stay so.
    this.#tail = (this.#tail + 1) >>> 0;
  }

  /**
   * Hands over what is prepared and waits until `complete` completions are there, at most `timeoutMs` (Infinity: for
   * ever). Where the kernel can, it comes back after `patienceUs` with fewer, if there is one. Being interrupted, or
   * out of resources for the moment, is no error: there are fewer completions, and what was not taken stays prepared.
   */
  enter(complete: number, timeoutMs: number, patienceUs = 0): void {
    Atomics.store(this.#ring, this.#sqTail, this.#tail | 0);
    const argument = this.#argument;
    const forEver = timeoutMs === Number.POSITIVE_INFINITY;
    argument[3] = patienceUs;
    // A null timespec where there is no limit.
    if (forEver || complete === 0) argument[4] = argument[5] = 0;
    else this.#setTimeout(timeoutMs);
    this.enters++;
    const address = this.#argumentAddress;
    const result = ioUringEnter(
      this.#enterFd,
      this.prepared,
      complete,
      this.#enterFlags,
      address,
      GETEVENTS_ARG_BYTES,
    );
    if (result > 0) {
      this.#taken = (this.#taken + result) >>> 0;
      this.submitted += result;
    } else if (result < 0 && !isPassing(-result)) throw new SystemError("io_uring_enter", -result);
  }

  /** Completions that can be had without a call. */
  get ready(): number {
    return (Atomics.load(this.#ring, this.#cqTail) - this.#head) | 0;
  }

  /** Whether completions can be had, perhaps by an {@link enter} that does not wait. */
  get promising(): boolean {
    return this.ready !== 0 || (Atomics.load(this.#ring, this.#sqFlags) & SQ_TASKRUN) !== 0;
  }

  /** Hands out the completions that are there; returns how many. The handler may prepare entries. */
  reap(handler: CompletionHandler): number {
    const cqes = this.#cqes;
    const tail = Atomics.load(this.#ring, this.#cqTail);
    let head = this.#head;
    const count = (tail - head) | 0;
    for (; head !== tail; head = (head + 1) | 0) {
      const at = (head & this.#cqMask) * CQE_WORDS;
      handler.completed(cqes[at], cqes[at + 1], cqes[at + 2]);
    }
    this.#head = head;
    Atomics.store(this.#ring, this.#cqHead, head);
    return count;
  }

  /** Registers a descriptor; returns its slot, or null when there is none to be had. */
  addFile(fd: number): number | null {
    const slot = this.#freeFiles.pop();
    if (slot === undefined) return null;
    this.#updateFile(slot, fd);
    return slot;
  }

  /** No operation on the slot may be under way. */
  removeFile(slot: number): void {
    this.#updateFile(slot, -1);
    this.#freeFiles.push(slot);
  }

  /**
   * Registers `count` buffers of `bytes` each that lie one after the other from a native address, in slots from `slot`
   * on, in place of what was there; address 0 empties the slots. False where the kernel takes less than all of them
   * (RLIMIT_MEMLOCK, pages that cannot be pinned): then some are registered, and some are not.
   */
  setBuffers(slot: number, address: number, bytes: number, count: number): boolean {
    const vectors = new Uint32Array(count * IOVEC_WORDS);
    if (address !== 0) {
      for (let i = 0; i < count; i++) {
        const at = address + i * bytes;
        vectors[i * IOVEC_WORDS] = at % TWO_TO_32;
        vectors[i * IOVEC_WORDS + 1] = Math.floor(at / TWO_TO_32);
        vectors[i * IOVEC_WORDS + 2] = bytes;
      }
    }
    const data = addressOf(new Uint8Array(vectors.buffer));
    const update = new Uint32Array([slot, 0, data % TWO_TO_32, Math.floor(data / TWO_TO_32), 0, 0, count, 0]);
    try {
      const argument = new Uint8Array(update.buffer);
      return ioUringRegister(this.fd, Register.buffersUpdate, argument, RSRC_UPDATE2_BYTES) === count;
    } catch {
      return false;
    }
  }

  /** Nothing may be under way. Any use afterwards throws. */
  close(): void {
    // An access to what is unmapped would kill the process.
    this.#ring = this.#cqes = new Int32Array(0);
    this.#sqes = new Uint32Array(0);
    for (const { address, length } of this.#maps.splice(0)) unmapBuffer(address, length);
    closeSync(this.fd);
  }

  #map(offset: typeof OFF_SQ_RING | typeof OFF_SQES, length: number): ArrayBuffer {
    const { address, bytes } = mapBuffer(this.fd, offset, length);
    this.#maps.push({ address, length });
    return bytes;
  }

  #setTimeout(milliseconds: number): void {
    const argument = this.#argument;
    const timespec = this.#argumentAddress + GETEVENTS_ARG_BYTES;
    argument[4] = timespec % TWO_TO_32;
    argument[5] = Math.floor(timespec / TWO_TO_32);
    const seconds = Math.floor(milliseconds / 1000);
    argument[6] = seconds;
    argument[7] = 0;
    argument[8] = Math.floor((milliseconds - seconds * 1000) * 1e6);
    argument[9] = 0;
  }

  /** Saves the kernel from looking the descriptor up; null before 5.18. */
  #registerSelf(): number | null {
    // struct io_uring_rsrc_update: u32 offset (-1: any), u32 reserved, u64 descriptor.
    const update = new Uint32Array([0xffffffff, 0, this.fd, 0]);
    try {
      ioUringRegister(this.fd, Register.ringFds, new Uint8Array(update.buffer), 1);
      return update[0];
    } catch {
      return null;
    }
  }

  /**
   * The kernel's workers for calls on files that may wait: by default no more than four a CPU, which one disk on a server
   * that hangs would fill with its reads, and the next disk's flush would wait behind them.
   */
  #allowWorkers(): void {
    try {
      ioUringRegister(
        this.fd,
        Register.maxWorkers,
        new Uint8Array(new Uint32Array([MAX_WORKERS, 0]).buffer),
        2,
      );
    } catch {
      // Before Linux 5.15.
    }
  }

  #reserveFiles(count: number): void {
    if (!this.#reserve(Register.files2, count)) return;
    for (let slot = count - 1; slot >= 0; slot--) this.#freeFiles.push(slot);
  }

  /**
   * A table of empty slots, where a slot that is emptied drops its file or buffer at once (6.13): before, the kernel
   * did that when it liked, and a disk that was let go stayed locked for a while. False where there is none.
   */
  #reserve(operation: typeof Register.files2 | typeof Register.buffers2, count: number): boolean {
    const [version, patchlevel] = release().split(".").map(Number);
    if (count === 0 || version < 6 || (version === 6 && patchlevel < 13)) return false;
    // struct io_uring_rsrc_register: u32 nr, u32 flags, u64 reserved, u64 data, u64 tags.
    const table = new Uint32Array([count, RSRC_REGISTER_SPARSE, 0, 0, 0, 0, 0, 0]);
    try {
      ioUringRegister(this.fd, operation, new Uint8Array(table.buffer), table.byteLength);
      return true;
    } catch {
      // More than the process may have open (RLIMIT_NOFILE): descriptors, and plain addresses, do as well.
      return false;
    }
  }

  #updateFile(slot: number, fd: number): void {
    const fds = new Int32Array([fd]);
    const address = addressOf(new Uint8Array(fds.buffer));
    // struct io_uring_files_update: u32 offset, u32 reserved, u64 address of descriptors.
    const update = new Uint32Array([slot, 0, address % TWO_TO_32, Math.floor(address / TWO_TO_32)]);
    ioUringRegister(this.fd, Register.filesUpdate, new Uint8Array(update.buffer), 1);
  }
}

/** io_uring_setup with what the kernel knows of what helps. */
function setUp(submissions: number, completions: number, polled: boolean, params: Uint32Array): number {
  const common = Setup.cqSize | Setup.clamp | Setup.submitAll;
  for (const flags of [
    common | (polled ? 0 : Setup.singleIssuer | Setup.deferTaskrun | Setup.taskrunFlag),
    common,
    Setup.cqSize | Setup.clamp,
  ]) {
    params.fill(0);
    params[Params.flags] = flags;
    params[Params.cqEntries] = completions;
    try {
      return ioUringSetup(submissions, new Uint8Array(params.buffer));
    } catch (error) {
      if ((error as SystemError).errno !== EINVAL) throw error;
    }
  }
  throw new SystemError("io_uring_setup", EINVAL);
}

/** Errors of a call that are over when it is made again, after the completions were taken. */
function isPassing(errno: number): boolean {
  const { EINTR, EAGAIN, EBUSY, ETIME } = constants.errno;
  return errno === EINTR || errno === EAGAIN || errno === EBUSY || errno === ETIME;
}
