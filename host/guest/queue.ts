/** One ring of a disk with its event channel and its pages. */
import { type LinearMemory, PAGE_SIZE } from "../core/memory.js";
import type { EventChannels, GuestPages } from "../platform/ports.js";
import { PortDispatcher, type PortHandler } from "./events.js";
import { PagePool } from "./grants.js";
import {
  type Layout,
  MAX_INDIRECT_PAGES,
  MAX_SEGMENTS,
  Op,
  Rsp,
  SECTOR,
  SECTORS_PER_PAGE,
  SEGMENT_BYTES,
  SEGMENTS_PER_INDIRECT_PAGE,
  writeDirect,
  writeDiscard,
  writeIndirect,
  writeSegment,
  writeU64,
} from "./layout.js";
import type { Channel } from "./negotiate.js";
import type { FrontRing } from "./ring.js";
import { DiskError, type RawRequest, type Transfer } from "./transfer.js";

const TWO_TO_32 = 4294967296;

/** Totals over all queues and connections of a disk. */
export interface Counters {
  requests: number;
  responses: number;
  segments: number;
  notificationsSent: number;
  notificationsReceived: number;
}

export interface QueueSettings {
  readonly layout: Layout;
  readonly handle: number;
  readonly backendDomid: number;
  /** Segments of one READ or WRITE; more than 11 go by way of INDIRECT. */
  readonly maxSegments: number;
  readonly persistent: boolean;
  /** Pages for data in flight, if the guest has so many. */
  readonly poolPages: number;
}

/** The disk that a queue belongs to. */
export interface QueueOwner {
  readonly counters: Counters;
  /** A request of this transfer was answered. */
  answered(transfer: Transfer): void;
  /** All responses that were there have been handled. */
  roomMade(): void;
  /** The backend broke the protocol. */
  broke(error: Error): void;
}

/**
 * So many requests become visible at once while more are being made: the backend starts on them meanwhile, and still has
 * neighbours to put together.
 */
const PUSH_BATCH = 8;

const indirectPages = (segments: number): number => Math.ceil(segments / SEGMENTS_PER_INDIRECT_PAGE);

export class Queue implements PortHandler {
  readonly channel: Channel;
  readonly #owner: QueueOwner;
  readonly #events: EventChannels;
  readonly #memory: LinearMemory;
  readonly #data: Uint8Array;
  readonly #settings: QueueSettings;
  readonly #ring: FrontRing;
  readonly #pool: PagePool;

  /** By id: the transfer, which part of its data, and the pages (data first, then indirect) in a row of its own. */
  readonly #transfers: (Transfer | null)[];
  readonly #offsets: Float64Array;
  readonly #bytes: Uint32Array;
  readonly #pageCounts: Uint16Array;
  readonly #pages: Uint32Array;
  readonly #pagesPerRow: number;
  readonly #onResponse = (id: number, status: number) => this.#answered(id, status);

  /** Throws when the guest has too little memory for one request. Events are handled from now on. */
  constructor(
    owner: QueueOwner,
    pages: GuestPages,
    events: EventChannels,
    channel: Channel,
    settings: QueueSettings,
  ) {
    this.#owner = owner;
    this.#events = events;
    this.#memory = pages.memory;
    this.#data = pages.bytes;
    this.#settings = settings;
    this.channel = channel;
    const { backendDomid, poolPages, persistent, maxSegments } = settings;
    this.#ring = channel.ring;
    this.#pagesPerRow = Math.max(maxSegments + indirectPages(maxSegments), MAX_INDIRECT_PAGES);
    this.#pool = new PagePool(pages, backendDomid, poolPages, this.#pagesPerRow, persistent);
    const { entries } = this.#ring;
    this.#transfers = new Array(entries).fill(null);
    this.#offsets = new Float64Array(entries);
    this.#bytes = new Uint32Array(entries);
    this.#pageCounts = new Uint16Array(entries);
    this.#pages = new Uint32Array(entries * this.#pagesPerRow);
    PortDispatcher.of(events).add(channel.port, this);
  }

