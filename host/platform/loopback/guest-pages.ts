/** The guest's side of its memory and its grant table: which frames and grant references are free. */
import { type LinearMemory, PAGE_SIZE } from "../../core/memory.js";
import { viewBytes } from "../libc.js";
import { type MappedFile, mapFile } from "../mapping.js";
import type { GuestPages } from "../ports.js";
import {
  frameOf,
  GNTTAB_BYTES,
  GNTTAB_ENTRIES,
  Gtf,
  isFree,
  RESERVED_ENTRIES,
  revokeEntry,
  writeEntry,
} from "./gnttab.js";
import { paths } from "./layout.js";
import { MAPTRACK_BYTES, Maptrack } from "./maptrack.js";

export class LoopbackGuestPages implements GuestPages {
  readonly domid: number;
  readonly memory: LinearMemory;
  readonly bytes: Uint8Array;
  readonly #memoryFile: MappedFile;
  readonly #gnttab: MappedFile;
  readonly #entries: Int32Array;
  readonly #release: () => Promise<void>;
  /** A byte a frame, 1 when taken. Frame 0 is never given out, so that a cleared entry names nobody's page. */
  readonly #taken: Uint8Array;
  readonly #freeRefs: number[] = [];
  readonly #granted = new Uint8Array(GNTTAB_ENTRIES);
  #next = 1;

  /** `release` lets another process be the guest. */
  constructor(directory: string, domid: number, release: () => Promise<void>) {
    const maptrack = mapFile(paths.maptrack(directory, domid), MAPTRACK_BYTES);
    const { pages } = new Maptrack(maptrack.memory.i32);
    maptrack.close();
    this.domid = domid;
    this.#release = release;
    this.#memoryFile = mapFile(paths.memory(directory, domid), pages * PAGE_SIZE);
    this.#gnttab = mapFile(paths.gnttab(directory, domid), GNTTAB_BYTES);
    this.memory = this.#memoryFile.memory;
    this.bytes = new Uint8Array(viewBytes(this.memory.base, pages * PAGE_SIZE));
    this.#entries = this.#gnttab.memory.i32;
    this.#taken = new Uint8Array(pages);
    this.#taken[0] = 1;
    this.#takeOver();
  }

  allocate(count: number): number {
    const frame = this.#findRun(count, this.#next) ?? this.#findRun(count, 1);
    if (frame === null) {
      throw new Error(`domain ${this.domid} has no ${count} consecutive pages left: give it more memory`);
    }
    this.#taken.fill(1, frame, frame + count);
    this.#next = frame + count;
    return frame;
  }

  free(frame: number, count: number): void {
    this.#taken.fill(0, frame, frame + count);
  }

  grant(domid: number, frame: number, readOnly: boolean): number {
    const ref = this.#freeRefs.pop();
    if (ref === undefined) throw new Error(`domain ${this.domid} has all ${GNTTAB_ENTRIES} grants in use`);
    this.#granted[ref] = 1;
    writeEntry(
      this.#entries,
      ref,
      domid,
      frame,
      readOnly ? Gtf.permitAccess | Gtf.readOnly : Gtf.permitAccess,
    );
    return ref;
  }

  endAccess(ref: number): boolean {
    if (this.#granted[ref] !== 1) throw new Error(`domain ${this.domid}: grant ${ref} is not in use`);
    if (!revokeEntry(this.#entries, ref)) return false;
    this.#granted[ref] = 0;
    this.#freeRefs.push(ref);
    return true;
  }

  async close(): Promise<void> {
    this.#memoryFile.close();
    this.#gnttab.close();
    await this.#release();
  }

  /** Takes back what a guest that was killed had granted; what is still in use stays out of circulation. */
  #takeOver(): void {
    for (let ref = GNTTAB_ENTRIES - 1; ref >= RESERVED_ENTRIES; ref--) {
      if (isFree(this.#entries, ref) || revokeEntry(this.#entries, ref)) this.#freeRefs.push(ref);
      else this.#taken[frameOf(this.#entries, ref)] = 1;
    }
  }

  #findRun(count: number, from: number): number | null {
    let length = 0;
    for (let frame = from; frame < this.#taken.length; frame++) {
      length = this.#taken[frame] ? 0 : length + 1;
      if (length === count) return frame - count + 1;
    }
    return null;
  }
}
