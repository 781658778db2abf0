/**
 * The vectors (test/vectors) as sessions, for fuzzers to start from. A vector says what each grant and each I/O of a
 * slot does; so do the records `grant` and `ended`. What has no record (the log, `finish`, bad sectors) is left out.
 */
import * as abi from "../assembly/abi.js";
import * as format from "../assembly/session/format.js";
import { encodeSession, type Session, type SessionRecord } from "../host/session/index.js";
import { documentNames, parseVectors, readDocument, type Vector } from "../test/vectors/document.js";
import {
  DEFAULT_CONFIG,
  type HostAct,
  type RingWrite,
  readConfig,
  readHost,
  readPage,
  readRing,
  strideOf,
  type VectorConfig,
} from "../test/vectors/statements.js";

const REQ_PROD = 0;
const RSP_PROD = 2;
/** The largest disk of a session, on whole sectors of any size. */
const MAX_SECTORS = 2 ** format.SECTOR_BITS - 8;

/** SPOILT_* for a configuration that attach() refuses; 0 for a good one. The value may be another wrong one. */
function spoiltBy(config: VectorConfig): number {
  const powerOfTwo = (value: number): boolean => (value & (value - 1)) === 0;
  if (config.abi !== abi.ABI_X86_64 && config.abi !== abi.ABI_X86_32) return format.SPOILT_ABI + 1;
  if (config.ringPages > abi.MAX_RING_PAGES) return format.SPOILT_ENTRIES + 2;
  if (!powerOfTwo(config.ringPages)) return format.SPOILT_ENTRIES + 1;
  if (config.sectorSize > abi.PAGE) return format.SPOILT_SECTOR_UNITS + 2;
  if (!powerOfTwo(config.sectorSize)) return format.SPOILT_SECTOR_UNITS + 1;
  if (config.maxIndirect > abi.MAX_SEGMENTS) return format.SPOILT_MAX_INDIRECT + 1;
  if (config.maxIo < abi.PAGE) return format.SPOILT_MAX_IO;
  if (config.maxPersistent > abi.MAX_PERSISTENT) return format.SPOILT_MAX_PERSISTENT + 1;
  if (config.batch > abi.MAX_SLOTS) return format.SPOILT_BATCH + 1;
  if (config.passSegments === 0) return format.SPOILT_PASS_SEGMENTS;
  return config.passBytes === 0 ? format.SPOILT_PASS_BYTES : 0;
}

/** Fields that a spoilt one does not let into a header. */
const inRange = (config: VectorConfig): VectorConfig => (spoiltBy(config) === 0 ? config : DEFAULT_CONFIG);

class Converter {
  readonly sessions: Session[] = [];
  #config = DEFAULT_CONFIG;
  #records: SessionRecord[] = [];
  /** Indices of the header of the ring, and what was written to it before it was attached. */
  readonly #indices = [0, 1, 0, 1];
  readonly #early: RingWrite[] = [];
  #attached = false;
  /** Index of the entry that the next `request` record writes. */
  #next = 0;

  convert({ blocks }: Vector): Session[] {
    for (const block of blocks) {
      if (block.kind === "config") this.#config = readConfig(block, this.#config);
      else if (block.kind === "ring")
        for (const write of readRing(block, strideOf(this.#config))) this.#write(write);
      else if (block.kind === "page") {
        const { gref, bytes, length } = readPage(block);
        this.#records.push({ kind: "page", gref, offset: 0, bytes: bytes.slice(0, length) });
      } else if (block.kind === "host") for (const act of readHost(block)) this.#act(act);
    }
    return this.sessions;
  }

  #write(write: RingWrite): void {
    if (write.kind === "index") this.#indices[write.which] = write.value;
    if (!this.#attached) this.#early.push(write);
    else if (write.kind === "index") this.#records.push(write);
    else
      for (let i = 0; i <= write.last - write.first; i++)
        this.#putEntry((write.first + i) >>> 0, write.bytes);
  }

  /** Entries come one behind the other: those between are passed over by requests of no bytes. */
  #putEntry(index: number, entry: Uint8Array): void {
    const entries = this.#config.ringPages * 32;
    while (((index - this.#next) & (entries - 1)) !== 0) {
      this.#records.push({ kind: "request", entry: new Uint8Array(0) });
      this.#next = (this.#next + 1) >>> 0;
    }
    this.#records.push({ kind: "request", entry });
    this.#next = (this.#next + 1) >>> 0;
  }

  #attach(): void {
    const start = this.#indices[RSP_PROD];
    const ahead = (this.#indices[REQ_PROD] - start) >>> 0;
    const { showBytes: _, ...config } = inRange(this.#config);
    const sectors = Math.min(config.sectors, MAX_SECTORS);
    const header = { ...config, sectors, spoilt: spoiltBy(this.#config), start, ahead };
    const pages = this.#attached ? [] : this.#records;
    this.#records = [];
    this.sessions.push({ header, records: this.#records });
    this.#records.push(...pages);
    this.#next = start;
    this.#attached = true;
    for (const write of this.#early.splice(0)) this.#write(write);
  }

  #act(act: HostAct): void {
    if (act.kind === "attach" || !this.#attached) this.#attach();
    if (act.kind === "step") this.#records.push({ kind: act.once ? "once" : "step" });
    else if (act.kind === "complete")
      this.#records.push({ kind: "ended", slot: act.slot, result: act.result });
    else if (act.kind === "sectors") this.#records.push({ kind: "resize", sectors: act.value });
    else if (act.kind === "batch") this.#records.push({ kind: "batch", batch: act.value });
    else if (act.kind === "budget") this.#records.push(act);
    else if (act.kind === "trim") this.#records.push({ kind: "trim", now: act.value });
    else if (act.kind === "grant" && (act.status === "forgotten" || typeof act.status === "number")) {
      const status = act.status === "forgotten" ? format.FORGOTTEN : act.status;
      this.#records.push({ kind: "grant", gref: act.gref, status });
    }
  }
}

/** The sessions of a vector: one for each time that it attaches the ring. */
export function sessionsOf(vector: Vector): Session[] {
  return new Converter().convert(vector);
}

/** All vectors as session files, each with a name for its file. */
export function vectorSessions(): { name: string; bytes: Uint8Array }[] {
  return documentNames().flatMap((file) =>
    parseVectors(file, readDocument(file)).flatMap((vector) =>
      sessionsOf(vector).map((session, i) => ({
        name: `${file.replace(".md", "")}-${vector.line}-${i}`,
        bytes: encodeSession(session),
      })),
    ),
  );
}
