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
import { CallReader, type RingObserver, requestBytesAt } from "./observer.js";

const TWO_TO_32 = 4294967296;
const SEGMENTS_BYTES = abi.MAX_SEGMENTS * abi.SEGMENT_BYTES;

interface Page {
  readonly gref: number;
  readonly bytes: Uint8Array;
}

export class Recorder implements RingObserver {
  readonly wantsRest = true;
  readonly #queue: ObservationQueue;
  #core!: BlkifCore;
  #reader!: CallReader;
  #u16!: Uint16Array;
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
    this.#reader = new CallReader(core.memory);
    this.#u16 = new Uint16Array(core.memory.memory.buffer);
    this.#queue.begin();
    const { u32 } = core.memory;
    const config = (field: number): number => u32[field >> 2];
    const layout = config(abi.CONFIG_ABI);
    const start = config(abi.OUT_RSP_PROD);
    this.#stride = layout === abi.ABI_X86_32 ? 108 : 112;
    this.#rspEvent = (start + 1) >>> 0;
    const header = encodeHeader({
      abi: layout,
      ringPages: config(abi.CONFIG_ENTRIES) / 32,
      features: config(abi.CONFIG_FEATURES),
      sectorSize: config(abi.CONFIG_SECTOR_UNITS) * 512,
      spoilt: 0,
      maxIndirect: config(abi.CONFIG_MAX_INDIRECT),
      maxPersistent: config(abi.CONFIG_MAX_PERSISTENT),
      // Each pass of the player takes what one of ours took.
      batch: abi.MAX_SLOTS,
      domid: config(abi.CONFIG_DOMID),
      maxIo: config(abi.CONFIG_MAX_IO),
      sectors: config(abi.CONFIG_SECTORS) + config(abi.CONFIG_SECTORS + 4) * TWO_TO_32,
      start,
      ahead: 0,
      passSegments: config(abi.CONFIG_PASS_SEGMENTS),
      passBytes: config(abi.CONFIG_PASS_BYTES),
    });
    this.#segments = config(abi.CONFIG_PASS_SEGMENTS);
    this.#bytes = config(abi.CONFIG_PASS_BYTES);
    this.#write([header]);
  }

  passBegins(completions: number): void {
    const { u32 } = this.#core.memory;
    this.#completions = [];
    this.#requests = [];
    this.#pages = [];
    this.#faults = [];
    this.#operations = 0;
    for (let i = 0; i < completions; i++) {
      const completion = u32[(abi.COMPLETIONS >> 2) + i];
      const which = this.#underWay.indexOf(completion & 0xffff);
      this.#underWay.splice(which, 1);
      this.#completions.push({ kind: "complete", which, result: completion >>> 16 });
    }
    const segments = u32[abi.CONFIG_PASS_SEGMENTS >> 2];
    const bytes = u32[abi.CONFIG_PASS_BYTES >> 2];
    if (segments !== this.#segments || bytes !== this.#bytes) {
      this.#segments = segments;
      this.#bytes = bytes;
      this.#completions.push({ kind: "budget", segments, bytes });
    }
    const rspEvent = u32[abi.SRING_RSP_EVENT >> 2];
    if (rspEvent === this.#rspEvent) return;
    this.#rspEvent = rspEvent;
    this.#completions.push({ kind: "index", which: 3, value: rspEvent });
  }

  stepped(): void {
    const { u8 } = this.#core.memory;
    for (const slot of this.#reader.read().taken) {
      const at = requestBytesAt(slot);
      this.#requests.push({ kind: "request", entry: u8.slice(at, at + this.#stride) });
    }
  }

  granted(flags: number): void {
    if (flags & abi.STEP_MAP) {
      for (let i = 0; i < this.#core.maps; i++) {
        this.#noteStatus(abi.MAPS + i * abi.MAP_BYTES + abi.MAP_STATUS);
      }
    }
    if (flags & abi.STEP_COPY) for (let i = 0; i < this.#core.copies; i++) this.#noteCopy(i);
  }

  /** A grant operation that failed, fails in the player. The status lies at `at`. */
  #noteStatus(at: number): number {
    const status = (this.#u16[at >> 1] << 16) >> 16;
    if (status !== 0) this.#faults.push({ kind: "fault", distance: this.#operations, status });
    this.#operations++;
    return status;
  }

  /** The player needs to know what the pages of indirect requests held; no other page's content matters to the core. */
  #noteCopy(i: number): void {
    const { u8, u32, base } = this.#core.memory;
    const at = abi.COPIES + i * abi.COPY_BYTES;
    if (this.#noteStatus(at + abi.COPY_STATUS) !== 0) return;
    if (this.#u16[(at + abi.COPY_FLAGS) >> 1] !== abi.COPY_SOURCE_GREF) return;
    const destination = (at + abi.COPY_DEST) >> 2;
    const local = u32[destination] + u32[destination + 1] * TWO_TO_32 - base;
    const slot = this.#u16[(abi.COPY_OWNERS >> 1) + i];
    if (local !== abi.SEGMENTS + slot * SEGMENTS_BYTES) return;
    const length = this.#u16[(at + abi.COPY_LENGTH) >> 1];
    this.#pages.push({ gref: u32[(at + abi.COPY_SOURCE) >> 2], bytes: u8.slice(local, local + length) });
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
      records.push({ kind: "index", which: 0, value: this.#core.memory.u32[abi.SRING_REQ_PROD >> 2] });
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
