/** Plays the blocks of one vector on the real core: the guest's writes, the host's calls, and a log of the answers. */
import assert from "node:assert/strict";
import * as abi from "../../assembly/abi.js";
import { BlkifCore, type Counters, noCounters } from "../../host/core/blkif.js";
import { coreModule } from "../../host/core/load.js";
import { allocateMemory } from "../../host/core/memory.js";
import { BASE, copyAt, copyLines, DOMID, flagNames, ioLines, mapLines, responseText } from "./describe.js";
import { type Block, hexBytes, type Statement, statements } from "./document.js";

/** What memory holds that nobody has written. */
const FILLER = 0xa5;

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

const FEATURES: Record<string, number> = {
  "read-only": abi.FEATURE_READ_ONLY,
  flush: abi.FEATURE_FLUSH,
  barrier: abi.FEATURE_BARRIER,
  discard: abi.FEATURE_DISCARD,
  "secure-discard": abi.FEATURE_SECURE_DISCARD,
  persistent: abi.FEATURE_PERSISTENT,
};

const RESULTS: Record<string, number> = {
  success: abi.IO_RESULT_SUCCESS,
  failure: abi.IO_RESULT_FAILURE,
  "read-only": abi.IO_RESULT_READ_ONLY,
  unsupported: abi.IO_RESULT_UNSUPPORTED,
};

