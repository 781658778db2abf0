/**
 * Sessions of a guest that is mostly right. What is wrong everywhere never gets past the first check, so each thing
 * here is mostly valid and rarely not; and requests often touch the same few sectors, so that they meet.
 */
import * as abi from "../assembly/abi.js";
import { FORGOTTEN, SPOILT_KINDS } from "../assembly/session/format.js";
import { encodeSession, type SessionHeader, type SessionRecord } from "../host/session/index.js";
import type { Random } from "./random.js";

/** 512-byte sectors: small enough to compare whole disks. */
const DISK_SECTORS = 512;
/** Large enough for requests that span more than the core counts one by one (assembly/hazards.ts). */
const LARGE_DISK_SECTORS = 65536;

/** first_sect and last_sect around their limit. */
const BAD_SECTORS = [0, 3, 6, 7, 7, 8, 8, 9, 255];
const OPERATIONS = [0, 0, 0, 0, 1, 1, 1, 1, 6, 6, 6, 5, 3, 2];

function header(random: Random): SessionHeader {
  const optional =
    (random.oneIn(8) ? 0 : abi.FEATURE_FLUSH) |
    (random.oneIn(8) ? 0 : abi.FEATURE_BARRIER) |
    (random.oneIn(8) ? 0 : abi.FEATURE_DISCARD) |
    (random.oneIn(2) ? abi.FEATURE_SECURE_DISCARD : 0) |
    (random.oneIn(2) ? abi.FEATURE_PERSISTENT : 0) |
    (random.oneIn(12) ? abi.FEATURE_READ_ONLY : 0);
  return {
    abi: random.below(2),
    ringPages: random.pick([1, 1, 1, 1, 2, random.oneIn(3) ? 16 : 4]),
    features: optional,
    sectorSize: random.pick([512, 512, 512, 1024, 2048, 4096]),
    spoilt: random.oneIn(200) ? random.below(SPOILT_KINDS) : 0,
    maxIndirect: random.pick([0, 1, 16, 32, 256, 256]),
    maxPersistent: random.pick([0, 1, 5, 64, 1056, 2048]),
    batch: random.pick([1, 2, 3, 64, 512]),
    domid: random.pick([1, 7, 0x7fef]),
    maxIo: random.pick([4096, 8192, 65536, abi.MAX_IO]),
    sectors: random.oneIn(12) ? LARGE_DISK_SECTORS : DISK_SECTORS - 64 * random.below(3),
    start: random.pick([0, 0, 0xfffffff0, 0x7ffffffa, random.u32()]),
    ahead: 0,
    passSegments: random.pick(PASS_SEGMENTS),
    passBytes: random.pick(PASS_BYTES),
  };
}

/** What a pass may take up. Most are as much as there is. */
const PASS_SEGMENTS = [1, 12, 300, abi.MAX_PASS_SEGMENTS, abi.MAX_PASS_SEGMENTS];
const PASS_BYTES = [1, 8192, 65536, abi.MAX_PASS_BYTES, abi.MAX_PASS_BYTES];

/** The core's hash of grant references (assembly/persistent.ts) multiplies by this and takes the highest 12 bits. */
const HASH_FACTOR = 0x9e3779b1;

/** The factor's inverse modulo 2^32, by Newton's method: each round doubles the bits that are right. */
const HASH_INVERSE = Array.from({ length: 5 }).reduce<number>(
  (inverse) => Math.imul(inverse, 2 - Math.imul(HASH_FACTOR, inverse)),
  HASH_FACTOR,
);

/** Grant references of a guest that knows the hash: most fall on a few entries of the table. */
function collidingGrefs(random: Random): number[] {
  const entry = random.pick([0, 7, 4094]);
  return Array.from({ length: random.pick([6, 24, 200]) }, () => {
    const hash = (((entry + random.below(3)) & 4095) << 20) | random.below(1 << 20);
    return Math.imul(HASH_INVERSE, hash) >>> 0;
  });
}

