/**
 * Disks in Ceph (rbd:POOL/IMAGE), on a cluster of one OSD that runs here, the same for all tests: through qemu-storage-daemon,
 * the ring, and a guest.
 */
import assert from "node:assert/strict";
import { after, before, type TestContext, test } from "node:test";
import type { VbdStatus } from "../../host/vbd/status.js";
import { pause, World } from "../cli/world.js";
import { eventually, sha256 } from "../e2e/harness.js";
import { helperOf, progress, SIZE, verified, work } from "../images/support.js";
import { playSlice, WAYS } from "../restart/slice.js";
import { Cluster, noCeph } from "./cluster.js";

const OPTIONS = { skip: noCeph(), timeout: 300_000 };
/** Longer than it takes the cluster to believe that a client is dead. */
const RECONNECT = ["--nbd-reconnect", "120"];

async function countersOf(world: World): Promise<VbdStatus["counters"]> {
  return (await world.json<{ vbd: VbdStatus }>("show", "1/xvda")).vbd.counters;
}

let cluster: Cluster;
const ends: (() => unknown)[] = [];
before(async () => {
  if (OPTIONS.skip) return;
  cluster = await Cluster.start({ after: (end) => void ends.push(end as () => unknown) });
}, OPTIONS);
after(async () => {
  for (const end of ends) await end();
});

let images = 0;
/** A test's own image, and how a disk of it is specified. */
async function newImage(...how: string[]): Promise<{ name: string; disk: string }> {
  const name = `disk${++images}`;
  await cluster.create(name, SIZE, ...how);
  return { name, disk: `vdev=xvda,target=rbd:rbd/${name}` };
}

/** A guest at work on its disk in Ceph while `disturb` does what it does: no error, and the very bytes in the end. */
async function verifiedThrough(
  t: TestContext,
  operations: number,
  disturb: (world: World) => Promise<void>,
): Promise<void> {
  const { name, disk } = await newImage();
  const world = await World.start(t, ...RECONNECT);
  (await world.run("check", disk)).expect(0).expectMatch(/qemu-storage-daemon, process /);
  (await world.run("attach", "1", disk)).expect(0);
  const guest = work(world, operations);
  await progress(guest, 1000);
  await disturb(world);
  const hash = await verified(guest);
  assert.equal((await countersOf(world)).ioErrors, 0);
  (await world.run("detach", "1/xvda")).expect(0);
  assert.equal(await sha256(await cluster.export(name)), hash);
}

test("a guest's disk in Ceph, whose OSD is killed and comes back", OPTIONS, (t) =>
  verifiedThrough(t, 10_000, async (world) => {
    await cluster.killOsd();
    await pause(3000);
    const { responses } = await countersOf(world);
    await pause(2000);
    assert.equal((await countersOf(world)).responses, responses, "who answers?");
    await cluster.startOsd();
  }),
);

test("its helper is killed; the next one goes on when the cluster has given up the first", OPTIONS, (t) =>
  verifiedThrough(t, 5000, async (world) => {
    const helper = await helperOf(world);
    process.kill(helper, "SIGKILL");
    const another = async (): Promise<boolean> => {
      const now = await helperOf(world);
      return now > 0 && now !== helper;
    };
    await eventually(another, "another one has the disk", 120_000);
  }),
);

test("the daemon is killed; the next one goes on with the same helper", OPTIONS, (t) =>
  verifiedThrough(t, 5000, async (world) => {
    const helper = await helperOf(world);
    world.daemon.process.kill("SIGKILL");
    await world.daemon.ended;
    await world.serveAgain();
    await eventually(() => /taken over/.test(world.daemon.stderr), "the next daemon goes on");
    assert.equal(await helperOf(world), helper);
  }),
);

/** Daemon and helper at once, and another daemon. */
async function killBoth(world: World): Promise<void> {
  const helper = await helperOf(world);
  world.daemon.process.kill("SIGKILL");
  process.kill(helper, "SIGKILL");
  await world.daemon.ended;
  await world.serveAgain();
}

test("daemon and helper are killed; the image's exclusive lock is the fence", OPTIONS, (t) =>
  verifiedThrough(t, 5000, async (world) => {
    const before = await cluster.blocklisted();
    await killBoth(world);
    await eventually(() => /taken over/.test(world.daemon.stderr), "the next daemon goes on");
    await eventually(async () => (await cluster.blocklisted()) > before, "the first helper is blocklisted");
  }),
);

test("daemon and helper are killed, and an image without an exclusive lock is closed", OPTIONS, async (t) => {
  const { disk } = await newImage("--image-feature", "layering");
  const world = await World.start(t, ...RECONNECT);
  (await world.run("attach", "1", disk)).expect(0);
  await progress(work(world, 1_000_000_000), 1000);
  await killBoth(world);
  const closed =
    /the previous daemon was killed .* the server may still carry out its writes; the disk is closed/;
  await eventually(() => closed.test(world.daemon.stderr), "the disk is closed");
});

test("daemon and helper are killed, alone and at once, again and again", OPTIONS, async () => {
  await playSlice(WAYS[0], ["both", "backend", "server"], 340, "rbd");
});
