/**
 * Who has a domain's grants in use: what Xen keeps as active entries and maptrack, in `domains/<N>/maptrack`.
 *
 * One line of 64 bytes for each grant reference, behind one line for the domain:
 *
 * | word | of a reference | of the domain |
 * | ---- | -------------- | ------------- |
 * | 0 | lock: the slot that holds it + 1, or 0 | references below this one were ever in use |
 * | 1 | the domain that uses the grant | 1 when the domain is destroyed |
 * | 2 | the frame that it got | pages in the domain's memory |
 * | 4–9 | a bit for each slot: it uses the grant | |
 * | 10–15 | a bit for each slot: it uses the grant for writing | |
 *
 * A slot is an open grant table of one process. That a slot has one bit, and counts for itself how often it
 * pinned a grant, is what makes a killed process easy to clean up after: the hypervisor takes its bits and the
 * locks that it held, wherever it stood, and puts the guest's entry in step with what is left.
 */
import { clearUsed, GNTTAB_ENTRIES, Gtf } from "./gnttab.js";

const WORDS_PER_LINE = 16;
export const MAPTRACK_BYTES = (GNTTAB_ENTRIES + 1) * WORDS_PER_LINE * 4;

const LOCK = 0;
const DOMID = 1;
const FRAME = 2;
const PINNED = 4;
const WRITING = 10;
const SLOT_WORDS = 6;
export const SLOTS = SLOT_WORDS * 32;

const LIMIT = 0;
const DEAD = 1;
const PAGES = 2;

/** Not a slot: the hypervisor, when it cleans up. */
const HYPERVISOR = 0xffff;

const SPINS = 200;
const NAP_MS = 0.05;
const NAPS = 8000;
const nap = new Int32Array(new SharedArrayBuffer(4));

export class Maptrack {
  readonly #words: Int32Array;

  constructor(words: Int32Array) {
    this.#words = words;
  }

  get pages(): number {
    return Atomics.load(this.#words, PAGES) >>> 0;
  }

  set pages(count: number) {
    Atomics.store(this.#words, PAGES, count);
  }

  /** Read plainly, as below where a stale value does no harm: atomics cost more than all the rest of a pin. */
  get dead(): boolean {
    return this.#words[DEAD] !== 0;
  }

  markDead(): void {
    Atomics.store(this.#words, DEAD, 1);
  }

  /**
   * Locks a reference. Holders are done within a microsecond; one that the scheduler has stopped is waited for,
   * and one that was killed loses its lock to the hypervisor. False after about a second.
   */
  lock(ref: number, slot: number): boolean {
    if (this.#words[LIMIT] <= ref) this.#raiseLimit(ref + 1);
    const at = line(ref) + LOCK;
    for (let tries = 0; tries < SPINS + NAPS; tries++) {
      if (Atomics.compareExchange(this.#words, at, 0, slot + 1) === 0) return true;
      if (tries >= SPINS) Atomics.wait(nap, 0, 0, NAP_MS);
    }
    return false;
  }

  unlock(ref: number): void {
    Atomics.store(this.#words, line(ref) + LOCK, 0);
  }

  /** Whether anybody uses the grant; under the lock, as everything below. */
  pinned(ref: number): boolean {
    return this.#any(line(ref) + PINNED);
  }

  writing(ref: number): boolean {
    return this.#any(line(ref) + WRITING);
  }

  domid(ref: number): number {
    return this.#words[line(ref) + DOMID];
  }

  /** Stable, and readable without the lock, as long as the caller's slot has the grant pinned. */
  frame(ref: number): number {
    return this.#words[line(ref) + FRAME] >>> 0;
  }

  setUser(ref: number, domid: number, frame: number): void {
    this.#words[line(ref) + DOMID] = domid;
    this.#words[line(ref) + FRAME] = frame;
  }

  pin(ref: number, slot: number, writable: boolean): void {
    const at = line(ref) + (slot >>> 5);
    const bit = 1 << (slot & 31);
    this.#words[at + PINNED] |= bit;
    if (writable) this.#words[at + WRITING] |= bit;
  }

  /** Takes a slot's bits away, or only that for writing, and puts the guest's entry in step. */
  unpin(entries: Int32Array, ref: number, slot: number, keepReading: boolean): void {
    const at = line(ref) + (slot >>> 5);
    const mask = ~(1 << (slot & 31));
    this.#words[at + WRITING] &= mask;
    if (!keepReading) this.#words[at + PINNED] &= mask;
    this.settle(entries, ref);
  }

  /** Takes off the guest's entry whatever mark nobody stands behind. */
  settle(entries: Int32Array, ref: number): void {
    if (this.writing(ref)) return;
    clearUsed(entries, ref, this.pinned(ref) ? Gtf.writing : Gtf.writing | Gtf.reading);
  }

  /**
   * Hypervisor: takes away everything that a slot has, after its process ended. False when another process holds
   * a lock at the moment: to be called again a little later.
   */
  releaseSlot(entries: Int32Array, slot: number): boolean {
    let complete = true;
    const limit = Atomics.load(this.#words, LIMIT);
    for (let ref = 0; ref < limit; ref++) {
      const at = line(ref) + LOCK;
      const holder = Atomics.load(this.#words, at);
      const held = holder === slot + 1;
      if (!held && !this.#has(ref, slot)) continue;
      if (Atomics.compareExchange(this.#words, at, held ? holder : 0, HYPERVISOR) !== (held ? holder : 0)) {
        complete = false;
        continue;
      }
      this.unpin(entries, ref, slot, false);
      this.unlock(ref);
    }
    return complete;
  }

  /** How many grants are in use, counted once for each slot. */
  count(): number {
    let pins = 0;
    const limit = Atomics.load(this.#words, LIMIT);
    for (let ref = 0; ref < limit; ref++) {
      for (let slot = 0; slot < SLOTS; slot++) if (this.#has(ref, slot)) pins++;
    }
    return pins;
  }

  #has(ref: number, slot: number): boolean {
    return (Atomics.load(this.#words, line(ref) + PINNED + (slot >>> 5)) & (1 << (slot & 31))) !== 0;
  }

  #any(at: number): boolean {
    const w = this.#words;
    return (w[at] | w[at + 1] | w[at + 2] | w[at + 3] | w[at + 4] | w[at + 5]) !== 0;
  }

  #raiseLimit(limit: number): void {
    for (;;) {
      const now = Atomics.load(this.#words, LIMIT);
      if (now >= limit || Atomics.compareExchange(this.#words, LIMIT, now, limit) === now) return;
    }
  }
}

function line(ref: number): number {
  return (ref + 1) * WORDS_PER_LINE;
}
