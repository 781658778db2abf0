/**
 * A guest beside the one that is measured, as a process: it takes all that it can get of its disk. Lines on stdin: "go"
 * connects the disk and starts, answered with "running" when the first requests were answered; "rest" closes it, answered
 * with how many requests were answered, and in how many seconds. DEPTH is for a guest that does the same as the good one.
 * usage: neighbour.js DIRECTORY DOMID DEVID KIND DEPTH
 */
import { createInterface } from "node:readline";
import { PAGE_SIZE } from "../../host/core/memory.js";
import { type Blkfront, connectBlkfront } from "../../host/guest/blkfront.js";
import { type GuestDomain, joinDomain } from "../../host/guest/process.js";
import { SAME } from "./neighbours.js";

const SEGMENTS = 256;
const QUEUES = 4;
/** Requests of large kinds in flight. */
const DEPTH = 1024;
/** Grants that a guest cycles through with persistent grants: Linux's limit. */
const GRANTS = 1056;
const [READ, WRITE] = [0, 1];

/** What a kind's requests are: sectors of each of their 256 segments, and whether grants stay mapped. */
const KINDS = {
  honestp: { operation: READ, sectors: 1, persistent: true },
  hash: { operation: READ, sectors: 1, persistent: true },
  copyread: { operation: READ, sectors: 8, persistent: false },
  copy: { operation: WRITE, sectors: 8, persistent: false },
  /** Writes, since no cache answers them, of a guest whose storage hangs. Its requests may fail. */
  hung: { operation: WRITE, sectors: 8, persistent: false },
} as const;

type LargeKind = keyof typeof KINDS;
type NeighbourKind = LargeKind | typeof SAME;

/** An indirect page with these grants, and the page's own grant. */
function indirectPage({ pages }: GuestDomain, refs: readonly number[], sectors: number): number {
  const frame = pages.allocate(1);
  for (let i = 0; i < SEGMENTS; i++) {
    const at = frame * PAGE_SIZE + 8 * i;
    pages.memory.u32[at >> 2] = refs[i % refs.length];
    pages.memory.u32[(at >> 2) + 1] = (sectors - 1) << 8;
  }
  return pages.grant(0, frame, true);
}

/** So many grants of the guest's, each of one of 256 pages. */
function grant({ pages }: GuestDomain, count: number): number[] {
  const frame = pages.allocate(SEGMENTS);
  return Array.from({ length: count }, (_, i) => pages.grant(0, frame + (i % SEGMENTS), false));
}

/**
 * References that fell on one stretch of the core's table of persistent grants while it had no key: a guest can find such
 * where it knows how the table is made.
 */
function colliding(refs: readonly number[]): number[] {
  const bucket = (ref: number): number => (Math.imul(ref, 0x9e3779b1) >>> 0) >>> 20;
  return [...refs].sort((a, b) => ((bucket(a) - 100) & 4095) - ((bucket(b) - 100) & 4095)).slice(0, GRANTS);
}

class Neighbour {
  readonly #domain: GuestDomain;
  readonly #devid: number;
  readonly #kind: NeighbourKind;
  readonly #depth: number;
  #disk: Blkfront | null = null;
  #answered = 0;
  #started = 0;
  #goesOn = false;
  #workers: Promise<void>[] = [];
  /** Grants of the indirect pages: those sent once at first, and the one that all requests name. */
  readonly #first: number[] = [];
  #page = 0;

  constructor(domain: GuestDomain, devid: number, kind: NeighbourKind, depth: number) {
    this.#domain = domain;
    this.#devid = devid;
    this.#kind = kind;
    this.#depth = kind === SAME ? depth : DEPTH;
    if (kind !== SAME) this.#prepare(kind);
  }

  #prepare(kind: LargeKind): void {
    const { sectors } = KINDS[kind];
    const refs = kind === "hash" ? colliding(grant(this.#domain, 20_000)) : grant(this.#domain, GRANTS);
    if (kind === "hash") {
      for (let i = 0; i < GRANTS; i += SEGMENTS)
        this.#first.push(indirectPage(this.#domain, refs.slice(i, i + SEGMENTS), sectors));
    }
    const used = kind === "hash" ? refs.slice(-8) : refs.map((_, i) => refs[(i * 17) % GRANTS]);
    this.#page = indirectPage(this.#domain, used.slice(0, SEGMENTS), sectors);
  }

  async go(): Promise<void> {
    const kind = this.#kind;
    const options =
      kind === SAME
        ? { queues: 1 }
        : { queues: QUEUES, ringPageOrder: 4, persistent: KINDS[kind].persistent, inFlightBytes: 1 << 20 };
    const disk = await connectBlkfront(this.#domain, this.#devid, options);
    this.#disk = disk;
    this.#goesOn = true;
    this.#answered = 0;
    for (const page of this.#first) await this.#request(disk, READ, 1, page, 0);
    this.#started = performance.now();
    const work = kind === SAME ? () => this.#small(disk) : () => this.#large(disk, kind);
    this.#workers = Array.from({ length: this.#depth }, work);
    while (this.#answered < 100) await new Promise((resolve) => setTimeout(resolve, 5));
  }

  #request(
    disk: Blkfront,
    operation: number,
    sectors: number,
    page: number,
    sector: number,
  ): Promise<number> {
    const raw = { operation, indirect: true, indirectRefs: [page], nrSegments: SEGMENTS };
    return disk.submit({ ...raw, sector: BigInt(sector * sectors) });
  }

  /** Requests as those that the case makes, one after the other. */
  async #large(disk: Blkfront, kind: LargeKind): Promise<void> {
    const { operation, sectors } = KINDS[kind];
    const places = Math.floor(disk.size / 512 / sectors) - SEGMENTS;
    while (this.#goesOn) {
      const status = await this.#request(
        disk,
        operation,
        sectors,
        this.#page,
        Math.floor(Math.random() * places),
      );
      if (status !== 0 && kind !== "hung") throw new Error(`a request was answered with ${status}`);
      this.#answered++;
    }
  }

  /** What the guest that is measured does, and as fast: without a promise for each request. */
  #small(disk: Blkfront): Promise<void> {
    const data = new Uint8Array(PAGE_SIZE);
    return new Promise((resolve, reject) => {
      const next = (): void => {
        if (!this.#goesOn) {
          resolve();
          return;
        }
        const position = Math.floor(Math.random() * (disk.size / PAGE_SIZE)) * PAGE_SIZE;
        disk.start(Math.random() < 0.7 ? "read" : "write", position, data, done, reject);
      };
      const done = (): void => {
        this.#answered++;
        next();
      };
      next();
    });
  }

  async rest(): Promise<{ requests: number; seconds: number }> {
    this.#goesOn = false;
    const [requests, seconds] = [this.#answered, (performance.now() - this.#started) / 1000];
    await Promise.all(this.#workers);
    await this.#disk?.close();
    return { requests, seconds };
  }
}

const [directory, domid, devid, kind, depth] = process.argv.slice(2);
process.on("SIGINT", () => {});
process.stdin.on("end", () => process.exit());
const domain = await joinDomain(directory, Number(domid));
const neighbour = new Neighbour(domain, Number(devid), kind as NeighbourKind, Number(depth));
for await (const line of createInterface({ input: process.stdin })) {
  try {
    if (line === "go") await neighbour.go();
    const answer = line === "go" ? "running" : JSON.stringify(await neighbour.rest());
    process.stdout.write(`${answer}\n`);
  } catch (error) {
    process.stdout.write(`failed: ${(error as Error).message}\n`);
  }
}
