/**
 * Live migration with shared storage (docs/disks.md): two machines, each with a xenstored, a backend and domains of its own,
 * and one image that both reach. A guest at work moves from one to the other and back; what it does is verified.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Blkfront, BlkfrontOptions } from "../../host/guest/blkfront.js";
import { Workload } from "../../host/guest/workload.js";
import { DEVID, type Guest, LIMIT, Machine, pause, until } from "../vbd/harness.js";

const IMAGE_BYTES = 64 << 20;

interface Hosts {
  /** Where the guest is, and where it goes. */
  readonly machines: [Machine, Machine];
  /** Both reach it. */
  readonly image: string;
}

async function onTwoHosts(body: (hosts: Hosts) => Promise<void>): Promise<void> {
  const machines: [Machine, Machine] = [
    await Machine.start({ threads: {} }),
    await Machine.start({ threads: {} }),
  ];
  try {
    await body({ machines, image: machines[0].image("shared.img", IMAGE_BYTES) });
  } finally {
    for (const machine of machines) await machine.close();
  }
}

/** As a toolstack's receiving side: a domain, and a disk whose script has not run yet. */
async function prepare(machine: Machine, domid: number, path: string): Promise<Guest> {
  const guest = await machine.guest(domid);
  await machine.plug({ domid, path, noHotplug: true });
  await machine.untilState(2, DEVID, domid);
  return guest;
}

/** The guest's domain is destroyed where it was; resolves when the backend there has let go of all that was its. */
async function leaveBehind(machine: Machine, domid: number): Promise<void> {
  await machine.host.destroyGuest(domid);
  await machine.unplug(DEVID, domid);
  await until("the backend has forgotten it", () => machine.status(DEVID, domid) === undefined);
}

async function connectAt(
  machine: Machine,
  image: string,
  options: Partial<BlkfrontOptions>,
): Promise<Blkfront> {
  const guest = await prepare(machine, 1, image);
  await machine.hotplug(image);
  return machine.connect(guest, options);
}

const WAYS: [name: string, options: Partial<BlkfrontOptions>][] = [
  ["one ring", {}],
  ["four queues, larger rings", { queues: 4, ringPageOrder: 2 }],
  ["grant copy, no indirect requests", { persistent: false, indirect: false, abi: "x86_32" }],
];

for (const [name, options] of WAYS) {
  test(`a guest at work moves to another host and back, again and again: ${name}`, LIMIT, () =>
    onTwoHosts(async ({ machines, image }) => {
      const disk = await connectAt(machines[0], image, options);
      const workload = new Workload(disk, { operations: 1_000_000, depth: 64, seed: 7 });
      const work = workload.run();
      for (let move = 0; move < 6; move++) {
        const [from, to] = move % 2 === 0 ? machines : [machines[1], machines[0]];
        const { responses } = disk.counters;
        await until("the guest is at work", () => disk.counters.responses > responses + 500);
        const [domid, next] = [move + 1, move + 2];
        const guest = await prepare(to, next, image);
        disk.suspend();
        assert.ok(disk.pending > 0, "nothing is under way, and nothing is proved");
        await leaveBehind(from, domid);
        await to.hotplug(image, DEVID, next);
        await disk.resume(guest);
      }
      const { responses } = disk.counters;
      await until("the guest is at work", () => disk.counters.responses > responses + 500);
      workload.stop();
      await work;
      await workload.verifyAll(() => {});
      await disk.close();
    }),
  );
}

test("the other host does not open the image before the first has let go of it", LIMIT, () =>
  onTwoHosts(async ({ machines: [from, to], image }) => {
    const disk = await connectAt(from, image, { timeoutMs: 1000 });
    await disk.write(0, new Uint8Array(4096).fill(1));
    const guest = await prepare(to, 2, image);
    await to.hotplug(image, DEVID, 2);
    disk.suspend();
    const read = assert.rejects(disk.read(0, new Uint8Array(4096)), /at Closing/);
    await assert.rejects(disk.resume(guest), /at Closing/);
    await read;
    assert.match((await to.error(DEVID, 2)) as string, /shared\.img: in use by/);
    assert.equal(from.status()?.state, 4);
  }),
);

test("calls made while the guest is suspended wait; a disk that is closed then fails them", LIMIT, () =>
  onTwoHosts(async ({ machines: [from, to], image }) => {
    const disk = await connectAt(from, image, {});
    disk.suspend();
    const data = new Uint8Array(4096).fill(0x5a);
    let done = false;
    const write = disk.write(8192, data).then(() => (done = true));
    await pause(50);
    assert.equal(done, false);
    await leaveBehind(from, 1);
    const guest = await prepare(to, 2, image);
    await to.hotplug(image, DEVID, 2);
    await disk.resume(guest);
    await write;
    const found = new Uint8Array(4096);
    await disk.read(8192, found);
    assert.deepEqual(found, data);

    disk.suspend();
    const late = disk.read(0, new Uint8Array(512));
    await disk.close();
    await assert.rejects(late, /the disk was closed/);
  }),
);
