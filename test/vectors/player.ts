/** Plays the blocks of one vector on the real core: the guest's writes, the host's calls, and a log of the answers. */
import assert from "node:assert/strict";
import * as abi from "../../assembly/abi.js";
import { BlkifCore } from "../../host/core/blkif.js";
import { type Counters, noCounters } from "../../host/core/counters.js";
import { coreModule } from "../../host/core/load.js";
import { allocateMemory } from "../../host/core/memory.js";
import { BASE, copyAt, copyLines, flagNames, ioLines, mapLines, responseText } from "./describe.js";
import type { Block } from "./document.js";
import {
  DEFAULT_CONFIG,
  FILLER,
  type GrantStatus,
  type HostAct,
  readConfig,
  readHost,
  readPage,
  readRing,
  strideOf,
} from "./statements.js";

/** Counters that say why; the others say how much, and the log shows that anyway. */
const TELLING: readonly (keyof Counters)[] = [
  "merged",
  "held",
  "persistentHits",
  "splits",
  "badOperation",
  "badSegments",
  "badRange",
  "readOnly",
  "badGrant",
  "ioErrors",
];

const ATTACH_CODES = new Map([
  [abi.ATTACH_OK, "OK"],
  [abi.ATTACH_BAD_CONFIG, "BAD_CONFIG"],
  [abi.ATTACH_BAD_RING, "BAD_RING"],
]);

// Memories are large in address space: one serves all vectors, one after the other.
const memory = { ...allocateMemory(abi.MEMORY_BYTES), base: Number(BASE) };
const view = new DataView(memory.memory.buffer);

export class Player {
  readonly #core: BlkifCore;
  readonly #pages = new Map<number, Uint8Array>();
  readonly #grantStatus = new Map<number, GrantStatus>();
  readonly #badSectors = new Set<number>();
  /** Slots of the I/Os under way, oldest first. */
  readonly #underway: number[] = [];
  #config = DEFAULT_CONFIG;
  #attached = false;
  /** The last return of step() asked for grant operations. */
  #inRound = false;
  #more = false;
  #completions = 0;
  #shown: Record<string, number> = {};
  #counters = noCounters();
  #log: string[] = [];
  #responses: string[] = [];

  constructor(module = coreModule()) {
    memory.u8.fill(FILLER, 0, abi.JOURNAL).fill(FILLER, abi.REQUESTS, abi.DATA);
    memory.u8.fill(FILLER, abi.SRING, abi.PERSISTENT).fill(0, abi.SRING, abi.SRING_ENTRIES);
    // SHARED_RING_INIT.
    memory.u32[abi.SRING_REQ_EVENT >> 2] = memory.u32[abi.SRING_RSP_EVENT >> 2] = 1;
    this.#core = new BlkifCore(module, memory);
  }

  /** What was logged since the last call. */
  takeLog(): string[] {
    const log = this.#log;
    this.#log = [];
    return log;
  }

