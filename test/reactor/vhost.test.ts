/** Rings on a vhost-user server's virtqueues, in reactor threads: the server's part is played in this one. */
import assert from "node:assert/strict";
import { fstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { type TestContext, test } from "node:test";
import { random, runWorkload } from "../../host/guest/workload.js";
import { openDisk } from "../../host/storage/disk.js";
import type { Patience } from "../../host/storage/patience.js";
import { bit, Feature } from "../../host/storage/vhost-user/abi.js";
import { openVhostUser } from "../../host/storage/vhost-user/open.js";
import { capricious } from "../storage/vhost-lies.js";
import { type FakeServer, FEATURES, type Script, vhostServer } from "../storage/vhost-server.js";
import { type Guest, LIMIT, Machine, until } from "../vbd/harness.js";

const MIB = 1 << 20;

interface Place {
  readonly machine: Machine;
  readonly target: string;
  readonly servers: FakeServer[];
  /** What was said of the disk. */
  readonly log: string[];
}

async function start(
  t: TestContext,
  script: Script,
  patience: Partial<Patience> = {},
  reactors = 2,
): Promise<Place> {
  let machine: Machine | null = null;
  // While its server is there.
  t.after(() => machine?.close());
  const { target, path, servers } = await vhostServer(t, script);
  const log: string[] = [];
  machine = await Machine.start({
    threads: { reactors, engine: "io_uring" },
    open: (source, options) =>
      source === target
        ? openVhostUser(target, path, { ...options, patience, warn: (line) => log.push(line) })
        : openDisk(source, options),
  });
  return { machine, target, log, servers };
}

for (const [name, features, queues, served] of [
  ["a virtqueue for each of four rings", FEATURES, 4, 2],
  [
    "no indirect descriptors and no event index",
    FEATURES & ~bit(Feature.indirect) & ~bit(Feature.eventIndex),
    4,
    2,
  ],
  ["fewer virtqueues than rings: all are served by the main thread", FEATURES, 2, 0],
] as const) {
  test(`${name}, every byte verified`, LIMIT, async (t) => {
    const disk = Buffer.alloc(4 * MIB);
    const { machine, target } = await start(t, { disk, features, queues });
    const guest = await machine.guest();
    await machine.plug({ path: target });
    const front = await machine.connect(guest, { queues: 4 });
    assert.deepEqual(
      machine.reactor.threads.map(({ rings }) => rings).filter((rings) => rings > 0),
      Array(served).fill(2),
    );
    const chunks: Buffer[] = [];
    await runWorkload(front, { operations: 1500, depth: 64, seed: 1 }, (data) =>
      chunks.push(Buffer.from(data)),
    );
    assert.deepEqual(Buffer.concat(chunks), disk);
    assert.equal(machine.status()?.counters.maps, 0);
    await front.close();
    await machine.untilClean();
    assert.equal(machine.host.hypervisor.grantsInUse(), 0);
    await machine.unplug();
    await until("the vbd is gone", () => machine.status() === undefined);
    assert.ok(!links().some((link) => link.includes("memfd:xbdback")), links().join("\n"));
  });
}

/** What this process has open, by descriptor. */
function links(): string[] {
  const list: string[] = [];
  for (const fd of readdirSync("/proc/self/fd").map(Number)) {
    try {
      list[fd] = readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      // It was that of the directory.
    }
  }
  return list;
}

const eventFds = (): number => links().filter((link) => link?.includes("[eventfd]")).length;

/** Bytes that the shared memory has. */
function shared(): number {
  const fd = links().findIndex((link) => link?.includes("memfd:xbdback-vhost-user"));
  return fstatSync(fd).blocks * 512;
}

test("an idle ring's window is given back, for the server, too", LIMIT, async (t) => {
  const disk = Buffer.alloc(64 * MIB);
  const { machine, target } = await start(t, { disk });
  const guest = await machine.guest(1, 256 * MIB);
  await machine.plug({ path: target });
  const front = await machine.connect(guest, { queues: 1, inFlightBytes: 64 * MIB });
  const before = shared();
  const bytes = Buffer.alloc(MIB, 7);
  await Promise.all(Array.from({ length: 32 }, (_, i) => front.write(i * MIB, bytes)));
  assert.ok(shared() > before + 8 * MIB, `${shared()} bytes`);
  await until("the memory is back", () => shared() < before + 2 * MIB);
  const read = new Uint8Array(MIB);
  await front.read(5 * MIB, read);
  assert.ok(read.every((byte) => byte === 7));
});

test("a disk that grows grows for its guest", LIMIT, async (t) => {
  const { machine, target, servers } = await start(t, {
    disk: Buffer.alloc(4 * MIB),
    config: { bytes: MIB },
  });
  const guest = await machine.guest();
  await machine.plug({ path: target });
  const front = await machine.connect(guest, { queues: 1 });
  servers.at(-1)!.resize(4 * MIB);
  await until("the guest has seen it", () => front.size === 4 * MIB);
  const bytes = Buffer.alloc(4096, 3);
  await front.write(3 * MIB, bytes);
  const read = new Uint8Array(4096);
  await front.read(3 * MIB, read);
  assert.deepEqual(Buffer.from(read), bytes);
});

/** A guest that does what it can, whatever comes of it. */
async function use(machine: Machine, guest: Guest, path: string, next: () => number): Promise<void> {
  await machine.plug({ path });
  const front = await machine.connect(guest, { queues: 2 });
  const work = Array.from({ length: 150 }, (_, i) => {
    const bytes = new Uint8Array(512 * (1 + (next() % 300)));
    const at = (next() % 1024) * 512;
    const done = i % 9 === 0 ? front.flush() : i % 2 ? front.read(at, bytes) : front.write(at, bytes);
    return done.catch(() => {});
  });
  await Promise.all(work);
  await front.close();
  await machine.unplug();
  await until("the vbd is gone", () => machine.status() === undefined);
}

test(
  "a server that lies, stalls or dies costs its own disk alone; another guest's is verified",
  LIMIT,
  async (t) => {
    let script: Script = {};
    const disk = Buffer.alloc(2 * MIB);
    const { machine, target } = await start(
      t,
      { disk, serves: (asked, server) => script.serves!(asked, server) },
      { silenceMs: 100, reconnectMs: 400 },
      1,
    );
    const [guest, neighbour] = [await machine.guest(), await machine.guest(2)];
    const path = machine.image("neighbour.img", 4 * MIB);
    await machine.plug({ path, domid: 2 });
    const front = await machine.connect(neighbour, { queues: 1 });
    let stopped = false;
    const first = Number(process.env["XBDBACK_SEED"] ?? 1);
    const verified = (async () => {
      for (let seed = first; !stopped; seed++) {
        const chunks: Buffer[] = [];
        await runWorkload(front, { operations: 300, depth: 16, seed }, (data) =>
          chunks.push(Buffer.from(data)),
        );
        assert.deepEqual(Buffer.concat(chunks), readFileSync(path));
        await front.write(0, Buffer.alloc(4 * MIB));
      }
    })();
    const before = eventFds();
    for (let seed = first; seed < first + 12; seed++) {
      const next = random(seed);
      script = { serves: capricious(next, true) };
      await use(machine, guest, target, next).catch((error: Error) =>
        assert.fail(`seed ${seed}: ${error.stack}`),
      );
    }
    await until("the descriptors are closed", () => eventFds() <= before);
    stopped = true;
    await verified;
    await front.close();
    await machine.untilClean();
  },
);
