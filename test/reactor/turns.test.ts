/**
 * What others have done between two turns of a good ring, counted: bytes and segments that were copied, and bytes of I/Os
 * that were started, for one neighbour with four rings of large requests. The cores are real; grants and disks only count.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import type { BlkifCore } from "../../host/core/blkif.js";
import { allocateMemory, type LinearMemory } from "../../host/core/memory.js";
import type { EventChannels, GrantTable } from "../../host/platform/ports.js";
import { Activity } from "../../host/reactor/activity.js";
import type { IoOwner } from "../../host/reactor/io-queue.js";
import { Reactor } from "../../host/reactor/reactor.js";
import type { Ring } from "../../host/reactor/ring.js";
import { type Credit, QUANTUM, type TurnRing, Turns } from "../../host/reactor/turns.js";
import { Result } from "../../host/storage/device.js";

/** Disks are quick, however busy the machine that tests is. */
const noTime = (): number => 1;

const GOOD = 1;
const BAD = 2;
const SECTORS = 1 << 20;
const INDIRECT_PAGE = 5000;

/** What was done for a domain since somebody looked. */
class Work {
  segments = 0;
  copied = 0;
  started = 0;
}

/** What a domain has in flight, and the most that it had. */
class InFlight {
  now = 0;
  most = 0;

  add(bytes: number): void {
    this.now += bytes;
    this.most = Math.max(this.most, this.now);
  }
}

class Platform {
  readonly work = new Map([GOOD, BAD].map((domid) => [domid, new Work()]));
  readonly inFlight = new Map([GOOD, BAD].map((domid) => [domid, new InFlight()]));
  readonly rung: number[] = [];
  #ports = 0;
  /** Sectors of each segment of an indirect page. */
  readonly lastSector: number;

  constructor(lastSector: number) {
    this.lastSector = lastSector;
  }

  events(): EventChannels {
    return {
      bindInterdomain: async () => ++this.#ports,
      unbind: async () => {},
      notify: () => {},
      unmask: () => {},
      close: async () => {},
      read: (ports: Uint32Array) => {
        const some = this.rung.splice(0, ports.length);
        ports.set(some);
        return some.length;
      },
    } as unknown as EventChannels;
  }

  grants(): GrantTable {
    return {
      mappedPages: 0,
      close: () => {},
      unmap: () => {},
      map: (_memory, _at, _domid, _refs, _writable, status) => status.fill(0),
      copy: (memory, table, count) => this.#copy(memory, table, count),
    };
  }

  #copy(memory: LinearMemory, table: number, count: number): void {
    const view = new DataView(memory.memory.buffer);
    for (let at = table; at < table + count * abi.COPY_BYTES; at += abi.COPY_BYTES) {
      const toGuest = view.getUint16(at + abi.COPY_FLAGS, true) === abi.COPY_DEST_GREF;
      const grant = at + (toGuest ? abi.COPY_DEST : abi.COPY_SOURCE);
      const work = this.work.get(view.getUint16(grant + 6, true)) as Work;
      work.segments++;
      work.copied += view.getUint16(at + abi.COPY_LENGTH, true);
      view.setInt16(at + abi.COPY_STATUS, 0, true);
      if (view.getUint32(grant, true) !== INDIRECT_PAGE) continue;
      const local = Number(view.getBigUint64(at + abi.COPY_DEST, true)) - memory.base;
      for (let i = 0; i < abi.MAX_SEGMENTS; i++) {
        view.setUint32(local + i * 8, 8 + i, true);
        view.setUint32(local + i * 8 + 4, this.lastSector << 8, true);
      }
    }
  }
}

/** A ring, its guest and its disk. */
class Side {
  readonly domid: number;
  readonly #platform: Platform;
  readonly #device: object;
  readonly memory = allocateMemory(abi.MEMORY_BYTES);
  readonly #view = new DataView(this.memory.memory.buffer);
  readonly #started: number[] = [];
  readonly #lengths: number[] = [];
  #ring!: Ring;
  #owner!: IoOwner;
  #produced = 0;