  /** All responses since the beginning, as a responses block has them, sorted. */
  get responses(): string[] {
    return [...this.#responses].sort();
  }

  /** Plays a block that expects nothing. Throws an Error that names the line when the block says what no one knows. */
  play(block: Block): void {
    if (block.kind === "config") this.#config = readConfig(block, this.#config);
    else if (block.kind === "ring") this.#playRing(block);
    else if (block.kind === "page") {
      const { gref, bytes } = readPage(block);
      this.#pages.set(gref, bytes);
    } else for (const act of readHost(block)) this.#act(act);
  }

  // ---- The guest ----

  #playRing(block: Block): void {
    for (const write of readRing(block, strideOf(this.#config))) {
      if (write.kind === "index") view.setUint32(abi.SRING + write.which * 4, write.value, true);
      else
        for (let i = 0; i <= write.last - write.first; i++)
          memory.u8.set(write.bytes, this.#entry(write.first + i));
    }
  }

  #entry(index: number): number {
    return abi.SRING_ENTRIES + (index % (this.#config.ringPages * 32)) * strideOf(this.#config);
  }

  // ---- The host ----

  #act(act: HostAct): void {
    if (act.kind === "attach") {
      this.#attach();
      return;
    }
    if (!this.#attached) {
      this.#attach();
      assert.deepEqual(this.takeLog(), ["attach() = OK"]);
    }
    if (act.kind === "step") this.#step(act.once);
    else if (act.kind === "complete") this.#complete(act.slot, act.result);
    else if (act.kind === "grant") this.#grantStatus.set(act.gref, act.status);
    else if (act.kind === "sectors") this.#core.resize(act.value);
    else if (act.kind === "batch") memory.u32[abi.CONFIG_BATCH >> 2] = act.value;
    else if (act.kind === "budget") this.#core.setBudget(act.segments, act.bytes);
    else if (act.kind === "trim") this.#trim(act.value);
    else if (act.kind === "bad-sector") this.#badSectors.add(act.value);
    else if (act.kind === "finish") this.#finish();
    else this.#logCounters();
  }

  #complete(slot: number, result: number): void {
    this.#core.setCompletion(this.#completions++, slot, result);
    const position = this.#underway.indexOf(slot);
    if (position >= 0) this.#underway.splice(position, 1);
  }

  /** Ends what is under way, oldest first, until the ring is at rest. */
  #finish(): void {
    for (let passes = 0; ; passes++) {
      assert.ok(passes < 10000, "the ring never comes to rest");
      const [slot] = this.#underway;
      if (slot !== undefined) this.#complete(slot, this.#resultOf(slot));
      this.#step(false);
      if (this.#underway.length === 0 && !this.#more) return;
    }
  }

  #resultOf(slot: number): number {
    const at = abi.IOS + slot * abi.IO_BYTES;
    const first = Number(view.getBigUint64(at + abi.IO_SECTOR, true));
    const end = first + Number(view.getBigUint64(at + abi.IO_SECTORS, true));
    const bad = [...this.#badSectors].some((sector) => sector >= first && sector < end);
    return bad ? abi.IO_RESULT_FAILURE : abi.IO_RESULT_SUCCESS;
  }

  #attach(): void {
    const code = this.#core.attach(this.#config);
    this.#log.push(`attach() = ${ATTACH_CODES.get(code) ?? code}`);
    this.#attached = true;
    this.#inRound = false;
    // OUT_INFLIGHT is step()'s to write.
    if (code === abi.ATTACH_OK) this.#shown = { ...this.#state(), "in flight": 0 };
    this.#counters = noCounters();
  }

  /** Calls step() once, or until the pass ends, and carries out the grant operations that each return asks for. */
  #step(once: boolean): void {
    do {
      const completions = this.#completions;
      this.#completions = 0;
      const before = memory.u8.slice(abi.SRING, abi.PERSISTENT);
      const flags = this.#core.step(completions);
      this.#log.push(`step(${completions}) = ${flagNames(flags)}`);
      this.#inRound = (flags & (abi.STEP_COPY | abi.STEP_MAP)) !== 0;
      this.#more = (flags & abi.STEP_MORE) !== 0;
      if (flags & abi.STEP_MAP) this.#map();
      if (flags & abi.STEP_COPY) this.#copy();
      if (flags & abi.STEP_IO) {
        for (let i = 0; i < this.#core.ios; i++) {
          this.#log.push(...ioLines(view, i));
          this.#underway.push(this.#core.io(i).slot);
        }
      }
      this.#logResponses(before);
      this.#logChanges();
    } while (this.#inRound && !once);
  }

  /** Carries out maps: they succeed unless the vector says otherwise. */
  #map(): void {
    const maps = Array.from({ length: this.#core.maps }, (_, i) => this.#core.map(i));
    this.#log.push(...mapLines(maps));
    maps.forEach(({ gref }, i) => {
      const status = this.#statusOf(gref, "map");
      if (status !== null) this.#core.setMapStatus(i, status);
    });
  }

  /** What the host writes about a grant operation; null for nothing. */
  #statusOf(gref: number, use: "map" | "in" | "out"): number | null {
    const status = this.#grantStatus.get(gref) ?? 0;
    if (status === "forgotten") return null;
    if (status === "read-only") return use === "in" ? 0 : -1;
    if (status === "unmappable") return use === "map" ? -1 : 0;
    return status;
  }

  /** Carries out copies. Only indirect pages have content here: the core never looks at data. */
  #copy(): void {
    const copies = Array.from({ length: this.#core.copies }, (_, i) => copyAt(view, i));
    this.#log.push(...copyLines(copies));
    copies.forEach(({ gref, offset, local, bytes, toGuest }, i) => {
      const status = this.#statusOf(gref, toGuest ? "out" : "in");
      if (status === null) return;
      view.setInt16(abi.COPIES + i * abi.COPY_BYTES + abi.COPY_STATUS, status, true);
      const to = Number(local - BASE);
      if (status || to >= abi.IOVECS) return;
      const page = this.#pages.get(gref);
      if (!page) throw new Error(`the vector has no page ${gref}, whose segments the core asks for`);
      memory.u8.set(page.subarray(offset, offset + bytes), to);
    });
  }

  #trim(now: number): void {
    const pages = this.#core.trim(now);
    this.#log.push(
      `trim(${now}) = ${pages.length}`,
      ...pages.map((page) => `  unmap persistent page ${page}`),
    );
    this.#logChanges();
  }