/** Writes the requests of one session; each segment mostly has a grant of its own, so that every byte's way is known. */
class Guest {
  readonly records: SessionRecord[] = [];
  readonly #random: Random;
  readonly #header: SessionHeader;
  readonly #units: number;
  #nextGref: number;
  /** From one grant reference to the next: guests count up, but nothing makes them. */
  readonly #stride: number;
  /** Persistent grants come again: these, if there are any. */
  readonly #pool: number[] = [];
  #nextId = 1;
  /** Sectors near which requests gather. */
  #near: number;
  #time = 0;

  constructor(random: Random, session: SessionHeader) {
    this.#random = random;
    this.#header = session;
    this.#units = session.sectorSize / 512;
    this.#nextGref = random.oneIn(20) ? 0xfffffe00 : 8;
    this.#stride = random.oneIn(4) ? random.u32() | 1 : 1;
    if (session.features & abi.FEATURE_PERSISTENT && random.oneIn(2)) this.#pool = collidingGrefs(random);
    this.#near = random.below(session.sectors);
  }

  #gref(): number {
    if (this.#pool.length > 0 && !this.#random.oneIn(20)) return this.#random.pick(this.#pool);
    this.#nextGref = (this.#nextGref + this.#stride) >>> 0;
    return this.#nextGref;
  }

