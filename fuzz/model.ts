/**
 * Watches a session on the real core, moves its data, and at the end plays all requests once more, one after the
 * other in ring order, as the oracle judges them: every response, the disk and the guest's pages must be the same.
 *
 * Where a guest's own doings leave the data open (it uses a page for two requests at once), only statuses are compared.
 */
import * as abi from "../assembly/abi.js";
import type { LinearMemory } from "../host/core/memory.js";
import type {
  GrantCopy,
  MemoryRun,
  RingResponse,
  SessionGrants,
  SessionHeader,
  SessionIo,
  SessionObserver,
} from "../host/session/index.js";
import { judge, type Segment, statusOfResult, type Verdict } from "./oracle.js";

/** A difference from the oracle. */
class Difference extends Error {}

/** Largest disk whose bytes are compared. */
const MAX_DATA_SECTORS = 512;

interface Taken {
  readonly kind: "request";
  readonly id: bigint;
  readonly verdict: Verdict;
  fetchFailed: boolean;
  copyFailed: boolean;
  /** How the disk answered it, when it went alone. */
  result: number;
  status: number | null;
}

interface Written {
  readonly kind: "written";
  readonly gref: number;
  readonly offset: number;
  readonly bytes: Uint8Array;
}

const FIRST_DISK = Uint8Array.from({ length: MAX_DATA_SECTORS * 512 }, (_, i) => (i >> 9) * 5 + (i & 511));

function firstPage(gref: number): Uint8Array {
  const page = new Uint8Array(abi.PAGE);
  for (let s = 0; s < 8; s++) page.fill(gref * 11 + s * 3 + 1, s * 512, s * 512 + 512);
  return page;
}

export class Model implements SessionObserver {
  readonly #memory: LinearMemory;
  readonly #view: DataView;
  readonly #header: SessionHeader;
  readonly #disk = FIRST_DISK.slice();
  readonly #pages = new Map<number, Uint8Array>();
  readonly #mapped = new Map<number, number>();
  readonly #history: (Taken | Written)[] = [];
  readonly #byIndex = new Map<number, Taken>();
  readonly #waiting: Taken[] = [];
  readonly #lastUser = new Map<number, Taken>();
  /** Pages that a failed read has filled in part. */
  readonly #undefined = new Set<number>();
  /** Whether the bytes can be foretold, and whether anything can. */
  #exact: boolean;
  #lost = false;

  constructor(memory: LinearMemory, header: SessionHeader) {
    this.#memory = memory;
    this.#view = new DataView(memory.memory.buffer);
    this.#header = header;
    this.#exact = header.sectors <= MAX_DATA_SECTORS;
  }

  /** Requests taken. */
  get requests(): number {
    return this.#byIndex.size;
  }

