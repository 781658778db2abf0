/**
 * Writes down what a ring's guest, grant table and disk do to the core, as a session that players read (docs/session.md).
 * A recording begins at a moment when nothing is in flight and no page is mapped: then the core is as if it had just been
 * attached at this place of the ring. It consists of whole passes, so that it can end behind any of them.
 */
import * as abi from "../../assembly/abi.js";
import * as format from "../../assembly/session/format.js";
import type { BlkifCore } from "../core/blkif.js";
import { encodeHeader, encodeRecord, join, type SessionRecord } from "../session/file.js";
import type { ObservationQueue } from "./observation.js";
import { CallReader, type RingObserver } from "./observer.js";

interface Page {
  readonly gref: number;
  readonly bytes: Uint8Array;
}

export class Recorder implements RingObserver {
  readonly wantsRest = true;
  readonly #queue: ObservationQueue;
  #core!: BlkifCore;
  #reader!: CallReader;
  #stride = 0;
  /** Slots of the I/Os under way, oldest first. */
  readonly #underWay: number[] = [];
  /** rsp_event, as the player has it. */
  #rspEvent = 0;
  /** The budget of a pass, as the player has it. */
  #segments = 0;
  #bytes = 0;
  #halted = false;
  #over = false;

  // Of the present pass.
  #completions: SessionRecord[] = [];
  #requests: SessionRecord[] = [];
  #pages: Page[] = [];
  #faults: SessionRecord[] = [];
  /** Grant operations so far. */
  #operations = 0;
  /** Pages that the player remembers, those that it forgets first in front. */
  readonly #remembered = new Set<number>();

  constructor(queue: ObservationQueue) {
    this.#queue = queue;
  }

  begin(core: BlkifCore): void {
    this.#core = core;
    this.#reader = new CallReader(core);
    this.#queue.begin();
    const { features, sectorSize, maxIndirect, maxPersistent, domid, maxIo, sectors } = core;
    const { layout, passSegments, passBytes, rspProdPvt: start } = core;
    this.#stride = layout === abi.ABI_X86_32 ? 108 : 112;
    this.#rspEvent = (start + 1) >>> 0;
    const header = encodeHeader({
      abi: layout,
      ringPages: core.entries / 32,
      spoilt: 0,
      // Each pass of the player takes what one of ours took.
      batch: abi.MAX_SLOTS,
      ahead: 0,
      ...{ features, sectorSize, maxIndirect, maxPersistent, domid, maxIo, sectors },
      ...{ start, passSegments, passBytes },
    });
    this.#segments = passSegments;
    this.#bytes = passBytes;
    this.#write([header]);
  }

  passBegins(completions: number): void {
    const core = this.#core;
    this.#completions = [];
    this.#requests = [];
    this.#pages = [];
    this.#faults = [];
    this.#operations = 0;
    for (let i = 0; i < completions; i++) {
      const which = this.#underWay.indexOf(core.completionSlot(i));
      this.#underWay.splice(which, 1);
      this.#completions.push({ kind: "complete", which, result: core.completionResult(i) });
    }
    const { passSegments: segments, passBytes: bytes, rspEvent } = core;
    if (segments !== this.#segments || bytes !== this.#bytes) {
      this.#segments = segments;
      this.#bytes = bytes;
      this.#completions.push({ kind: "budget", segments, bytes });
    }
    if (rspEvent === this.#rspEvent) return;
    this.#rspEvent = rspEvent;
    this.#completions.push({ kind: "index", which: 3, value: rspEvent });
  }

  stepped(): void {
    for (const slot of this.#reader.read().taken)
      this.#requests.push({ kind: "request", entry: this.#core.requestBytes(slot).slice(0, this.#stride) });
  }

  granted(flags: number): void {
    if (flags & abi.STEP_MAP) {
      for (let i = 0; i < this.#core.maps; i++) this.#noteStatus(this.#core.mapStatus(i));
    }
    if (flags & abi.STEP_COPY) for (let i = 0; i < this.#core.copies; i++) this.#noteCopy(i);
  }

  /** A grant operation that failed, fails in the player. */
  #noteStatus(status: number): void {
    if (status !== 0) this.#faults.push({ kind: "fault", distance: this.#operations, status });
    this.#operations++;
  }

  /** The player needs to know what the pages of indirect requests held; no other page's content matters to the core. */
  #noteCopy(i: number): void {
    const core = this.#core;
    const status = core.copyStatus(i);
    this.#noteStatus(status);
    if (status !== 0) return;
    const { toGuest, gref, offset, length } = core.copy(i);
    if (toGuest || offset !== core.segmentsOf(core.copySlot(i))) return;
    this.#pages.push({ gref, bytes: core.memory.u8.slice(offset, offset + length) });
  }

  passEnds(flags: number): void {
    if (this.#over) return;
    if (this.#faults.length > format.MAX_FAULTS) {
      this.end(`more than ${format.MAX_FAULTS} grant operations failed in one pass`);
      return;
    }
    const records = [...this.#completions, ...this.#requests];
    if (this.#requests.length > 0) records.push({ kind: "push" });
    records.push(...this.#pageRecords(), ...this.#faults);
    if (flags & abi.STEP_HALTED && !this.#halted) {
      this.#halted = true;
      records.push({ kind: "index", which: 0, value: this.#core.reqProd });
    }
    this.#write([...records, { kind: "step" as const }].map(encodeRecord));
    const ios = flags & abi.STEP_IO ? this.#core.ios : 0;
    for (let i = 0; i < ios; i++) this.#underWay.push(this.#core.ioSlot(i));
  }

  /** What the pass has read of the guest's pages. The player must still remember all of it in the end. */
  #pageRecords(): SessionRecord[] {
    const records: SessionRecord[] = [];
    for (let missing = this.#pages; missing.length > 0; ) {
      for (const { gref, bytes } of missing) {
        records.push({ kind: "page", gref, offset: 0, bytes });
        if (!this.#remembered.has(gref) && this.#remembered.size === format.MAX_CONTENTS) {
          const [oldest] = this.#remembered;
          this.#remembered.delete(oldest);
        }
        this.#remembered.add(gref);
      }
      missing = missing.filter(({ gref }) => !this.#remembered.has(gref));
    }
    return records;
  }

  trimmed(now: number): void {
    this.#write([encodeRecord({ kind: "trim", now })]);
  }

  resized(sectors: number): void {
    this.#write([encodeRecord({ kind: "resize", sectors })]);
  }

  end(why: string): void {
    this.#over = true;
    this.#queue.end(why);
  }

  #write(parts: readonly ArrayLike<number>[]): void {
    if (this.#over) return;
    if (!this.#queue.write(join(parts))) this.end("the guest was faster than the recording could be written");
  }
}
