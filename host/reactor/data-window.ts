/**
 * Gives the pages of a ring's data window back to the kernel while no request needs them. A ring that copies touches more
 * and more of its window, up to 86 MiB, and would keep all of it for as long as its guest is connected.
 *
 * Only private copies are given back, and the tables that requests in flight alone use; never the journal, the core's
 * state, or pages of the guest's. The window is private memory of this process, unless it is shared with a vhost-user
 * server: then it takes a hole (MADV_REMOVE), as MADV_DONTNEED drops this process's view of it alone.
 */
import type { RingView } from "../core/ring-view.js";
import { DATA_WINDOW, SCRATCH_TABLES } from "../core/windows.js";
import { discardPages } from "../platform/libc.js";

/** Bytes that are given back in one call, which takes up to 0.3 ms: other rings of the thread wait for it. */
const PORTION = 4 << 20;

export class DataWindow {
  readonly #ring: RingView;
  readonly #base: number;
  readonly #discard: (address: number, length: number) => void;
  readonly #discardData: (address: number, length: number) => void;
  /** Where the next portion begins; at the window's first the tables are given back, too. */
  #next = DATA_WINDOW.start;
  /** Nothing was in flight at any portion of this round, nor put into the window since it began. */
  #complete = true;

  /** `ring` is that of a core that has attached; `discardData` is for the window alone. */
  constructor(ring: RingView, discard = discardPages, discardData = discard) {
    this.#ring = ring;
    this.#base = ring.memory.base;
    this.#discard = discard;
    this.#discardData = discardData;
  }

  /** To be called when something was copied by way of the window. */
  used(): void {
    this.#complete = false;
  }

  /**
   * Gives a portion back, all but what requests in flight use; to be called between calls of step(), also in the midst of
   * a pass. "more": there are other portions; "empty": that was the last one, and the window holds nothing; "kept": it was
   * the last, and it may hold some.
   */
  giveBack(): "more" | "empty" | "kept" {
    const from = this.#next;
    if (from === DATA_WINDOW.start) {
      this.#complete = true;
      this.#discardTables();
    }
    const to = Math.min(from + PORTION, DATA_WINDOW.end);
    this.#discardBetween(from, to);
    const last = to === DATA_WINDOW.end;
    this.#next = last ? DATA_WINDOW.start : to;
    if (!last) return "more";
    return this.#complete ? "empty" : "kept";
  }

  #discardTables(): void {
    if (this.#ring.inflight > 0) return;
    const { start, end } = SCRATCH_TABLES;
    this.#discard(this.#base + start, end - start);
  }

  #discardBetween(from: number, to: number): void {
    let at = from;
    for (const { start, end } of this.#ring.dataInFlight()) {
      if (end <= at) continue;
      if (start >= to) break;
      this.#complete = false;
      if (start > at) this.#discardData(this.#base + at, start - at);
      at = end;
    }
    if (at < to) this.#discardData(this.#base + at, to - at);
  }
}