  #segment(): { gref: number; first: number; last: number } {
    const random = this.#random;
    const gref = this.#gref();
    if (random.oneIn(120)) return { gref, first: random.pick(BAD_SECTORS), last: random.pick(BAD_SECTORS) };
    if (random.oneIn(2)) return { gref, first: 0, last: 7 };
    const a = random.below(8 / this.#units);
    const b = random.below(8 / this.#units);
    return { gref, first: Math.min(a, b) * this.#units, last: (Math.max(a, b) + 1) * this.#units - 1 };
  }

  #sector(length: number): number {
    const random = this.#random;
    if (random.oneIn(3)) this.#near = random.below(this.#header.sectors);
    const at = Math.max(0, Math.min(this.#near, this.#header.sectors - length));
    this.#near = at + length;
    return random.oneIn(40) ? at + random.below(80) : Math.floor(at / this.#units) * this.#units;
  }

  #segments(count: number): { list: ReturnType<Guest["putSegments"]>; sectors: number } {
    const list = Array.from({ length: count }, () => this.#segment());
    return { list, sectors: list.reduce((sum, { first, last }) => sum + Math.max(0, last - first + 1), 0) };
  }

  putSegments(view: DataView, at: number, list: { gref: number; first: number; last: number }[]) {
    list.forEach(({ gref, first, last }, i) => {
      view.setUint32(at + i * 8, gref, true);
      view.setUint8(at + i * 8 + 4, first);
      view.setUint8(at + i * 8 + 5, last);
    });
    return list;
  }

  #setSector(view: DataView, at: number, sector: number): void {
    const odd = this.#random.oneIn(60);
    view.setUint32(at, odd ? this.#random.awkward() : sector, true);
    view.setUint32(at + 4, odd && this.#random.oneIn(2) ? this.#random.awkward() : 0, true);
  }

  request(): void {
    const random = this.#random;
    const wide = this.#header.abi === abi.ABI_X86_64;
    const entry = new Uint8Array(wide ? 112 : 108).fill(0xa5);
    const view = new DataView(entry.buffer);
    const operation = random.oneIn(60) ? random.below(256) : random.pick(OPERATIONS);
    view.setUint8(0, operation);
    view.setBigUint64(wide ? 8 : 4, (BigInt(random.u32()) << 32n) | BigInt(this.#nextId++), true);
    if (operation === abi.BLKIF_OP_DISCARD) this.#discard(view, wide);
    else if (operation === abi.BLKIF_OP_INDIRECT) this.#indirect(view, wide);
    else this.#direct(view, wide, operation);
    if (random.oneIn(100)) entry[random.below(entry.length)] = random.below(256);
    this.records.push({ kind: "request", entry });
  }

  #discard(view: DataView, wide: boolean): void {
    const random = this.#random;
    const large = this.#header.sectors === LARGE_DISK_SECTORS ? 8000 : 65;
    const length = random.below(random.oneIn(4) ? large : 17) * this.#units;
    view.setUint8(1, random.below(4));
    this.#setSector(view, wide ? 16 : 12, this.#sector(length));
    this.#setSector(view, wide ? 24 : 20, length);
  }

  #direct(view: DataView, wide: boolean, operation: number): void {
    const random = this.#random;
    const few = random.oneIn(2) ? 1 : 1 + random.below(11);
    const count = operation === 2 || operation === 3 ? random.below(3) : few;
    const { list, sectors } = this.#segments(count);
    view.setUint8(1, random.oneIn(50) ? random.pick([0, 10, 11, 12, 13, 255, random.below(256)]) : count);
    this.#setSector(view, wide ? 16 : 12, this.#sector(sectors));
    this.putSegments(view, wide ? 24 : 20, list);
  }

  #indirect(view: DataView, wide: boolean): void {
    const random = this.#random;
    const count = 1 + random.below(random.oneIn(6) ? 256 : 24);
    const { list, sectors } = this.#segments(count);
    const page = new Uint8Array(count * 8);
    this.putSegments(new DataView(page.buffer), 0, list);
    const gref = this.#gref();
    this.records.push({ kind: "page", gref, offset: 0, bytes: page });
    view.setUint8(1, random.oneIn(40) ? random.below(256) : random.below(2));
    view.setUint16(2, random.oneIn(40) ? random.awkward() & 0xffff : count, true);
    this.#setSector(view, wide ? 16 : 12, this.#sector(sectors));
    view.setUint32(wide ? 28 : 24, gref, true);
  }

  /** An indirect page of 256 segments for `shared`. */
  sharePage(last: number): void {
    const distinct = this.#random.pick([1, 64, 256]);
    const page = new Uint8Array(2048);
    const grefs = Array.from({ length: distinct }, (_, i) =>
      this.#stride === 1 ? 100 + i : this.#random.u32(),
    );
    const list = Array.from({ length: 256 }, (_, i) => ({ gref: grefs[i % distinct], first: 0, last }));
    this.putSegments(new DataView(page.buffer), 0, list);
    this.records.push({ kind: "page", gref: 9, offset: 0, bytes: page });
  }

  shared(operation: number, segments: number, sector: number): void {
    const body = this.#header.abi === abi.ABI_X86_64 ? 24 : 20;
    const entry = new Uint8Array(body + 8);
    const view = new DataView(entry.buffer);
    view.setUint8(0, abi.BLKIF_OP_INDIRECT);
    view.setUint8(1, operation);
    view.setUint16(2, segments, true);
    view.setUint32(body - 16, this.#nextId++, true);
    view.setUint32(body - 8, sector, true);
    view.setUint32(body + 4, 9, true);
    this.records.push({ kind: "request", entry });
  }

  /** Writes of 11 segments each, apart from each other. */
  flood(count: number): void {
    const body = this.#header.abi === abi.ABI_X86_64 ? 24 : 20;
    for (let i = 0; i < count; i++) {
      const entry = new Uint8Array(body + 88);
      const view = new DataView(entry.buffer);
      view.setUint8(0, abi.BLKIF_OP_WRITE);
      view.setUint8(1, 11);
      view.setUint32(body - 16, this.#nextId++, true);
      view.setUint32(body - 8, 200000 + i * 88, true);
      const list = Array.from({ length: 11 }, () => ({ gref: this.#gref(), first: 0, last: 7 }));
      this.putSegments(view, body, list);
      this.records.push({ kind: "request", entry });
    }
  }

  trim(): void {
    this.#time += this.#random.pick([1, 300, 700]);
    this.records.push({ kind: "trim", now: this.#time });
  }

  hostile(): void {
    const random = this.#random;
    const base = random.oneIn(2) ? this.#header.start + this.#nextId : random.awkward();
    const value = (base + random.below(80)) >>> 0;
    this.records.push({ kind: "index", which: random.pick([0, 1, 2, 3, 3, 3]), value });
  }

  /** Something that is not a request. */
  event(): void {
    const random = this.#random;
    const roll = random.below(100);
    if (roll < 30) this.records.push({ kind: "push" }, { kind: "step" });
    else if (roll < 40) this.records.push({ kind: "push" });
    else if (roll < 52) this.records.push({ kind: "step" });
    else if (roll < 55) this.records.push({ kind: "once" });
    else if (roll < 88) {
      const result = random.oneIn(10) ? 1 + random.below(3) : 0;
      this.records.push({ kind: "complete", which: random.below(32), result });
    } else if (roll < 92) this.trim();
    else if (roll < 96) {
      const status = random.pick([-1, -3, -9, -11, FORGOTTEN]);
      if (random.oneIn(6)) this.records.push({ kind: "grant", gref: this.#gref(), status });
      this.records.push({ kind: "fault", distance: random.below(24), status });
      // Reads copy when they have ended.
      if (random.oneIn(2)) this.records.push({ kind: "complete", which: 0, result: 0 }, { kind: "step" });
    } else if (roll < 98)
      this.records.push({ kind: "resize", sectors: this.#header.sectors - random.below(300) });
    else if (roll < 99) {
      const [segments, bytes] = [random.pick(PASS_SEGMENTS), random.pick(PASS_BYTES)];
      if (random.oneIn(2)) this.records.push({ kind: "budget", segments, bytes });
      else this.records.push({ kind: "batch", batch: random.pick([0, 1, 64]) });
    } else if (random.oneIn(3))
      this.records.push({
        kind: "ended",
        slot: random.oneIn(4) ? random.below(65536) : random.below(8),
        result: random.below(4),
      });
    else this.hostile();
  }
}

/**
 * More large requests at once than the core has room for, in small files: all of them use the same indirect page.
 * Some come behind so many small ones that the copy table is full when their indirect page should be fetched.
 */
function crowd(random: Random, session: SessionHeader): Uint8Array {
  const header: SessionHeader = {
    ...session,
    ringPages: random.pick([2, 4, 16]),
    maxIndirect: 256,
    maxIo: random.pick([session.maxIo, abi.MAX_IO]),
    maxPersistent: random.pick([session.maxPersistent, 2048]),
    batch: random.pick([20, 512]),
    sectors: LARGE_DISK_SECTORS * 4,
  };
  const guest = new Guest(random, header);
  const last = random.pick([0, 0, 7]) | (header.sectorSize / 512 - 1);
  if (random.oneIn(6)) guest.flood(header.ringPages * 32 - 20);
  guest.sharePage(last);
  const operations = random.pick([[0], [1], [0, 0, 1]]);
  const count = 10 + random.below(90);
  for (let i = 0; i < count; i++) {
    const segments = random.oneIn(8) ? 1 + random.below(256) : 256;
    guest.shared(random.pick(operations), segments, random.oneIn(6) ? 0 : i * 256 * (last + 1));
    if (random.oneIn(30)) guest.event();
    if (random.oneIn(12)) guest.request();
  }
  guest.records.push({ kind: "push" }, { kind: "step" });
  for (let i = 0; i < 20; i++) guest.event();
  return encodeSession({ header, records: guest.records });
}

/** Bytes of a session. */
export function generate(random: Random): Uint8Array {
  const session = header(random);
  if (random.oneIn(40)) return crowd(random, session);
  const guest = new Guest(random, session);
  const moves = 2 + random.below(random.oneIn(24) ? 300 : 40);
  // Now and then a guest that never stops for breath, so that tables and rings fill up.
  const busy = random.oneIn(8) ? 9 : 1;
  for (let i = 0; i < moves; i++) {
    if (random.below(busy + 1) !== 0) guest.request();
    else guest.event();
  }
  guest.records.push({ kind: "push" }, { kind: "step" });
  const bytes = encodeSession({ header: session, records: guest.records });
  // Damage that keeps most of it.
  if (random.oneIn(25)) bytes[random.below(bytes.length)] = random.below(256);
  return bytes;
}