  /** Rings of one disk have the same `device`. */
  constructor(platform: Platform, domid: number, device: object) {
    this.#platform = platform;
    this.domid = domid;
    this.#device = device;
    for (const at of [abi.SRING_REQ_EVENT, abi.SRING_RSP_EVENT]) this.memory.u32[at >> 2] = 1;
  }

  async attach(reactor: Reactor, features: number): Promise<void> {
    const config = { abi: abi.ABI_X86_64, ringPages: 1, features, domid: this.domid, sectors: SECTORS };
    this.#ring = await reactor.attach(
      {
        config: { ...config, sectorSize: 512, maxIndirect: 256 },
        ringRefs: Uint32Array.of(1),
        memory: this.memory,
        start: "attach",
        device: this.#device,
        makeQueue: (core: BlkifCore, owner: IoOwner) => {
          this.#owner = owner;
          const start = (slot: number): void => {
            this.#started.push(slot);
            const { length } = core.ioAt(slot);
            (this.#platform.work.get(this.domid) as Work).started += length;
            (this.#platform.inFlight.get(this.domid) as InFlight).add(length);
            this.#lengths.push(length);
          };
          return { start, close: () => {} };
        },
        onHalt: (why) => assert.fail(why),
        onError: (operation) => assert.fail(operation),
      },
      1,
    );
  }

  /** Requests that wait for a response, or to be taken. */
  get asked(): number {
    return this.#produced - this.memory.u32[abi.SRING_RSP_PROD >> 2];
  }

  /** Puts a request on the ring: of one page, or INDIRECT of 256 segments. */
  put(operation: number, indirect: boolean): void {
    const at = abi.SRING_ENTRIES + (this.#produced % 32) * 112;
    this.memory.u8.fill(0, at, at + 112);
    this.memory.u8.set(indirect ? [abi.BLKIF_OP_INDIRECT, operation] : [operation, 1], at);
    if (indirect) this.#view.setUint16(at + 2, abi.MAX_SEGMENTS, true);
    this.#view.setBigUint64(at + 16, BigInt((this.#produced * 4096) % (SECTORS - 4096)), true);
    // A plain request's segments begin here, an indirect one's grants four bytes further on.
    this.#view.setUint32(at + (indirect ? 28 : 24), indirect ? INDIRECT_PAGE : 8, true);
    if (!indirect) this.memory.u8[at + 29] = 7;
    this.#produced++;
  }

  push(): void {
    this.memory.u32[abi.SRING_REQ_PROD >> 2] = this.#produced;
    this.#platform.rung.push(this.#ring.port);
  }

  complete(): void {
    for (const length of this.#lengths.splice(0))
      (this.#platform.inFlight.get(this.domid) as InFlight).add(-length);
    for (const slot of this.#started.splice(0)) this.#owner.ended(slot, Result.Success);
  }
}

interface Neighbour {
  readonly name: string;
  readonly operation: number;
  readonly features: number;
  readonly lastSector: number;
}

const NEIGHBOURS: readonly Neighbour[] = [
  {
    name: "reads of 128 KiB into pages that stay mapped",
    operation: 0,
    features: abi.FEATURE_PERSISTENT,
    lastSector: 0,
  },
  { name: "reads of 1 MiB by grant copy", operation: 0, features: 0, lastSector: 7 },
  { name: "writes of 1 MiB by grant copy", operation: 1, features: 0, lastSector: 7 },
];

for (const { name, operation, features, lastSector } of NEIGHBOURS) {
  test(`between two turns of a good ring: four queues of ${name}`, async () => {
    const platform = new Platform(lastSector);
    const reactor = new Reactor(platform.events(), platform.grants(), new Activity(), noTime);
    const good = new Side(platform, GOOD, {});
    await good.attach(reactor, 0);
    const device = {};
    const queues = Array.from({ length: 4 }, () => new Side(platform, BAD, device));
    for (const queue of queues) await queue.attach(reactor, features);
    const total = new Work();
    const most = new Work();
    const goodWork = platform.work.get(GOOD) as Work;
    let turns = 0;
    let told = false;
    reactor.onReady = () => {
      told = true;
    };
    for (let i = 0; i < 3000; i++) {
      if (good.asked === 0) {
        good.put(0, false);
        good.push();
      }
      for (const queue of queues) {
        if (queue.asked > 16) continue;
        while (queue.asked < 32) queue.put(operation, true);
        queue.push();
      }
      reactor.dispatch();
      const before = goodWork.segments + goodWork.started;
      told = false;
      reactor.turn();
      assert.equal(told, reactor.ready, "whoever drives it knows that there is more");
      const work = platform.work.get(BAD) as Work;
      for (const field of ["segments", "copied", "started"] as const) {
        most[field] = Math.max(most[field], work[field]);
        if (goodWork.segments + goodWork.started === before) continue;
        total[field] += work[field];
        work[field] = 0;
      }
      if (goodWork.segments + goodWork.started !== before) turns++;
      good.complete();
      for (const queue of queues) queue.complete();
    }
    // The good ring has had a turn whenever it wanted one: a request is taken in one, and copied in another.
    assert.ok(turns > 2900, `${turns} turns`);
    // The page of an indirect request is copied in addition.
    assert.ok(most.segments <= QUANTUM.segments * 2, `${most.segments} segments`);
    assert.ok(most.copied <= QUANTUM.bytes * 2, `${most.copied} bytes copied`);
    assert.ok(most.started < QUANTUM.bytes + abi.MAX_IO, `${most.started} bytes of I/O`);
    const inFlight = (platform.inFlight.get(BAD) as InFlight).most;
    // Each is scattered over 1 MiB, and goes alone.
    assert.equal(inFlight, 256 * (lastSector + 1) * 512);
    const [copied, started] = [total.copied / turns, total.started / turns];
    assert.ok(copied + started <= QUANTUM.bytes * 1.1, `on average ${copied} copied and ${started} started`);
    // It is no less than a part of its quantum, either.
    assert.ok(total.segments + total.started > 0 && copied + started > QUANTUM.bytes / 8, "it is served");
  });
}

test("beside others an I/O counts for all the pages that it is scattered over", async () => {
  const platform = new Platform(0);
  const reactor = new Reactor(platform.events(), platform.grants(), new Activity(), noTime);
  const [side, neighbour] = [BAD, GOOD].map((domid) => new Side(platform, domid, {}));
  for (const one of [side, neighbour]) await one.attach(reactor, abi.FEATURE_PERSISTENT);
  const turns = (): void => {
    for (let i = 0; i < 100; i++) {
      reactor.dispatch();
      reactor.turn();
    }
  };
  for (const one of [neighbour, side]) {
    // The first tells the disk's latency.
    one.put(0, one === side);
    one.push();
    turns();
    side.complete();
  }
  while (side.asked < 32) side.put(0, true);
  side.push();
  turns();
  // 256 sectors, each in a page of its own.
  assert.equal((platform.inFlight.get(BAD) as InFlight).now, 256 * 512);
});

test("what ends in the midst of a pass is answered, though nothing comes after it", async () => {
  const platform = new Platform(7);
  const reactor = new Reactor(platform.events(), platform.grants());
  const [side, neighbour] = [BAD, GOOD].map((domid) => new Side(platform, domid, {}));
  for (const one of [side, neighbour]) await one.attach(reactor, 0);
  const turn = (): void => {
    reactor.dispatch();
    reactor.turn();
  };
  // A write of one page is in flight, while one of 256 is copied over several turns.
  side.put(1, false);
  side.push();
  turn();
  const work = platform.work.get(BAD) as Work;
  neighbour.put(0, false);
  neighbour.push();
  side.put(1, true);
  side.push();
  const copied = work.segments;
  while (work.segments < copied + 2) turn();
  assert.ok(work.segments < copied + abi.MAX_SEGMENTS, "its pass has not ended");
  side.complete();
  while (work.segments < copied + abi.MAX_SEGMENTS) turn();
  for (let i = 0; i < 20; i++) turn();
  assert.equal(side.asked, 1, "the first is answered, and the second is in flight");
});

test("a disk that hangs keeps none of its guest's other disks waiting, beside a neighbour or alone", async () => {
  const platform = new Platform(7);
  const reactor = new Reactor(platform.events(), platform.grants(), new Activity(), noTime);
  const [hung, other, neighbour] = [BAD, BAD, GOOD].map((domid) => new Side(platform, domid, {}));
  for (const side of [hung, other, neighbour]) await side.attach(reactor, abi.FEATURE_PERSISTENT);
  const turns = (): void => {
    for (let i = 0; i < 20; i++) {
      reactor.dispatch();
      reactor.turn();
      for (const side of [other, neighbour]) side.complete();
    }
  };
  while (hung.asked < 32) hung.put(0, true);
  hung.push();
  for (const company of [[neighbour], []]) {
    for (const side of [other, ...company]) {
      side.put(0, false);
      side.push();
    }
    turns();
    assert.deepEqual([other.asked, neighbour.asked], [0, 0]);
    assert.equal(hung.asked, 32);
  }
});

// ---- Deficit round robin by itself ----

interface Fake extends TurnRing {
  readonly name: string;
}

/** Runs turns, in which a ring takes up what `cost` says and wants to run again; the names of those that ran, by turn. */
function turnsOf(rings: readonly Fake[], cost: (ring: Fake) => Credit, count: number, pause = 0): string[] {
  let time = 0;
  let ran = "";
  const turns = new Turns<Fake>(
    (ring, credit) => {
      ran += ring.name;
      const { segments, bytes } = cost(ring);
      credit.segments -= segments;
      credit.bytes -= bytes;
      turns.enqueue(ring);
    },
    () => time,
  );
  for (const { domid } of rings) turns.add(domid);
  for (const ring of rings) turns.enqueue(ring);
  return Array.from({ length: count }, () => {
    ran = "";
    turns.take();
    time += pause;
    return ran;
  });
}

const ring = (name: string, domid: number): Fake => ({ name, domid, ready: true });
const small: Credit = { segments: 1, bytes: 4096 };
const large: Credit = { segments: 256, bytes: 1 << 20 };

test("small requests: every ring of every guest has a pass in a turn", () => {
  assert.deepEqual(
    turnsOf([ring("a", 1), ring("b", 2), ring("c", 2)], () => small, 3),
    ["abc", "abc", "abc"],
  );
});

test("a guest's rings take turns where its quantum is not enough for all", () => {
  const cost = { segments: QUANTUM.segments, bytes: 1 };
  const rings = [ring("a", 1), ring("b", 2), ring("c", 2)];
  assert.deepEqual(
    turnsOf(rings, ({ domid }) => (domid === 1 ? small : cost), 4),
    ["ab", "ac", "ab", "ac"],
  );
});

test("whoever has taken up more than its quantum sits out until that is paid", () => {
  const rings = [ring("a", 1), ring("b", 2)];
  const turns = turnsOf(rings, ({ domid }) => (domid === 1 ? small : large), 80);
  assert.equal(turns.filter((names) => names === "ab").length, 10, turns.join(" "));
  assert.ok(turns.every((names) => names[0] === "a"));
});

test("where all have debts, the first that has paid goes on at once", () => {
  const turns = turnsOf([ring("a", 1), ring("b", 2)], () => large, 20);
  assert.ok(
    turns.every((names) => names !== ""),
    turns.join(" "),
  );
});

test("a guest alone makes a pass each turn, whatever it takes up", () => {
  const turns = turnsOf([ring("a", 1), ring("b", 1)], () => large, 10);
  assert.deepEqual(new Set(turns), new Set(["ab"]));
});