const INDICES: Record<string, number> = {
  req_prod: abi.SRING_REQ_PROD,
  req_event: abi.SRING_REQ_EVENT,
  rsp_prod: abi.SRING_RSP_PROD,
  rsp_event: abi.SRING_RSP_EVENT,
};

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
  readonly #config = {
    abi: abi.ABI_X86_64,
    ringPages: 1,
    features: abi.FEATURE_FLUSH | abi.FEATURE_BARRIER | abi.FEATURE_DISCARD,
    domid: DOMID,
    sectors: 4096,
    sectorSize: 512,
    maxIndirect: 256,
    maxIo: abi.MAX_IO,
    batch: 64,
    maxPersistent: 1056,
  };
  readonly #pages = new Map<number, Uint8Array>();
  readonly #grantStatus = new Map<number, number | null>();
  #showBytes = false;
  #attached = false;
  /** The last return of step() asked for grant operations. */
  #inRound = false;
  #completions = 0;
  #shown: Record<string, number> = {};
  #counters = noCounters();
  #log: string[] = [];

  constructor() {
    memory.u8.fill(FILLER, 0, abi.JOURNAL).fill(FILLER, abi.REQUESTS, abi.DATA);
    memory.u8.fill(FILLER, abi.SRING, abi.PERSISTENT).fill(0, abi.SRING, abi.SRING_ENTRIES);
    // SHARED_RING_INIT.
    memory.u32[abi.SRING_REQ_EVENT >> 2] = memory.u32[abi.SRING_RSP_EVENT >> 2] = 1;
    this.#core = new BlkifCore(coreModule(), memory);
  }

  /** What was logged since the last call. */
  takeLog(): string[] {
    const log = this.#log;
    this.#log = [];
    return log;
  }

  /** Plays a block that is not a log. Throws an Error that names the line when the block says what no one knows. */
  play(block: Block): void {
    if (block.kind === "ring") this.#playRing(block);
    else if (block.kind === "page") this.#playPage(block);
    else
      for (const statement of statements(block)) {
        const known = block.kind === "config" ? this.#configure(statement) : this.#command(statement);
        if (!known) throw new Error(`line ${statement.line}: can't read "${statement.words.join(" ")}"`);
      }
  }

  // ---- The configuration ----

  #configure({ words: [key, ...values] }: Statement): boolean {
    const config = this.#config;
    const number = Number(values[0]);
    if (key === "abi") config.abi = { x86_64: abi.ABI_X86_64, x86_32: abi.ABI_X86_32 }[values[0]] ?? number;
    else if (key === "ring-pages") config.ringPages = number;
    else if (key === "features") {
      if (values.some((name) => !(name in FEATURES) && name !== "none")) return false;
      config.features = values.reduce((bits, name) => bits | (FEATURES[name] ?? 0), 0);
    } else if (key === "sectors") config.sectors = number;
    else if (key === "sector-size") config.sectorSize = number;
    else if (key === "max-indirect") config.maxIndirect = number;
    else if (key === "max-io") config.maxIo = number;
    else if (key === "batch") config.batch = number;
    else if (key === "max-persistent") config.maxPersistent = number;
    else if (key === "show" && values[0] === "response-bytes") this.#showBytes = true;
    else return false;
    return true;
  }

  // ---- The guest ----

  #playRing(block: Block): void {
    let entries: number[] = [];
    let offset = 0;
    for (const { words, line } of statements(block)) {
      const [key, value] = words;
      const bytes = hexBytes(words);
      if (key === "request") {
        const [first, last = first] = value.split("-").map(Number);
        entries = Array.from({ length: last - first + 1 }, (_, i) => this.#entry(first + i));
        for (const at of entries) memory.u8.fill(FILLER, at, at + this.#stride);
        offset = 0;
      } else if (key in INDICES) view.setUint32(INDICES[key], Number(value), true);
      else if (bytes && entries.length > 0 && offset + bytes.length <= this.#stride) {
        for (const at of entries) memory.u8.set(bytes, at + offset);
        offset += bytes.length;
      } else throw new Error(`line ${line}: can't read "${words.join(" ")}"`);
    }
  }

  #playPage(block: Block): void {
    const page = new Uint8Array(abi.PAGE);
    const pageView = new DataView(page.buffer);
    let at = 0;
    for (const { words, line } of statements(block)) {
      const run = /^(\d+) segments: grants (\d+)-(\d+), sectors (\d+)-(\d+)$/.exec(words.join(" "));
      const bytes = hexBytes(words);
      if (run) {
        const [count, from, to, first, last] = run.slice(1).map(Number);
        assert.equal(to - from + 1, count, `line ${line}: that is not ${count} grants`);
        for (let gref = from; gref <= to; gref++, at += abi.SEGMENT_BYTES) {
          pageView.setUint32(at, gref, true);
          page.set([first, last], at + 4);
        }
      } else if (bytes) {
        page.set(bytes, at);
        at += bytes.length;
      } else throw new Error(`line ${line}: can't read "${words.join(" ")}"`);
    }
    this.#pages.set(Number(block.argument), page);
  }

  get #stride(): number {
    return this.#config.abi === abi.ABI_X86_32 ? 108 : 112;
  }

  #entry(index: number): number {
    return abi.SRING_ENTRIES + (index % (this.#config.ringPages * 32)) * this.#stride;
  }

  // ---- The host ----

  #command({ words: [verb, ...words] }: Statement): boolean {
    if (verb === "attach") {
      this.#attach();
      return true;
    }
    if (!this.#attached) {
      this.#attach();
      assert.deepEqual(this.takeLog(), ["attach() = OK"]);
    }
    if (verb === "step") this.#step(words[0] === "once");
    else if (verb === "complete" && words[1] in RESULTS) {
      this.#core.setCompletion(this.#completions++, Number(words[0]), RESULTS[words[1]]);
    } else if (verb === "grant" && words[1] === "status") {
      this.#grantStatus.set(Number(words[0]), words[2] === "forgotten" ? null : Number(words[2]));
    } else if (verb === "sectors") this.#core.resize(Number(words[0]));
    else if (verb === "batch") memory.u32[abi.CONFIG_BATCH >> 2] = Number(words[0]);
    else if (verb === "trim") this.#trim(Number(words[0]));
    else if (verb === "counters") this.#logCounters();
    else return false;
    return true;
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
      const completions = this.#inRound ? 0 : this.#completions;
      if (!this.#inRound) this.#completions = 0;
      const before = memory.u8.slice(abi.SRING, abi.PERSISTENT);
      const flags = this.#core.step(completions);
      this.#log.push(`step(${completions}) = ${flagNames(flags)}`);
      this.#inRound = (flags & (abi.STEP_COPY | abi.STEP_MAP)) !== 0;
      if (flags & abi.STEP_MAP) this.#map();
      if (flags & abi.STEP_COPY) this.#copy();
      if (flags & abi.STEP_IO) {
        for (let i = 0; i < this.#core.ios; i++) this.#log.push(...ioLines(view, i));
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
      const status = this.#grantStatus.get(gref);
      if (status !== null) this.#core.setMapStatus(i, status ?? 0);
    });
  }

  /** Carries out copies. Only indirect pages have content here: the core never looks at data. */
  #copy(): void {
    const copies = Array.from({ length: this.#core.copies }, (_, i) => copyAt(view, i));
    this.#log.push(...copyLines(copies));
    copies.forEach(({ gref, offset, local, bytes }, i) => {
      const status = this.#grantStatus.get(gref);
      if (status === null) return;
      view.setInt16(abi.COPIES + i * abi.COPY_BYTES + abi.COPY_STATUS, status ?? 0, true);
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
      const bytes = this.#stride === 112 ? 16 : 12;
      const hex = Array.from(memory.u8.subarray(at, at + bytes), (byte) =>
        byte.toString(16).padStart(2, "0"),
      );
      responses.push(responseText(view, at) + (this.#showBytes ? `\n    ${hex.join(" ")}` : ""));
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
