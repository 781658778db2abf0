/** What one domain may have. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { totalmem } from "node:os";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { memoryOfRing } from "../../host/core/windows.js";
import { CappedRingHost, DEFAULT_CAPS, defaultMemory, SHARE_OF_ALL } from "../../host/reactor/capped.js";
import { machineMemory } from "../../host/reactor/machine-memory.js";
import type { AttachedRing, AttachOptions, RingHost } from "../../host/reactor/ring-host.js";
import type { BlockDevice } from "../../host/storage/device.js";

const DISK = {} as BlockDevice;
const MIB = 1 << 20;

function options(domid: number, more: Partial<AttachOptions> = {}, ringPages = 1): AttachOptions {
  return { config: { domid, ringPages }, device: DISK, start: "attach", ...more } as AttachOptions;
}

/** Attaches what it is told to, and remembers what that was. */
function plainHost(): { host: RingHost; attached: AttachOptions[] } {
  const attached: AttachOptions[] = [];
  const attach = async (what: AttachOptions): Promise<AttachedRing> => {
    attached.push(what);
    return { detach: async () => {} } as AttachedRing;
  };
  return { host: { attach } as unknown as RingHost, attached };
}

test("a domain gets so many rings and no more; those that are let go count no longer", async () => {
  let fails = false;
  const plain = {
    attach: async () => {
      if (fails) throw new Error("no memory");
      return { detach: async () => {} } as AttachedRing;
    },
  } as unknown as RingHost;
  const capped = new CappedRingHost(plain, { rings: 2 });
  const first = await capped.attach(options(1));
  await capped.attach(options(1));
  await assert.rejects(
    capped.attach(options(1)),
    /^Error: domain 1 has 2 rings, its maximum: .*--max-rings$/,
  );
  await capped.attach(options(2));
  await first.detach();
  fails = true;
  for (let i = 0; i < 3; i++) await assert.rejects(capped.attach(options(1)), /no memory/);
  fails = false;
  await capped.attach(options(1));
  await assert.rejects(capped.attach(options(1)), /, its maximum/);
});

test("so many disks, however many rings each has", async () => {
  const capped = new CappedRingHost(plainHost().host, { vbds: 2 });
  const disks = [{}, {}, {}] as BlockDevice[];
  const rings: AttachedRing[] = [];
  for (const device of disks.slice(0, 2)) {
    for (let i = 0; i < 3; i++) rings.push(await capped.attach(options(1, { device })));
  }
  const third = () => capped.attach(options(1, { device: disks[2] }));
  await assert.rejects(third(), /^Error: domain 1 has 2 disks connected, its maximum: .*--max-vbds$/);
  await capped.attach(options(2, { device: disks[2] }));
  for (const ring of rings.slice(0, 2)) await ring.detach();
  await assert.rejects(third(), /, its maximum/);
  await rings[2].detach();
  await third();
});

test("persistent grants get what is left, and a ring without room for its pages is refused", async () => {
  const { host, attached } = plainHost();
  const capped = new CappedRingHost(host, { grants: 1100 });
  await capped.attach(options(1, {}, 16));
  const second = await capped.attach(options(1, {}, 16));
  assert.deepEqual(
    attached.map(({ config }) => config.maxPersistent),
    // An eighth is for rings.
    [963, 0],
  );
  for (let i = 0; i < 6; i++) await capped.attach(options(1, {}, 16));
  await assert.rejects(
    capped.attach(options(1, {}, 16)),
    /^Error: domain 1 has 1091 of the 1100 pages that may be mapped from it, and a ring needs 16: .*--max-grants$/,
  );
  await capped.attach(options(2));
  await second.detach();
  await capped.attach(options(1, {}, 16));
});

test("as many rings as a domain may have fit, each as large as a ring may be, as far as its caps go", async () => {
  const { host, attached } = plainHost();
  const capped = new CappedRingHost(host, { memory: 64 * memoryOfRing(16) }, () => {}, {
    mappable: 1e6,
    memory: 1e12,
  });
  for (let i = 0; i < DEFAULT_CAPS.rings; i++) await capped.attach(options(1, {}, 16));
  const kept = attached.map(({ config }) => config.maxPersistent);
  assert.deepEqual(kept.slice(0, 14), [...Array(12).fill(1056), 576, 0]);
  await assert.rejects(capped.attach(options(1)), /^Error: domain 1 has 64 rings, its maximum: /);
});

/** The large regions that each ring was given. */
const largeOf = (attached: AttachOptions[]): number[] => attached.map(({ config }) => config.maxLarge ?? 0);