  // ---- The log ----

  #state(): Record<string, number> {
    return {
      req_cons: memory.u32[abi.OUT_REQ_CONS >> 2],
      rsp_prod: memory.u32[abi.OUT_RSP_PROD >> 2],
      req_event: memory.u32[abi.SRING_REQ_EVENT >> 2],
      "in flight": memory.u32[abi.OUT_INFLIGHT >> 2],
      mapped: memory.u32[abi.OUT_PERSISTENT >> 2],
    };
  }

  /** What is different from what was last shown. */
  #logChanges(): void {
    // How many pages are mapped is settled only when the pass has ended.
    const state = this.#inRound ? { ...this.#state(), mapped: this.#shown.mapped } : this.#state();
    const changed = Object.entries(state).filter(([name, value]) => value !== this.#shown[name]);
    if (changed.length > 0)
      this.#log.push(`  ${changed.map(([name, value]) => `${name} ${value}`).join(", ")}`);
    this.#shown = state;
    const now = this.#core.counters();
    const counted = TELLING.filter((name) => now[name] !== this.#counters[name]);
    for (const name of counted) this.#log.push(`  counted: ${name} ${now[name] - this.#counters[name]}`);
    this.#counters = now;
  }

  #logCounters(): void {
    const counted = Object.entries(this.#core.counters()).filter(([, value]) => value !== 0);
    this.#log.push("counters", ...counted.map(([name, value]) => `  ${name} ${value}`));
  }

  /** Logs the responses that were published, and makes sure that nothing else of the shared ring has changed. */
  #logResponses(before: Uint8Array): void {
    const keep = (at: number, bytes: number): void => {
      before.set(memory.u8.subarray(at, at + bytes), at - abi.SRING);
    };
    const from = this.#shown.rsp_prod;
    const published = memory.u32[abi.OUT_RSP_PROD >> 2];
    const responses: string[] = [];
    for (let index = from; index !== published; index = (index + 1) >>> 0) {
      const at = this.#entry(index);
      const bytes = strideOf(this.#config) === 112 ? 16 : 12;
      const hex = Array.from(memory.u8.subarray(at, at + bytes), (byte) =>
        byte.toString(16).padStart(2, "0"),
      );
      this.#responses.push(responseText(view, at));
      responses.push(responseText(view, at) + (this.#config.showBytes ? `\n    ${hex.join(" ")}` : ""));
      keep(at, 9);
      keep(at + 10, 2);
    }
    for (let i = 0; i < responses.length; ) {
      let n = 1;
      while (responses[i + n] === responses[i]) n++;
      const first = (from + i) >>> 0;
      const range = n > 1 ? `responses ${first}-${(first + n - 1) >>> 0}` : `response ${first}`;
      this.#log.push(...`  ${range}: ${responses[i]}`.split("\n"));
      i += n;
    }
    if (published !== from) {
      keep(abi.SRING_RSP_PROD, 4);
      assert.equal(memory.u32[abi.SRING_RSP_PROD >> 2], published, "rsp_prod in the ring");
    }
    keep(abi.SRING_REQ_EVENT, 4);
    const now = memory.u8.subarray(abi.SRING, abi.PERSISTENT);
    const spoilt = now.findIndex((byte, i) => byte !== before[i]);
    assert.equal(spoilt, -1, `the core wrote to byte ${spoilt} of the ring, which is not its to write`);
  }
}
