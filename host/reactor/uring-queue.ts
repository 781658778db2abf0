/**
 * I/Os of a ring straight from the core's table into an io_uring: plain reads and writes, that is nearly all, without
 * an object for any of them. What is not plain, or ends oddly, goes the way of {@link DeviceQueue}, which has patience.
 */
import { IO_READ, IO_WRITE } from "../../assembly/abi.js";
import type { BlkifCore } from "../core/blkif.js";
import { isDirect } from "../platform/libc.js";
import { Result } from "../storage/device.js";
import type { RawDevice } from "../storage/raw.js";
import { isTransient } from "../storage/transfer.js";
import { ASYNC, Op } from "../storage/uring/abi.js";
import {
  type CompletionQueue,
  QUEUE_KIND,
  queueUserData,
  type UringEngine,
} from "../storage/uring/engine.js";
import type { Uring } from "../storage/uring/ring.js";
import type { Activity } from "./activity.js";
import { DeviceQueue } from "./device-queue.js";
import { FixedPages } from "./fixed-pages.js";
import { PART_BESIDE_SMALL, partAmong } from "./gate.js";
import type { IoOwner, IoQueue } from "./io-queue.js";

const TWO_TO_32 = 4294967296;
const SECTOR_SHIFT = 9;
/**
 * What is in the page cache the kernel copies at once, in the thread that asks for it. Where others wait for this thread,
 * larger I/Os than this one are left to another thread of the kernel's.
 */
const CACHED_BYTES = 128 << 10;

export class UringQueue implements IoQueue, CompletionQueue {
  readonly #engine: UringEngine;
  readonly #ring: Uring;
  readonly #device: RawDevice;
  readonly #owner: IoOwner;
  readonly #others: DeviceQueue;
  readonly #number: number;
  readonly #base: number;
  readonly #core: BlkifCore;
  readonly #u32: Uint32Array;
  readonly #fileFlags: number;
  readonly #fd: number;
  readonly #fixed: FixedPages | null;
  readonly #activity: Activity;
  readonly #direct: boolean;

  /** The device must have been made with this engine; both stay the caller's. */
  constructor(engine: UringEngine, device: RawDevice, core: BlkifCore, owner: IoOwner, activity: Activity) {
    this.#engine = engine;
    this.#activity = activity;
    this.#ring = engine.ring;
    this.#device = device;
    this.#owner = owner;
    this.#others = new DeviceQueue(device, core, owner);
    this.#base = core.memory.base;
    this.#core = core;
    this.#u32 = core.memory.u32;
    const { flags, fd } = engine.fileOf(device.store.fd);
    this.#fileFlags = flags;
    this.#fd = fd;
    this.#number = engine.addQueue(this);
    this.#direct = isDirect(device.store.fd);
    this.#fixed = this.#direct ? FixedPages.take(engine, core.memory) : null;
  }

  start(slot: number): void {
    const u32 = this.#u32;
    const core = this.#core;
    const operation = core.ioOperation(slot);
    const length = core.ioBytes(slot);
    const sectorLow = core.ioSectorLow(slot);
    const sectorHigh = core.ioSectorHigh(slot);
    const write = operation === IO_WRITE;
    const plain = (write || operation === IO_READ) && core.ioFlags(slot) === 0;
    const end = (sectorLow + sectorHigh * TWO_TO_32) * 512 + length;
    const count = core.ioEntries(slot);
    const long = this.#isLong(length, count);
    if (!plain || !this.#device.admits(write, end) || (long && this.#direct)) {
      this.#others.start(slot);
      return;
    }
    this.#engine.underWay++;
    const table = core.ioTable(slot);
    // One piece of memory needs no vector: what its only iovec says stands in the entry itself.
    const single = count === 1;
    const vector = this.#base + table;
    const vectorHigh = Math.floor(vector / TWO_TO_32);
    const buffer = single && this.#fixed !== null ? this.#fixed.slotOf(u32[table >> 2], length) : -1;
    this.#ring.prepare(
      operationOf(write, single, buffer >= 0) | this.#fileFlags | (long ? ASYNC : 0),
      this.#fd,
      sectorLow << SECTOR_SHIFT,
      (sectorHigh << SECTOR_SHIFT) | (sectorLow >>> (32 - SECTOR_SHIFT)),
      single ? u32[table >> 2] : vector - vectorHigh * TWO_TO_32,
      single ? u32[(table >> 2) + 1] : vectorHigh,
      single ? length : count,
      0,
      queueUserData(this.#number, slot),
      QUEUE_KIND,
      Math.max(buffer, 0),
    );
  }

  /** Whether an I/O is to be done in parts, or by another thread. */
  #isLong(length: number, count: number): boolean {
    if (!this.#direct) return length > CACHED_BYTES && this.#activity.shared;
    if (length <= PART_BESIDE_SMALL.bytes && count <= PART_BESIDE_SMALL.entries) return false;
    const { bytes, entries } = partAmong(this.#activity);
    return length > bytes || count > entries;
  }

  completed(slot: number, result: number): void {
    this.#engine.underWay--;
    const core = this.#core;
    const length = core.ioBytes(slot);
    if (result === length) {
      this.#owner.ended(slot, Result.Success);
      return;
    }
    if (result >= 0 || isTransient(-result)) {
      // Cut short, or put off: all of it again, as it may be done in parts.
      this.#others.start(slot);
      return;
    }
    const write = core.ioOperation(slot) === IO_WRITE;
    const outcome = this.#device.failure(write, core.ioPosition(slot), length, -result);
    this.#owner.ended(slot, outcome.result, outcome.error);
  }

  mapped(page: number, count: number): void {
    this.#fixed?.mapped(page, count);
  }

  unmapping(page: number, count: number): void {
    this.#fixed?.unmapping(page, count);
  }

  close(): void {
    this.#fixed?.close();
    this.#engine.removeQueue(this.#number);
  }
}

function operationOf(write: boolean, single: boolean, fixed: boolean): number {
  if (fixed) return write ? Op.writeFixed : Op.readFixed;
  if (single) return write ? Op.write : Op.read;
  return write ? Op.writev : Op.readv;
}
