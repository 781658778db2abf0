/**
 * A copy-on-write disk under operations at random, killed and cut from power at random moments, against a plain model: of each
 * piece of 512 bytes, which writes may be seen now, and which after a power loss.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { random } from "../../host/guest/workload.js";
import { Result } from "../../host/storage/device.js";
import { CowDisk } from "../../host/storage/wrapper/cow.js";
import { loadOverlay } from "../../host/storage/wrapper/cow-file.js";
import { dataAt, encodeHeader } from "../../host/storage/wrapper/cow-header.js";
import { type Content, CrashDisk, contentOf } from "./crash-disk.js";
import { discard, fill, flush, gather, read, scatter, write } from "./helpers.js";

const PIECE = 512;
/** More than one page of the bitmap is for, in the smallest sectors. */
const SIZE = 17 << 20;
/** Where it happens, in pieces: at the beginning, and around the end of that page. */
const HOT = [0, 32768 - 128];
const HOT_PIECES = 256;
/** A piece that may be anything. */
const ANY = -1;
const BASE = 0x80000000;

interface Write {
  readonly id: number;
  readonly begun: number;
  ended: number;
}

class PieceModel {
  /** What may be seen, when nothing is under way. */
  now: Write[];
  readonly underWay = new Set<Write>();
  /** What may be seen after a power loss. */
  afterPowerLoss: Set<Write>;
  /** All that was ever begun there. */
  readonly begun: Write[] = [];

  constructor(id: number) {
    const origin = { id, begun: 0, ended: 0 };
    this.now = [origin];
    this.afterPowerLoss = new Set(this.now);
  }

  begin(one: Write): void {
    this.underWay.add(one);
    this.begun.push(one);
    this.afterPowerLoss.add(one);
  }

  end(one: Write): void {
    this.underWay.delete(one);
    this.now = [one, ...this.now.filter(({ ended }) => ended > one.begun)];
  }

  /** Found after a crash: from now on it is that, and nothing else. */
  found(id: number, lost: boolean): void {
    const one = { id, begun: 0, ended: 0 };
    this.now = [one];
    this.underWay.clear();
    if (lost) this.afterPowerLoss = new Set(this.now);
    else this.afterPowerLoss.add(one);
  }
}

class Trial {
  readonly #dice: () => number;
  readonly #sectorSize: number;
  readonly #base: CrashDisk;
  readonly #pieces = new Map<number, PieceModel>();
  #overlay: CrashDisk;
  #boot = 1;
  #clock = 1;
  #disk: CowDisk | null = null;
  #lastId = 0;
  #failing = false;

