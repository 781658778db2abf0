/** Grants of other domains, mapped from and copied to the files that are their memories. */
import { type LinearMemory, PAGE_SIZE } from "../../core/memory.js";
import { copyBytes, mapAnonymous, mapFixed } from "../libc.js";
import { Gntst, type GrantTable } from "../ports.js";
import { ForeignDomain } from "./foreign-domain.js";

/** What is mapped at the pages of one linear memory. */
class Windows {
  readonly memory: LinearMemory;
  readonly domain: (ForeignDomain | null)[];
  readonly ref: Uint32Array;
  readonly writable: Uint8Array;
  mapped = 0;

  constructor(memory: LinearMemory) {
    const pages = memory.u8.length / PAGE_SIZE;
    this.memory = memory;
    this.domain = new Array<ForeignDomain | null>(pages).fill(null);
    this.ref = new Uint32Array(pages);
    this.writable = new Uint8Array(pages);
  }

  /** Whether a store somewhere in this range would hit a page that is mapped read-only. */
  readOnly(from: number, length: number): boolean {
    const end = Math.floor((from + length - 1) / PAGE_SIZE);
    for (let page = Math.floor(from / PAGE_SIZE); page <= end; page++) {
      if (this.domain[page] !== null && this.writable[page] === 0) return true;
    }
    return false;
  }
}

// struct gntdev_grant_copy_segment, in words of 32 bits: source @0, destination @2, len and flags @4, status @5.
const SEGMENT_WORDS = 6;
const DESTINATION = 2;
const LENGTH_AND_FLAGS = 4;
const STATUS = 5;
const SOURCE_IS_GRANT = 1;
const DESTINATION_IS_GRANT = 2;
const TWO_TO_32 = 4294967296;

export class LoopbackGrantTable implements GrantTable {
  readonly #directory: string;
  readonly #domid: number;
  readonly #slot: number;
  readonly #release: () => void;
  readonly #domains = new Map<number, ForeignDomain>();
  readonly #windows = new Map<WebAssembly.Memory, Windows>();
  /** Destroyed domains whose pages are still mapped here. */
  readonly #departed = new Set<ForeignDomain>();
  #last: ForeignDomain | null = null;
  #mapped = 0;
  #closed = false;

  /** `slot` is ours in every domain's maptrack; `release` gives it back to the hypervisor. */
  constructor(directory: string, domid: number, slot: number, release: () => void) {
    this.#directory = directory;
    this.#domid = domid;
    this.#slot = slot;
    this.#release = release;
  }

  get mappedPages(): number {
    return this.#mapped;
  }

  map(
    memory: LinearMemory,
    at: number,
    domid: number,
    refs: Uint32Array,
    writable: boolean,
    status: Int16Array,
  ): void {
    this.unmap(memory, at, refs.length);
    const domain = this.#domain(domid);
    if (domain === null) {
      status.fill(Gntst.badDomain, 0, refs.length);
      if (refs.length > 0) mapAnonymous(memory.base + at, refs.length * PAGE_SIZE);
      return;
    }
    for (let i = 0; i < refs.length; i++) status[i] = domain.pin(refs[i], writable, true);
    for (let i = 0; i < refs.length; ) {
      const pages = runLength(domain, refs, status, i);
      const run = refs.subarray(i, i + pages);
      const where = at + i * PAGE_SIZE;
      if (status[i] !== Gntst.okay) {
        mapAnonymous(memory.base + where, pages * PAGE_SIZE);
      } else if (!this.#mapRun(memory, where, domain, run, writable)) {
        status.fill(Gntst.noDeviceSpace, i, i + pages);
      }
      i += pages;
    }
  }

