/** The grant operations of one ring: its own pages, those that the core keeps mapped, and copies. */
import { MAX_PERSISTENT } from "../../assembly/abi.js";
import type { BlkifCore } from "../core/blkif.js";
import type { LinearMemory } from "../core/memory.js";
import { copyEntryAt, persistentPageAt, SHARED_RING } from "../core/windows.js";
import { Gntst, type GrantTable } from "../platform/ports.js";
import type { IoQueue } from "./io-queue.js";

export class RingGrants {
  readonly #grants: GrantTable;
  readonly #memory: LinearMemory;
  readonly #domid: number;
  readonly #ringRefs: Uint32Array;

  /** Maps the ring. Throws an Error with a clear message where that fails. */
  constructor(grants: GrantTable, memory: LinearMemory, domid: number, ringRefs: Uint32Array) {
    this.#grants = grants;
    this.#memory = memory;
    this.#domid = domid;
    this.#ringRefs = ringRefs;
    try {
      this.#mapRing();
    } catch (error) {
      this.unmapRing();
      throw error;
    }
  }

  #mapRing(): void {
    const refs = this.#ringRefs;
    const status = new Int16Array(refs.length);
    this.#grants.map(this.#memory, SHARED_RING, this.#domid, refs, true, status);
    const bad = status.findIndex((s) => s !== Gntst.okay);
    if (bad < 0) return;
    const [name] = Object.entries(Gntst).find(([, code]) => code === status[bad]) ?? ["unknown"];
    const remedy =
      status[bad] === Gntst.noDeviceSpace
        ? "; this process has the maximum number of mappings: raise vm.max_map_count, or serve with a lower --max-grants"
        : "";
    throw new Error(
      `can't map grant ref ${refs[bad]} of domain ${this.#domid}: ${name} (${status[bad]})${remedy}`,
    );
  }

  unmapRing(): void {
    this.#grants.unmap(this.#memory, SHARED_RING, this.#ringRefs.length);
  }

  /** To be called when no page of a persistent grant is used any more. */
  unmapAll(): void {
    this.#grants.unmap(this.#memory, persistentPageAt(0), MAX_PERSISTENT);
    this.unmapRing();
  }

  /** Carries out `count` copies of the core's table from entry `first` on. */
  copy(first: number, count: number): void {
    this.#grants.copy(this.#memory, copyEntryAt(first), count);
  }

  /** Maps what the core asks for, pages that are neighbours in one call. */
  map(core: BlkifCore, queue: IoQueue): void {
    const count = core.maps;
    for (let start = 0; start < count; ) {
      const { page } = core.map(start);
      let end = start + 1;
      while (end < count && core.map(end).page === page + (end - start)) end++;
      const refs = new Uint32Array(end - start);
      for (let i = 0; i < refs.length; i++) refs[i] = core.map(start + i).gref;
      const status = new Int16Array(refs.length);
      const at = persistentPageAt(page);
      queue.unmapping?.(page, refs.length);
      this.#grants.map(this.#memory, at, this.#domid, refs, true, status);
      if (status.every((s) => s === Gntst.okay)) queue.mapped?.(page, refs.length);
      for (let i = 0; i < refs.length; i++) core.setMapStatus(start + i, status[i]);
      start = end;
    }
  }

  /** Unmaps pages of persistent grants, neighbours in one call. */
  drop(dropped: readonly number[], queue: IoQueue): void {
    const pages = [...dropped].sort((a, b) => a - b);
    for (let start = 0; start < pages.length; ) {
      let end = start + 1;
      while (end < pages.length && pages[end] === pages[start] + (end - start)) end++;
      queue.unmapping?.(pages[start], end - start);
      this.#grants.unmap(this.#memory, persistentPageAt(pages[start]), end - start);
      start = end;
    }
  }
}