  #page(gref: number): Uint8Array {
    let page = this.#pages.get(gref);
    if (!page) {
      page = firstPage(gref);
      this.#pages.set(gref, page);
    }
    return page;
  }

  #owner(slot: number): Taken {
    const index = this.#view.getUint32(abi.JOURNAL_ENTRIES + slot * abi.JOURNAL_ENTRY_BYTES, true);
    const taken = this.#byIndex.get(index);
    if (!taken) throw new Difference(`slot ${slot} is for request ${index}, which was never taken`);
    return taken;
  }

  // ---- While it happens ----

  confused(): void {
    this.#lost = true;
    this.#exact = false;
  }

  taken(index: number, entry: Uint8Array, sectors: number, grants: SessionGrants): void {
    const idOffset = this.#header.abi === abi.ABI_X86_32 ? 4 : 8;
    const taken: Taken = {
      kind: "request",
      id: new DataView(entry.buffer).getBigUint64(idOffset, true),
      verdict: judge(this.#header, entry, sectors, (gref) => grants.contentOf(gref)),
      fetchFailed: false,
      copyFailed: false,
      result: 0,
      status: null,
    };
    this.#byIndex.set(index, taken);
    this.#history.push(taken);
    this.#waiting.push(taken);
    for (const { gref } of taken.verdict.segments) this.#use(gref, taken);
  }

  #use(gref: number, user: Taken): void {
    const last = this.#lastUser.get(gref);
    this.#lastUser.set(gref, user);
    if (!last || last === user) return;
    const reads = last.verdict.operation === 0 || user.verdict.operation === 0;
    if ((reads && last.status === null) || this.#undefined.has(gref)) this.#exact = false;
  }

  written(gref: number, offset: number, bytes: Uint8Array): void {
    if (this.#lastUser.get(gref)?.status === null) this.#exact = false;
    this.#page(gref).set(bytes, offset);
    this.#history.push({ kind: "written", gref, offset, bytes });
  }

  copied({ slot, gref, offset, length, local, toGuest, status, segments }: GrantCopy): void {
    if (this.#lost) return;
    const owner = this.#owner(slot);
    if (status !== 0) {
      if (segments) owner.fetchFailed = true;
      else owner.copyFailed = true;
    } else if (!segments) {
      const page = this.#page(gref).subarray(offset, offset + length);
      const memory = this.#memory.u8.subarray(local, local + length);
      if (toGuest) page.set(memory);
      else memory.set(page);
    }
  }

  mapped({ gref, page, status }: { gref: number; page: number; status: number }): void {
    if (status !== 0) return;
    const at = abi.PERSISTENT + page * abi.PAGE;
    const window = this.#memory.u8.subarray(at, at + abi.PAGE);
    window.set(this.#page(gref));
    this.#pages.set(gref, window);
    this.#mapped.set(page, gref);
  }

  unmapped(page: number): void {
    const gref = this.#mapped.get(page) as number;
    this.#pages.set(gref, this.#page(gref).slice());
    this.#mapped.delete(page);
  }

  completed(io: SessionIo, result: number): void {
    if (this.#lost) return;
    if (result !== 0) {
      if (io.requests === 1) this.#owner(io.slot).result = result;
      return;
    }
    if (io.position + io.length > this.#disk.length) this.#exact = false;
    if (!this.#exact) return;
    let { position } = io;
    if (io.operation === abi.IO_DISCARD) this.#disk.fill(0, position, position + io.length);
    else for (const run of io.memory) position = this.#transfer(io.operation, position, run);
  }

  #transfer(operation: number, position: number, { at, length }: MemoryRun): number {
    const disk = this.#disk.subarray(position, position + length);
    const memory = this.#memory.u8.subarray(at, at + length);
    if (operation === abi.IO_READ) memory.set(disk);
    else disk.set(memory);
    return position + length;
  }

  responded({ id, operation, status }: RingResponse): void {
    if (this.#lost) return;
    const same = this.#waiting.filter((taken) => taken.id === id && taken.verdict.operation === operation);
    if (same.length === 0) throw new Difference(`a response to ${id}, which is not waiting`);
    // Which one of those that a confused guest gave the same id was meant, nobody can tell: the one that it fits.
    const answered = same.find((taken) => expectedStatus(taken) === status) ?? same[0];
    const expected = expectedStatus(answered);
    if (expected !== status) {
      throw new Difference(`request ${id} (operation ${operation}) got status ${status}, not ${expected}`);
    }
    if (same.length > 1) this.#exact = false;
    answered.status = status;
    this.#waiting.splice(this.#waiting.indexOf(answered), 1);
    const { segments } = answered.verdict;
    if (status !== 0 && operation === 0) for (const { gref } of segments) this.#undefined.add(gref);
  }

  // ---- When it has ended ----

  ended(): void {
    if (this.#lost) return;
    if (this.#waiting.length > 0) throw new Difference(`${this.#waiting.length} requests without a response`);
    if (!this.#exact) return;
    const disk = FIRST_DISK.slice();
    const pages = new Map<number, Uint8Array>();
    const page = (gref: number): Uint8Array => {
      const known = pages.get(gref) ?? firstPage(gref);
      pages.set(gref, known);
      return known;
    };
    for (const event of this.#history) {
      if (event.kind === "written") page(event.gref).set(event.bytes, event.offset);
      else if (event.status === 0) execute(event.verdict, disk, page);
    }
    if (Buffer.compare(disk, this.#disk) !== 0) {
      const at = disk.findIndex((byte, i) => byte !== this.#disk[i]);
      throw new Difference(`the disk differs from byte ${at} on`);
    }
    for (const [gref, content] of pages) {
      if (!this.#undefined.has(gref) && Buffer.compare(content, this.#page(gref)) !== 0)
        throw new Difference(`the page of grant ref ${gref} differs`);
    }
  }
}

function expectedStatus(taken: Taken): number {
  const { status, operation } = taken.verdict;
  if (taken.fetchFailed) return -1;
  if (status !== 0) return status;
  return taken.copyFailed ? -1 : statusOfResult(operation, taken.result);
}

function execute(verdict: Verdict, disk: Uint8Array, page: (gref: number) => Uint8Array): void {
  let at = verdict.sector * 512;
  if (verdict.operation === 5) disk.fill(0, at, at + verdict.sectors * 512);
  for (const { gref, first, last } of verdict.segments as Segment[]) {
    const memory = page(gref).subarray(first * 512, last * 512 + 512);
    if (verdict.operation === 0) memory.set(disk.subarray(at, at + memory.length));
    else disk.set(memory, at);
    at += memory.length;
  }
}