  constructor(seed: number, sectorSize: number) {
    this.#dice = random(seed);
    this.#sectorSize = sectorSize;
    const base = new Map<number, Buffer>();
    for (const first of HOT)
      for (let piece = first; piece < first + HOT_PIECES; piece++) base.set(piece, pieceOf(BASE + piece));
    this.#base = new CrashDisk(SIZE, base, { sectorSize, readOnly: true, dice: this.#dice });
    const header = { size: SIZE, sectorSize, bootId: this.#bootId() };
    this.#overlay = this.#opened(contentOf(encodeHeader(header)));
    for (const first of HOT)
      for (let piece = first; piece < first + HOT_PIECES; piece++)
        this.#pieces.set(piece, new PieceModel(BASE + piece));
  }

  #opened(content: Content): CrashDisk {
    const bytes = dataAt({ size: SIZE, sectorSize: this.#sectorSize }) + SIZE;
    return new CrashDisk(bytes, content, { dice: this.#dice });
  }

  #bootId(): Buffer {
    return Buffer.alloc(16, this.#boot);
  }

  /** Opens what a crash has left, works on it, and leaves it in the midst of that. */
  async round(operations: number): Promise<void> {
    const overlay = await loadOverlay("/overlay", this.#overlay, this.#bootId());
    this.#disk = new CowDisk("cow", this.#base, overlay);
    this.#failing = this.#dice() % 4 === 0;
    this.#overlay.fails = () => this.#failing && this.#dice() % 40 === 0;
    const working: Promise<void>[] = [];
    for (let i = 0; i < operations; i++) {
      working.push(this.#operate());
      while (this.#dice() % 3 === 0) await turn();
    }
    // In one of some rounds everything comes to its end.
    if (this.#dice() % 4 === 0) await Promise.all(working);
    await this.#crash();
    await Promise.all(working);
  }

  /** Opens what a crash has left, and crashes before that has come to its end. */
  async opening(): Promise<void> {
    const opening = loadOverlay("/overlay", this.#overlay, this.#bootId()).catch(() => null);
    for (let turns = this.#dice() % 40; turns > 0; turns--) await turn();
    await this.#crash();
    await opening;
  }

  /** Looks at what is left. */
  async #crash(): Promise<void> {
    const lost = this.#dice() % 2 === 0;
    const left = lost ? this.#overlay.powerLoss(this.#dice) : new Map(this.#overlay.cache);
    this.#overlay.closed = true;
    const may = new Map<number, ReadonlySet<number>>();
    for (const [piece, { now, underWay, afterPowerLoss }] of this.#pieces) {
      const writes = lost ? afterPowerLoss : [...now, ...underWay];
      may.set(piece, new Set([...writes].map(({ id }) => id)));
    }
    this.#disk = null;
    if (lost) this.#boot++;
    this.#overlay = this.#opened(left);
    const overlay = await loadOverlay("/overlay", this.#opened(left), this.#bootId());
    const disk = new CowDisk("cow", this.#base, overlay);
    for (const first of HOT) {
      const to = scatter(HOT_PIECES * PIECE);
      assert.equal((await read(disk, first * PIECE, to)).result, Result.Success);
      this.#check(first, gather(to), may, lost ? "after a power loss" : "after a kill");
      for (const [i, id] of idsOf(gather(to)).entries()) this.#pieces.get(first + i)?.found(id, lost);
    }
  }

  #check(first: number, data: Buffer, may: ReadonlyMap<number, ReadonlySet<number>>, when: string): void {
    for (const [i, id] of idsOf(data).entries()) {
      const allowed = may.get(first + i) as ReadonlySet<number>;
      const good = allowed.has(id) || allowed.has(ANY);
      assert.ok(good, `piece ${first + i} is ${id} ${when}, and may be ${[...allowed]}`);
    }
  }

  async #operate(): Promise<void> {
    const disk = this.#disk as CowDisk;
    const unit = this.#sectorSize / PIECE;
    const units = HOT_PIECES / unit;
    const start = this.#dice() % units;
    const count = (1 + (this.#dice() % Math.min(units - start, 16))) * unit;
    const first = HOT[this.#dice() % HOT.length] + start * unit;
    const kind = this.#dice() % 10;
    if (kind === 0) await this.#flush(disk);
    else if (kind < 4) await this.#read(disk, first, count);
    else await this.#change(disk, first, count, kind === 4);
  }

  async #read(disk: CowDisk, first: number, count: number): Promise<void> {
    const models = Array.from({ length: count }, (_, i) => this.#pieces.get(first + i) as PieceModel);
    const before = models.map(({ now, underWay }) => [...now, ...underWay]);
    const began = this.#clock++;
    const to = scatter(...cut(count, this.#sectorSize / PIECE, this.#dice));
    const { result } = await read(disk, first * PIECE, to);
    if (disk !== this.#disk) return;
    assert.equal(result, Result.Success);
    const may = new Map(
      models.map(({ begun }, i) => {
        const during = begun.filter((one) => one.begun > began);
        return [first + i, new Set([...before[i], ...during].map(({ id }) => id))];
      }),
    );
    this.#check(first, gather(to), may, "in a read");
  }

  async #change(disk: CowDisk, first: number, count: number, discards: boolean): Promise<void> {
    const id = discards ? ANY : ++this.#lastId;
    const one: Write = { id, begun: this.#clock++, ended: Number.POSITIVE_INFINITY };
    const models = Array.from({ length: count }, (_, i) => this.#pieces.get(first + i) as PieceModel);
    for (const model of models) model.begin(one);
    const data = Buffer.concat(models.map(() => pieceOf(id)));
    const lengths = cut(count, this.#sectorSize / PIECE, this.#dice);
    const { result } = discards
      ? await discard(disk, first * PIECE, count * PIECE)
      : await write(disk, first * PIECE, fill(scatter(...lengths), data));
    if (disk !== this.#disk) return;
    one.ended = this.#clock++;
    // What has failed may be there, in part, or not.
    const seen = result === Result.Success ? one : { ...one, id: ANY };
    for (const model of models) {
      if (seen !== one) model.afterPowerLoss.add(seen);
      model.underWay.delete(one);
      model.end(seen);
    }
  }

  async #flush(disk: CowDisk): Promise<void> {
    const begun = this.#clock++;
    const before = new Map(
      [...this.#pieces].map(([piece, { now, underWay }]) => [piece, [...now, ...underWay]]),
    );
    const { result } = await flush(disk);
    if (disk !== this.#disk || result !== Result.Success) return;
    for (const [piece, model] of this.#pieces) {
      const since = [...model.afterPowerLoss].filter((one) => one.begun > begun);
      model.afterPowerLoss = new Set([...(before.get(piece) as Write[]), ...since]);
    }
  }
}

function pieceOf(id: number): Buffer {
  const piece = Buffer.alloc(PIECE);
  for (let i = 0; i < PIECE; i += 4) piece.writeUInt32LE(id >>> 0, i);
  return piece;
}

/** What each piece is full of; a piece that is not all the same is nothing that was ever written. */
function idsOf(data: Buffer): number[] {
  const ids: number[] = [];
  for (let at = 0; at < data.length; at += PIECE) {
    const piece = data.subarray(at, at + PIECE);
    const id = piece.readUInt32LE(0);
    for (let i = 4; i < PIECE; i += 4) assert.equal(piece.readUInt32LE(i), id, "a torn piece");
    ids.push(id);
  }
  return ids;
}

/** Lengths in bytes that make so many pieces, in multiples of `unit` pieces. */
function cut(pieces: number, unit: number, dice: () => number): number[] {
  const lengths: number[] = [];
  for (let left = pieces; left > 0; ) {
    const some = Math.min(left, unit * (1 + (dice() % 8)));
    lengths.push(some * PIECE);
    left -= some;
  }
  return lengths;
}

for (const sectorSize of [512, 4096]) {
  test(`a copy-on-write disk loses nothing that it must not lose, in sectors of ${sectorSize}`, {
    timeout: 120_000,
  }, async () => {
    for (let seed = 1; seed <= 40; seed++) {
      const trial = new Trial(seed * 10_000 + sectorSize, sectorSize);
      for (let round = 0; round < 4; round++) {
        await trial.round(25);
        if (round % 2 === 0) await trial.opening();
      }
    }
  });
}
