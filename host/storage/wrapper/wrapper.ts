/**
 * What all wrappers have in common: a disk that stands before another one and does all as that does, but for what a
 * wrapper changes in {@link Wrapper.operate}.
 */
import type { IoOperation } from "../../core/blkif.js";
import type { BlockDevice, Done, IoVector, Outage } from "../device.js";
import { later, outOfReach } from "../refusal.js";

export interface Operation {
  readonly name: IoOperation;
  /** Bytes; both 0 of a flush. */
  readonly position: number;
  readonly length: number;
}

/** As {@link BlockDevice} has it, with the same name for every layer: the target as it was given. */
export class Wrapper implements BlockDevice {
  readonly name: string;
  protected readonly inner: BlockDevice;
  readonly #what: string;
  #underWay = 0;
  #drained: (() => void) | null = null;
  #closed: Promise<void> | null = null;

  /** Takes the inner disk over. `what` says for people what it does, like "delay of 5 ms". */
  constructor(name: string, what: string, inner: BlockDevice) {
    this.name = name;
    this.inner = inner;
    this.#what = what;
  }

  get through(): string {
    const { through, store, name } = this.inner;
    return `${this.#what}, over ${through ?? `${store?.kind === "block" ? "block device" : "raw image"} ${name}`}`;
  }

  get bases(): readonly string[] {
    return this.inner.bases ?? [];
  }

  get outage(): Outage | null {
    return this.inner.outage ?? null;
  }

  get size(): number {
    return this.inner.size;
  }

  get sectorSize(): number {
    return this.inner.sectorSize;
  }

  get physicalSectorSize(): number {
    return this.inner.physicalSectorSize;
  }

  get readOnly(): boolean {
    return this.inner.readOnly;
  }

  get canDiscard(): boolean {
    return this.inner.canDiscard;
  }

  get canSecureDiscard(): boolean {
    return this.inner.canSecureDiscard;
  }

  get discardGranularity(): number {
    return this.inner.discardGranularity;
  }

  get discardAlignment(): number {
    return this.inner.discardAlignment;
  }

  /** What a wrapper keeps back ends with the process. What it has passed on is the inner disk's to fence. */
  get fenced(): boolean {
    return this.inner.fenced !== false;
  }

  get volatile(): boolean {
    return this.inner.volatile === true;
  }

  get flushErrno(): number {
    return this.inner.flushErrno ?? 0;
  }

  set flushErrno(errno: number) {
    this.inner.flushErrno = errno;
  }

  read(position: number, to: IoVector, done: Done): void {
    this.#begin("read", position, to.bytes, done, (end) => this.inner.read(position, to, end));
  }

  write(position: number, from: IoVector, done: Done): void {
    this.#begin("write", position, from.bytes, done, (end) => this.inner.write(position, from, end));
  }

  flush(done: Done): void {
    this.#begin("flush", 0, 0, done, (end) => this.inner.flush(end));
  }

  discard(position: number, length: number, secure: boolean, done: Done): void {
    this.#begin("discard", position, length, done, (end) =>
      this.inner.discard(position, length, secure, end),
    );
  }

  refreshSize(): Promise<boolean> {
    return this.inner.refreshSize();
  }

  setDelays(enabled: boolean): void {
    this.inner.setDelays?.(enabled);
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  /**
   * An operation that is in reach: calls `start`, now or later, with `done` or a function that calls it in the end; or
   * only `done`, but not before this has returned. Each is called once.
   */
  protected operate(_operation: Operation, start: (done: Done) => void, done: Done): void {
    start(done);
  }

  /** The last thing of all; nothing is under way. */
  protected letGo(): Promise<void> {
    return this.inner.close();
  }

  #begin(name: IoOperation, position: number, length: number, done: Done, start: (done: Done) => void): void {
    const refusal = outOfReach(this, this.#closed !== null, name, position, length);
    if (refusal) {
      later(done, refusal);
      return;
    }
    this.#underWay++;
    this.operate({ name, position, length }, start, (result, error) => {
      if (--this.#underWay === 0) this.#drained?.();
      done(result, error);
    });
  }

  async #close(): Promise<void> {
    if (this.#underWay > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
    await this.letGo();
  }
}