  unmap(memory: LinearMemory, at: number, pages: number): void {
    const windows = this.#windows.get(memory.memory);
    if (windows === undefined) return;
    const end = at / PAGE_SIZE + pages;
    for (let page = at / PAGE_SIZE; page < end; page++) {
      const first = page;
      while (page < end && windows.domain[page] !== null) page++;
      if (page > first) this.#unmapRun(windows, first, page);
    }
    if (windows.mapped === 0) this.#windows.delete(memory.memory);
  }

  copy(memory: LinearMemory, table: number, count: number): void {
    const windows = this.#windows.get(memory.memory);
    const end = (table >>> 2) + count * SEGMENT_WORDS;
    for (let word = table >>> 2; word < end; word += SEGMENT_WORDS) {
      memory.u32[word + STATUS] = this.#copySegment(memory, word, windows) & 0xffff;
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const windows of [...this.#windows.values()]) this.unmap(windows.memory, 0, windows.ref.length);
    for (const domain of this.#domains.values()) domain.close();
    this.#domains.clear();
    this.#last = null;
    this.#release();
  }

  #mapRun(
    memory: LinearMemory,
    at: number,
    domain: ForeignDomain,
    refs: Uint32Array,
    writable: boolean,
  ): boolean {
    const bytes = refs.length * PAGE_SIZE;
    try {
      mapFixed(memory.base + at, bytes, domain.fd, domain.frame(refs[0]) * PAGE_SIZE, writable);
    } catch {
      // Too many mappings (vm.max_map_count), or no memory for one more.
      mapAnonymous(memory.base + at, bytes);
      for (const ref of refs) domain.unpin(ref, writable);
      return false;
    }
    let windows = this.#windows.get(memory.memory);
    if (windows === undefined) this.#windows.set(memory.memory, (windows = new Windows(memory)));
    const first = at / PAGE_SIZE;
    windows.domain.fill(domain, first, first + refs.length);
    windows.ref.set(refs, first);
    windows.writable.fill(writable ? 1 : 0, first, first + refs.length);
    windows.mapped += refs.length;
    this.#mapped += refs.length;
    return true;
  }

  /** The pages go before the pins: nobody may reach a page that its guest believes to have back. */
  #unmapRun(windows: Windows, first: number, end: number): void {
    mapAnonymous(windows.memory.base + first * PAGE_SIZE, (end - first) * PAGE_SIZE);
    for (let page = first; page < end; page++) {
      const domain = windows.domain[page] as ForeignDomain;
      windows.domain[page] = null;
      domain.unpin(windows.ref[page], windows.writable[page] === 1);
      if (domain.pins === 0 && this.#departed.delete(domain)) domain.close();
    }
    windows.mapped -= end - first;
    this.#mapped -= end - first;
  }

  /** Returns the segment's GNTST_*. Its words are read once each, in case that they change meanwhile. */
  #copySegment(memory: LinearMemory, word: number, windows: Windows | undefined): number {
    const u32 = memory.u32;
    const lengthAndFlags = u32[word + LENGTH_AND_FLAGS];
    const length = lengthAndFlags & 0xffff;
    const flags = lengthAndFlags >>> 16;
    // The kernel would refuse the whole table with EINVAL.
    if (flags === 0 || flags > (SOURCE_IS_GRANT | DESTINATION_IS_GRANT)) return Gntst.badCopyArg;
    const fromGrant = (flags & SOURCE_IS_GRANT) !== 0;
    const toGrant = (flags & DESTINATION_IS_GRANT) !== 0;
    const sourceLow = u32[word];
    const sourceHigh = u32[word + 1];
    const destinationLow = u32[word + DESTINATION];
    const destinationHigh = u32[word + DESTINATION + 1];
    if (overruns(fromGrant, sourceHigh, length)) return Gntst.badCopyArg;
    if (overruns(toGrant, destinationHigh, length)) return Gntst.badCopyArg;
    if (!fromGrant && !inside(memory, addressOfWords(sourceLow, sourceHigh), length))
      return Gntst.badVirtAddr;
    if (!toGrant && !takes(memory, windows, addressOfWords(destinationLow, destinationHigh), length)) {
      return Gntst.badVirtAddr;
    }

    const source = fromGrant ? this.#domain(sourceHigh >>> 16) : null;
    const destination = toGrant ? this.#domain(destinationHigh >>> 16) : null;
    if ((fromGrant && source === null) || (toGrant && destination === null)) return Gntst.badDomain;
    return copyPinned(source, sourceLow, sourceHigh, destination, destinationLow, destinationHigh, length);
  }

  #domain(domid: number): ForeignDomain | null {
    if (this.#last !== null && this.#last.domid === domid && !this.#last.dead) return this.#last;
    const known = this.#domains.get(domid);
    if (known !== undefined && !known.dead) return (this.#last = known);
    if (known !== undefined) this.#forget(known);
    return this.#closed ? null : this.#open(domid);
  }

  #open(domid: number): ForeignDomain | null {
    try {
      const domain = new ForeignDomain(this.#directory, domid, this.#domid, this.#slot);
      this.#domains.set(domid, domain);
      return (this.#last = domain);
    } catch (error) {
      // To the rest of the backend a domain that is damaged is one that is not there.
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") process.emitWarning(error as Error);
      return null;
    }
  }

  #forget(domain: ForeignDomain): void {
    this.#domains.delete(domain.domid);
    if (this.#last === domain) this.#last = null;
    if (domain.pins === 0) domain.close();
    else this.#departed.add(domain);
  }
}

/** How many entries from `i` on one system call can serve: failures, or consecutive frames. */
function runLength(domain: ForeignDomain, refs: Uint32Array, status: Int16Array, i: number): number {
  let end = i + 1;
  if (status[i] !== Gntst.okay) {
    while (end < refs.length && status[end] !== Gntst.okay) end++;
    return end - i;
  }
  const frame = domain.frame(refs[i]);
  while (end < refs.length && status[end] === Gntst.okay && domain.frame(refs[end]) === frame + end - i)
    end++;
  return end - i;
}

/** Whether a copy of this length leaves a granted page: the offset is in the lower half of the second word. */
function overruns(granted: boolean, word: number, length: number): boolean {
  return granted && (word & 0xffff) + length > PAGE_SIZE;
}

function addressOfWords(low: number, high: number): number {
  return low + high * TWO_TO_32;
}

/** Where one end of a copy lies here: at an address of ours, or in a pinned page of another domain. */
function addressIn(domain: ForeignDomain | null, low: number, high: number): number {
  if (domain === null) return addressOfWords(low, high);
  return domain.memory.base + domain.frame(low) * PAGE_SIZE + (high & 0xffff);
}

/** Copies between two ends, of which those in other domains' pages are pinned meanwhile. Returns the GNTST_*. */
function copyPinned(
  source: ForeignDomain | null,
  sourceLow: number,
  sourceHigh: number,
  destination: ForeignDomain | null,
  destinationLow: number,
  destinationHigh: number,
  length: number,
): number {
  const readable = source?.pin(sourceLow, false, false) ?? Gntst.okay;
  if (readable !== Gntst.okay) return readable;
  const writable = destination?.pin(destinationLow, true, false) ?? Gntst.okay;
  if (writable === Gntst.okay) {
    const from = addressIn(source, sourceLow, sourceHigh);
    const to = addressIn(destination, destinationLow, destinationHigh);
    copyBytes(to, from, length);
    destination?.unpin(destinationLow, true);
  }
  source?.unpin(sourceLow, false);
  return writable;
}

/** Whether a copy may end at this address of ours. */
function takes(memory: LinearMemory, windows: Windows | undefined, address: number, length: number): boolean {
  return inside(memory, address, length) && !windows?.readOnly(address - memory.base, length);
}

function inside(memory: LinearMemory, address: number, length: number): boolean {
  return address >= memory.base && address + length <= memory.base + memory.u8.length;
}
