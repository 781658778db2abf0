/** Who is measured: the core and the plain JavaScript peer in this process, the C peer as a program of its own. */
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import * as abi from "../../assembly/abi.js";
import { BlkifCore } from "../../host/core/blkif.js";
import { coreModule } from "../../host/core/load.js";
import { allocateMemory } from "../../host/core/memory.js";
import { median } from "../statistics.js";
import { type Contestant, Host } from "./host.js";
import { JavascriptCore } from "./javascript.js";
import { BASE, DISK_SECTORS, ENTRIES, ENTRY_BYTES, type Scenario } from "./scenario.js";

const BATCH = 64;
const MAX_PERSISTENT = 1056;
const MIN_SAMPLES = 5;
const DOMID = 7;
const TRANSCRIPT_LIMIT = 1 << 28;

export interface Runner {
  readonly name: "core" | "c" | "javascript";
  /** Everything that the contestant asked for and answered in the scenario, each span run once. */
  transcript(scenario: Scenario): Uint8Array;
  /** Median ns a request of the measured spans, run for about this long. */
  measure(scenario: Scenario, milliseconds: number): number;
}

/** A contestant in this process. `attach` makes it ready for a scenario, on a ring of zeros. */
export class InProcess implements Runner {
  readonly name: "core" | "javascript";
  readonly #attach: (scenario: Scenario) => Contestant;

  constructor(name: "core" | "javascript", attach: (scenario: Scenario) => Contestant) {
    this.name = name;
    this.#attach = attach;
  }

  transcript(scenario: Scenario): Uint8Array {
    const host = new Host(this.#attach(scenario), scenario);
    host.transcript = [];
    for (const span of scenario.spans) host.span(span);
    return Buffer.concat(host.transcript);
  }

  measure(scenario: Scenario, milliseconds: number): number {
    const host = this.#measured(scenario);
    const samples: number[] = [];
    for (let spent = 0; samples.length < MIN_SAMPLES || spent < milliseconds * 1e6; ) {
      const nanoseconds = runMeasured(host, scenario);
      samples.push(nanoseconds / measuredRequests(scenario));
      spent += nanoseconds;
    }
    return median(samples);
  }

  /** Calls of step() that a measured request takes. */
  stepsPerRequest(scenario: Scenario): number {
    const host = this.#measured(scenario);
    const before = host.steps;
    runMeasured(host, scenario);
    return (host.steps - before) / measuredRequests(scenario);
  }

  #measured(scenario: Scenario): Host {
    const host = new Host(this.#attach(scenario), scenario);
    host.span(scenario.spans[0]);
    host.presetTables();
    return host;
  }
}

function runMeasured(host: Host, { spans }: Scenario): number {
  let total = 0;
  for (let i = 1; i < spans.length; i++) total += host.span(spans[i]);
  return total;
}

function measuredRequests({ spans }: Scenario): number {
  return spans.slice(1).reduce((sum, span) => sum + span.length / ENTRY_BYTES, 0);
}

function resetRing(buffer: ArrayBufferLike): void {
  new Uint8Array(buffer).fill(0, abi.SRING, abi.PERSISTENT);
  const u32 = new Uint32Array(buffer);
  u32[abi.SRING_REQ_EVENT >> 2] = u32[abi.SRING_RSP_EVENT >> 2] = 1;
}

/** The core, and a way to see that its memory is still as large as it was. */
export function coreRunner(): { runner: InProcess; memoryBytes: () => number } {
  const memory = { ...allocateMemory(abi.MEMORY_BYTES), base: BASE };
  const core = new BlkifCore(coreModule(), memory);
  const step = (completions: number): number => core.step(completions);
  const runner = new InProcess("core", (scenario) => {
    resetRing(memory.memory.buffer);
    const code = core.attach({
      abi: abi.ABI_X86_64,
      ringPages: abi.MAX_RING_PAGES,
      features: scenario.features,
      domid: DOMID,
      sectors: DISK_SECTORS,
      sectorSize: 512,
      maxIndirect: abi.MAX_SEGMENTS,
      batch: BATCH,
      maxPersistent: MAX_PERSISTENT,
    });
    if (code !== abi.ATTACH_OK) throw new Error(`the core rejected its configuration (${code})`);
    return { buffer: memory.memory.buffer, step };
  });
  return { runner, memoryBytes: () => memory.memory.buffer.byteLength };
}

export function javascriptRunner(): InProcess {
  const buffer = new ArrayBuffer(abi.MEMORY_BYTES);
  return new InProcess("javascript", (scenario) => {
    resetRing(buffer);
    const peer = new JavascriptCore(buffer, {
      entries: ENTRIES,
      features: scenario.features,
      domid: DOMID,
      base: BASE,
      sectors: DISK_SECTORS,
      sectorUnits: 1,
      maxIndirect: abi.MAX_SEGMENTS,
      maxIo: abi.MAX_IO,
      batch: BATCH,
      maxPersistent: MAX_PERSISTENT,
    });
    return { buffer, step: (completions) => peer.step(completions) };
  });
}

// ---- The C peer ----

const SOURCES = new URL("../../../bench/core/", import.meta.url);
const OUTPUT = new URL("native/", import.meta.url);

/** Compiles peer.c with gcc. Returns null, and says why, where there is no gcc. Throws when it does not compile. */
export function cRunner(say: (line: string) => void): Runner | null {
  const found = spawnSync("gcc", ["--version"], { encoding: "utf8" });
  if (found.error) {
    say("no C column: gcc is not installed");
    return null;
  }
  mkdirSync(OUTPUT, { recursive: true });
  const constants = Object.entries(abi).map(([name, value]) => `#define ${name} (${value})\n`);
  writeFileSync(new URL("abi.h", OUTPUT), constants.join(""));
  const program = fileURLToPath(new URL("peer", OUTPUT));
  // The tables between core and host are plain memory, read as one structure or another, as in Xen and Linux.
  const flags = [
    "-O2",
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-fno-strict-aliasing",
    "-I",
    fileURLToPath(OUTPUT),
  ];
  const files = ["peer.c", "drive.c"].map((name) => fileURLToPath(new URL(name, SOURCES)));
  const compiled = spawnSync("gcc", [...flags, ...files, "-o", program], { encoding: "utf8" });
  if (compiled.status !== 0) throw new Error(`gcc failed on bench/core/peer.c:\n${compiled.stderr}`);
  return new CProgram(program);
}

class CProgram implements Runner {
  readonly name = "c";
  readonly #program: string;

  constructor(program: string) {
    this.#program = program;
  }

  transcript(scenario: Scenario): Uint8Array {
    return this.#run(scenario, true, 0);
  }

  measure(scenario: Scenario, milliseconds: number): number {
    return Number(this.#run(scenario, false, milliseconds * 1000).toString());
  }

  #run(scenario: Scenario, record: boolean, microseconds: number): Buffer {
    const { features, batch, faults, tables, spans } = scenario;
    const header = new Uint32Array(10);
    header.set([Number(record), features, batch, Number(faults), tables.length, spans.length, microseconds]);
    header.set([DISK_SECTORS, BASE % 2 ** 32, BASE / 2 ** 32], 7);
    const counts = Uint32Array.from(spans, (span) => span.length / ENTRY_BYTES);
    const parts = [new Uint8Array(header.buffer), new Uint8Array(counts.buffer), ...tables, ...spans];
    const { status, stdout } = spawnSync(this.#program, {
      input: Buffer.concat(parts),
      maxBuffer: TRANSCRIPT_LIMIT,
    });
    if (status !== 0) throw new Error(`the C peer ended with ${status} in ${scenario.name}`);
    return stdout;
  }
}