test("a ring gets at most an eighth of the memory that is left, one large region at least, or is refused", async () => {
  const { host, attached } = plainHost();
  const capped = new CappedRingHost(host, { memory: 128 * MIB });
  const rings: AttachedRing[] = [];
  const attach = async () => void rings.push(await capped.attach(options(1)));
  await assert.rejects(async () => {
    for (;;) await attach();
  }, /^Error: domain 1 has \d+ of the 128 MiB that its rings may use, and this one needs 6: .*--max-memory$/);
  const large = largeOf(attached);
  assert.deepEqual(large.slice(0, 4), [11, 9, 7, 6]);
  assert.ok(large.length >= 12, `room for three disks of four queues, not for ${large.length} rings`);
  assert.equal(large.at(-1), 1);
  const sum = large.reduce((bytes, regions) => bytes + memoryOfRing(1, regions), 0);
  assert.ok(sum <= 128 * MIB && sum > 122 * MIB, `${sum} bytes are promised`);
  await rings[0].detach();
  await attach();
  await capped.attach(options(2));
  assert.equal(largeOf(attached).at(-1), 11, "another domain's memory is its own");
});

test("where there is memory, a ring has all regions that it can use", async () => {
  const { host, attached } = plainHost();
  const capped = new CappedRingHost(host, { memory: 64 * memoryOfRing(16) }, () => {}, { memory: 1e12 });
  for (const pages of [1, 2, 16]) await capped.attach(options(1, {}, pages));
  assert.deepEqual(largeOf(attached), [32, 64, 64]);
  for (let i = 3; i < 64; i++) await capped.attach(options(1, {}, 16));
  assert.ok(Math.min(...largeOf(attached)) >= 8, "64 rings, each as large as a ring may be");
});

test("all domains' rings get fewer large regions as the memory for them runs short, and are not refused for it", async () => {
  const { host, attached } = plainHost();
  const lines: string[] = [];
  const capped = new CappedRingHost(host, { memory: 1e12, grants: 1e6 }, (line) => lines.push(line), {
    mappable: 1e6,
    memory: 512 * MIB,
  });
  for (let domid = 1; domid < 60; domid++) await capped.attach(options(domid));
  const large = largeOf(attached);
  assert.deepEqual([large[0], large.at(-1)], [32, 1]);
  assert.ok(large.every((regions, i) => i === 0 || regions <= large[i - 1]));
  assert.deepEqual(lines, [
    "xbdback: rings have most of the memory that is for them, half of the machine's; others have fewer large requests in flight at once",
  ]);
  await capped.attach(options(99, { start: "recover" }, 16));
  assert.equal(largeOf(attached).at(-1), 1);
});

test("one domain's default is a quarter of the machine's memory, at most what 64 of the largest rings use", () => {
  const GIB = 1024 * MIB;
  assert.equal(defaultMemory(GIB), GIB / 4);
  assert.equal(defaultMemory(1024 * GIB), 64 * memoryOfRing(abi.MAX_RING_PAGES));
  assert.equal(DEFAULT_CAPS.memory, defaultMemory(machineMemory()));
  assert.ok(machineMemory() > 0 && machineMemory() <= totalmem());
});

test("the unit has room for what all guests' rings may use, and for the rest of the daemon", () => {
  const unit = readFileSync(new URL("../../../packaging/xbdback.service", import.meta.url), "utf8");
  const share = (key: string): number => Number(new RegExp(`^${key}=([0-9]+)%$`, "m").exec(unit)?.[1]) / 100;
  assert.ok(share("MemoryHigh") >= 1 / SHARE_OF_ALL + 0.15, "MemoryHigh=");
  assert.ok(share("MemoryMax") > share("MemoryHigh") && share("MemoryMax") < 1, "MemoryMax=");
});

test("a ring that a guest has had before is taken over its caps, and counts", async () => {
  const { host, attached } = plainHost();
  const capped = new CappedRingHost(host, { rings: 1, vbds: 1, grants: 10 });
  await capped.attach(options(1));
  for (const start of ["recover", "resume"] as const) await capped.attach(options(1, { start }, 16));
  assert.deepEqual(
    attached.map(({ config }) => config.maxPersistent),
    [9, 0, 0],
  );
  await assert.rejects(capped.attach(options(1)), /domain 1 has 3 rings/);
});

test("all guests together get no more pages than the process may map", async () => {
  const { host, attached } = plainHost();
  const lines: string[] = [];
  const capped = new CappedRingHost(host, {}, (line) => lines.push(line), { mappable: 2000, memory: 1e12 });
  await capped.attach(options(1));
  assert.deepEqual(lines, []);
  const second = await capped.attach(options(2, {}, 16));
  // The rings of many more disks fit, without persistent grants.
  for (let domid = 3; domid < 20; domid++) await capped.attach(options(domid, {}, 13));
  const last = await capped.attach(options(20, { start: "recover" }, 16));
  assert.deepEqual(
    attached.slice(0, 4).map(({ config }) => config.maxPersistent),
    [1056, 693, 0, 0],
  );
  assert.deepEqual(lines, [
    "xbdback: persistent grants have as many pages as this process may map; other rings copy: raise vm.max_map_count for more",
  ]);
  await assert.rejects(
    capped.attach(options(4, {}, 16)),
    /^Error: rings have all of the 2000 pages of guests that this process may map: .* raise vm.max_map_count /,
  );
  await last.detach();
  await second.detach();
  await capped.attach(options(4));
  assert.equal(attached.at(-1)?.config.maxPersistent, 472);
});
