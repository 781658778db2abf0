/** Disks in Ceph (rbd:POOL/IMAGE), on a cluster of one OSD that runs here: through qemu-nbd, the ring, and a guest. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { VbdStatus } from "../../host/vbd/status.js";
import { pause, World } from "../cli/world.js";
import { sha256 } from "../e2e/harness.js";
import { progress, SIZE, verified, work } from "../images/support.js";
import { Cluster, noCeph } from "./cluster.js";

const OPTIONS = { skip: noCeph(), timeout: 300_000 };
/** Longer than it takes the cluster to believe that a client is dead. */
const RECONNECT = ["--nbd-reconnect", "120"];

async function vbdOf(world: World): Promise<VbdStatus> {
  return (await world.json<{ vbd: VbdStatus }>("show", "1/xvda")).vbd;
}

test("a guest's disk in Ceph, whose OSD is killed and comes back", OPTIONS, async (t) => {
  const cluster = await Cluster.start(t);
  await cluster.create("disk", SIZE);
  const world = await World.start(t, ...RECONNECT);
  (await world.run("check", "vdev=xvda,target=rbd:rbd/disk")).expect(0).expectMatch(/qemu-nbd, process /);
  (await world.run("attach", "1", "vdev=xvda,target=rbd:rbd/disk")).expect(0);

  const guest = work(world, 10_000);
  await progress(guest, 1000);
  await cluster.killOsd();
  await pause(3000);
  const { counters } = await vbdOf(world);
  await pause(2000);
  assert.equal((await vbdOf(world)).counters.responses, counters.responses, "who answers?");
  await cluster.startOsd();
  const hash = await verified(guest);
  assert.equal((await vbdOf(world)).counters.ioErrors, 0);
  (await world.run("detach", "1/xvda")).expect(0);
  assert.equal(await sha256(await cluster.export("disk")), hash);
});

test(
  "qemu-nbd is killed; the next one goes on when the cluster has given up the first",
  OPTIONS,
  async (t) => {
    const cluster = await Cluster.start(t);
    await cluster.create("disk", SIZE);
    const world = await World.start(t, ...RECONNECT);
    (await world.run("attach", "1", "vdev=xvda,target=rbd:rbd/disk")).expect(0);
    const guest = work(world, 5000);
    await progress(guest, 1000);
    const helper = Number(/, process ([0-9]+)/.exec((await vbdOf(world)).through ?? "")?.[1]);
    process.kill(helper, "SIGKILL");
    const hash = await verified(guest);
    const { through, counters } = await vbdOf(world);
    assert.doesNotMatch(through ?? "", new RegExp(`process ${helper}\\b`));
    assert.equal(counters.ioErrors, 0);
    (await world.run("detach", "1/xvda")).expect(0);
    assert.equal(await sha256(await cluster.export("disk")), hash);
  },
);
