/** A domain that grants pages, as one user of its grants sees it: its memory, its grant table, our pins. */
import type { LinearMemory } from "../../core/memory.js";
import { PAGE_SIZE } from "../../core/memory.js";
import { type MappedFile, mapFile } from "../mapping.js";
import { Gntst } from "../ports.js";
import { clearUsed, frameOf, GNTTAB_BYTES, GNTTAB_ENTRIES, Gtf, markUsed } from "./gnttab.js";
import { paths } from "./layout.js";
import { MAPTRACK_BYTES, Maptrack } from "./maptrack.js";

/** Xen's bound on pins of one kind on one grant ("risk of counter overflow"). */
const TOO_MANY_PINS = 0x80;

export class ForeignDomain {
  readonly domid: number;
  readonly memory: LinearMemory;
  readonly fd: number;
  readonly #pages: number;
  readonly #files: MappedFile[];
  readonly #entries: Int32Array;
  readonly #track: Maptrack;
  readonly #user: number;
  readonly #slot: number;
  readonly #readers = new Uint8Array(GNTTAB_ENTRIES);
  readonly #writers = new Uint8Array(GNTTAB_ENTRIES);
  #pins = 0;

  /** `user` is the domain that the pins are for, `slot` its entry in the maptrack. Throws when a file is amiss. */
  constructor(directory: string, domid: number, user: number, slot: number) {
    const maptrack = mapFile(paths.maptrack(directory, domid), MAPTRACK_BYTES);
    this.#files = [maptrack];
    try {
      this.#track = new Maptrack(maptrack.memory.i32);
      this.#pages = this.#track.pages;
      const gnttab = mapFile(paths.gnttab(directory, domid), GNTTAB_BYTES);
      this.#files.push(gnttab);
      const memory = mapFile(paths.memory(directory, domid), this.#pages * PAGE_SIZE);
      this.#files.push(memory);
      this.#entries = gnttab.memory.i32;
      this.memory = memory.memory;
      this.fd = memory.fd;
    } catch (error) {
      this.close();
      throw error;
    }
    this.domid = domid;
    this.#user = user;
    this.#slot = slot;
  }

  /** The domain was destroyed: another one may have its domid now. */
  get dead(): boolean {
    return this.#track.dead;
  }

  /** Pins that {@link unpin} has not taken back. */
  get pins(): number {
    return this.#pins;
  }

  /** Pins a grant for one use; returns the GNTST_* that Xen would. Pins are counted. */
  pin(ref: number, writable: boolean, mapping: boolean): number {
    if (ref >= GNTTAB_ENTRIES) return Gntst.badGntref;
    const readers = this.#readers[ref];
    const writers = this.#writers[ref];
    if ((readers | writers) & TOO_MANY_PINS) return Gntst.generalError;
    if (writers === 0 && (writable || readers === 0)) {
      const status = this.#acquire(ref, writable, mapping);
      if (status !== Gntst.okay) return status;
    }
    if (writable) this.#writers[ref] = writers + 1;
    else this.#readers[ref] = readers + 1;
    this.#pins++;
    return Gntst.okay;
  }

  unpin(ref: number, writable: boolean): void {
    const left = writable ? --this.#writers[ref] : --this.#readers[ref];
    this.#pins--;
    if (left > 0 || this.#writers[ref] > 0) return;
    // Without the lock the pin stays until the hypervisor cleans up after this slot.
    if (!this.#track.lock(ref, this.#slot)) return;
    this.#track.unpin(this.#entries, ref, this.#slot, this.#readers[ref] > 0);
    this.#track.unlock(ref);
  }

  /** The frame of a grant that is pinned. What the guest writes into its entry afterwards changes nothing. */
  frame(ref: number): number {
    return this.#track.frame(ref);
  }

  close(): void {
    for (const file of this.#files) file.close();
  }

  #acquire(ref: number, writable: boolean, mapping: boolean): number {
    if (!this.#track.lock(ref, this.#slot)) return Gntst.generalError;
    const status = this.#acquireLocked(ref, writable, mapping);
    if (status === Gntst.okay) this.#track.pin(ref, this.#slot, writable);
    this.#track.unlock(ref);
    return status;
  }

  #acquireLocked(ref: number, writable: boolean, mapping: boolean): number {
    const track = this.#track;
    const domid = this.#user;
    const pinned = track.pinned(ref);
    if (pinned && track.domid(ref) !== domid) return Gntst.generalError;
    if (pinned && !(writable && !track.writing(ref))) return Gntst.okay;
    const status = markUsed(this.#entries, ref, domid, writable, mapping, pinned);
    if (status !== Gntst.okay || pinned) return status;
    const frame = frameOf(this.#entries, ref);
    if (frame >= this.#pages) {
      clearUsed(this.#entries, ref, Gtf.reading | Gtf.writing);
      return Gntst.badPage;
    }
    track.setUser(ref, domid, frame);
    return Gntst.okay;
  }
}