  /** Requests without a response. */
  get waiting(): number {
    return this.#ring.waiting;
  }

  /**
   * Puts the next part of a transfer into a request. False when there is no room; it is to be tried again after
   * a response. The request is visible after {@link push}, or at once when it filled the ring.
   * Throws when the grant table is full.
   */
  issue(transfer: Transfer): boolean {
    if (this.#ring.free === 0) return false;
    const issued = transfer.raw
      ? this.#issueRaw(transfer, transfer.raw)
      : transfer.operation === Op.discard
        ? this.#issueDiscard(transfer)
        : this.#issueData(transfer);
    if (!issued) return false;
    transfer.outstanding++;
    this.#owner.counters.requests++;
    if (this.#ring.free === 0 || this.#ring.unpushed >= PUSH_BATCH) this.push();
    return true;
  }

  /** Makes the requests visible and tells the backend if it wants to know. */
  push(): void {
    if (!this.#ring.push()) return;
    this.#owner.counters.notificationsSent++;
    this.#events.notify(this.channel.port);
  }

  /** Handles no response any more. Returns whom one is owed, once for each request; pages stay untouched until {@link release}. */
  abandon(): Transfer[] {
    PortDispatcher.of(this.#events).remove(this.channel.port);
    return this.#transfers.filter((transfer) => transfer !== null);
  }

  /** Takes the data pages back; returns how many the backend still has mapped. */
  release(): number {
    PortDispatcher.of(this.#events).remove(this.channel.port);
    return this.#pool.release();
  }

  #issueData(transfer: Transfer): boolean {
    const { layout, handle, maxSegments } = this.#settings;
    const { operation } = transfer;
    const position = transfer.position + transfer.issued;
    // Data lies in its page as it lies on the disk, as from a page cache: the first segment starts anywhere.
    const lead = position % PAGE_SIZE;
    const most = operation === Op.read || operation === Op.write ? maxSegments : MAX_SEGMENTS;
    const bytes = Math.min(transfer.length - transfer.issued, most * PAGE_SIZE - lead);
    const segments = bytes === 0 ? 0 : Math.ceil((lead + bytes) / PAGE_SIZE);
    const indirect = segments > MAX_SEGMENTS;
    const id = this.#ring.nextId;
    if (!this.#takePages(id, segments, indirect ? indirectPages(segments) : 0, operation !== Op.read))
      return false;

    const at = this.#ring.produce(operation);
    if (indirect) writeIndirect(this.#memory, at, layout, operation, segments, handle);
    else writeDirect(this.#memory, at, operation, segments, handle);
    this.#writeSectorNumber(at, position / SECTOR);
    this.#writeSegments(id, at, segments, lead, bytes);
    if (indirect) this.#writeIndirectRefs(id, at, segments);

    this.#transfers[id] = transfer;
    this.#offsets[id] = transfer.issued;
    this.#bytes[id] = bytes;
    if (operation !== Op.read) this.#copy(id, transfer, lead, true);
    transfer.issued += bytes;
    transfer.complete = transfer.issued === transfer.length;
    this.#owner.counters.segments += segments;
    return true;
  }

  #issueDiscard(transfer: Transfer): boolean {
    const { layout, handle } = this.#settings;
    const sectors = transfer.length / SECTOR;
    const id = this.#ring.nextId;
    const at = this.#ring.produce(Op.discard);
    writeDiscard(this.#memory, at, transfer.flag, handle);
    this.#writeSectorNumber(at, transfer.position / SECTOR);
    writeU64(this.#memory, at + layout.discardSectors, sectors, Math.floor(sectors / TWO_TO_32));
    this.#pageCounts[id] = 0;
    this.#transfers[id] = transfer;
    transfer.complete = true;
    return true;
  }

  #issueRaw(transfer: Transfer, raw: RawRequest): boolean {
    const { layout, handle } = this.#settings;
    const segments = raw.segments ?? [];
    const count = raw.nrSegments ?? segments.length;
    const ownTables = raw.indirect && !raw.indirectRefs ? indirectPages(segments.length) : 0;
    const id = this.#ring.nextId;
    if (!this.#takePages(id, 0, ownTables, true)) return false;
    const at = this.#ring.produce(raw.discard ? Op.discard : raw.operation);
    const sector = raw.sector ?? 0n;
    writeU64(
      this.#memory,
      at + layout.sectorNumber,
      Number(sector & 0xffffffffn),
      Number((sector >> 32n) & 0xffffffffn),
    );
    if (raw.discard) this.#writeRawDiscard(at, raw.discard, raw.handle ?? handle);
    else if (raw.indirect) {
      writeIndirect(this.#memory, at, layout, raw.operation, count, raw.handle ?? handle);
      this.#writeRawTables(id, at, raw);
    } else {
      writeDirect(this.#memory, at, raw.operation, count, raw.handle ?? handle);
      for (const [i, s] of segments.slice(0, MAX_SEGMENTS).entries())
        writeSegment(this.#memory, at + layout.segments + i * SEGMENT_BYTES, s.ref, s.first, s.last);
    }
    this.#transfers[id] = transfer;
    transfer.complete = true;
    this.#owner.counters.segments += segments.length;
    return true;
  }

  #writeRawDiscard(at: number, discard: { sectors: bigint; flag: number }, handle: number): void {
    writeDiscard(this.#memory, at, discard.flag, handle);
    const low = Number(discard.sectors & 0xffffffffn);
    const high = Number((discard.sectors >> 32n) & 0xffffffffn);
    writeU64(this.#memory, at + this.#settings.layout.discardSectors, low, high);
  }

  #writeRawTables(id: number, at: number, raw: RawRequest): void {
    const first = (at + this.#settings.layout.indirectRefs) >>> 2;
    if (raw.indirectRefs) {
      for (const [i, ref] of raw.indirectRefs.slice(0, MAX_INDIRECT_PAGES).entries())
        this.#memory.u32[first + i] = ref;
      return;
    }
    for (const [i, s] of (raw.segments ?? []).entries())
      writeSegment(this.#memory, this.#tableEntry(id, 0, i), s.ref, s.first, s.last);
    this.#writeIndirectRefs(id, at, 0);
  }

  /** Takes pages into the row of `id`: all that are needed, or none and false. Throws when the grant table is full. */
  #takePages(id: number, data: number, tables: number, readOnlyData: boolean): boolean {
    const total = data + tables;
    if (this.#pool.available < total) return false;
    const row = id * this.#pagesPerRow;
    for (let i = 0; i < total; i++) {
      try {
        this.#pages[row + i] = this.#pool.take(i >= data || readOnlyData);
      } catch (error) {
        while (--i >= 0) {
          this.#pool.revoke(this.#pages[row + i]);
          this.#pool.put(this.#pages[row + i]);
        }
        throw new DiskError("ENOMEM", `no grant for a page of data: ${(error as Error).message}`);
      }
    }
    this.#pageCounts[id] = total;
    return true;
  }

  #writeSectorNumber(at: number, sector: number): void {
    writeU64(this.#memory, at + this.#settings.layout.sectorNumber, sector, Math.floor(sector / TWO_TO_32));
  }

  #writeSegments(id: number, at: number, segments: number, lead: number, bytes: number): void {
    const row = id * this.#pagesPerRow;
    const direct = at + this.#settings.layout.segments;
    const end = (lead + bytes - 1) % PAGE_SIZE;
    for (let i = 0; i < segments; i++) {
      const to = segments > MAX_SEGMENTS ? this.#tableEntry(id, segments, i) : direct + i * SEGMENT_BYTES;
      const first = i === 0 ? Math.floor(lead / SECTOR) : 0;
      const last = i === segments - 1 ? Math.floor(end / SECTOR) : SECTORS_PER_PAGE - 1;
      writeSegment(this.#memory, to, this.#pool.ref(this.#pages[row + i]), first, last);
    }
  }

  /** Where segment `i` lies in the indirect pages, which come after `data` pages in the row of `id`. */
  #tableEntry(id: number, data: number, i: number): number {
    const table = this.#pages[id * this.#pagesPerRow + data + Math.floor(i / SEGMENTS_PER_INDIRECT_PAGE)];
    return this.#pool.at(table) + (i % SEGMENTS_PER_INDIRECT_PAGE) * SEGMENT_BYTES;
  }

  #writeIndirectRefs(id: number, at: number, data: number): void {
    const first = (at + this.#settings.layout.indirectRefs) >>> 2;
    const row = id * this.#pagesPerRow;
    for (let i = data; i < this.#pageCounts[id]; i++)
      this.#memory.u32[first + i - data] = this.#pool.ref(this.#pages[row + i]);
  }

  /** Moves the data of a request between its transfer and its pages, one copy for each run of neighbouring pages. */
  #copy(id: number, transfer: Transfer, lead: number, toPages: boolean): void {
    const { data } = transfer;
    if (data === null) return;
    const pages = this.#data;
    const row = id * this.#pagesPerRow;
    let offset = this.#offsets[id];
    let left = this.#bytes[id];
    if (left === PAGE_SIZE && lead === 0 && (!toPages || data.length === PAGE_SIZE)) {
      const page = this.#pool.view(this.#pages[row]);
      if (toPages) page.set(data);
      else data.set(page, offset);
      return;
    }
    for (let i = 0, start = lead; left > 0; start = 0) {
      const at = this.#pool.at(this.#pages[row + i]) + start;
      let run = PAGE_SIZE - start;
      while (run < left && this.#pages[row + i + 1] === this.#pages[row + i] + 1) {
        run += PAGE_SIZE;
        i++;
      }
      i++;
      const bytes = Math.min(run, left);
      if (toPages) pages.set(data.subarray(offset, offset + bytes), at);
      else data.set(pages.subarray(at, at + bytes), offset);
      offset += bytes;
      left -= bytes;
    }
  }

  get waits(): boolean {
    return this.waiting > 0;
  }

  event(): void {
    this.#owner.counters.notificationsReceived++;
    this.look();
  }

  look(): boolean {
    if (!this.#ring.hasResponses) return false;
    this.#handle(() => this.#ring.take(this.#onResponse));
    return true;
  }

  listen(): boolean {
    return this.#handle(() => this.#ring.consume(this.#onResponse)) > 0;
  }

  /** Handles the responses that `take` hands out; returns how many they were. */
  #handle(take: () => number): number {
    let count = 0;
    try {
      count = take();
      this.#owner.counters.responses += count;
    } catch (error) {
      this.#owner.broke(error as Error);
      return count;
    }
    if (count > 0) this.#owner.roomMade();
    return count;
  }

  #answered(id: number, status: number): void {
    const transfer = this.#transfers[id]!;
    const row = id * this.#pagesPerRow;
    const count = this.#pageCounts[id];
    for (let i = 0; i < count; i++) this.#pool.revoke(this.#pages[row + i]);
    this.#transfers[id] = null;
    if (status === Rsp.okay && transfer.operation === Op.read && !transfer.raw && !transfer.settled)
      this.#copy(id, transfer, (transfer.position + this.#offsets[id]) % PAGE_SIZE, false);
    // Last first, so that the pages are taken again in the same order and stay neighbours.
    for (let i = count - 1; i >= 0; i--) this.#pool.put(this.#pages[row + i]);
    transfer.outstanding--;
    if (transfer.status === Rsp.okay) transfer.status = status;
    this.#owner.answered(transfer);
  }
}
