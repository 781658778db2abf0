/** Disks and limits that fail under a daemon, as its operator and its guests see them. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, truncateSync } from "node:fs";
import { type TestContext, test } from "node:test";
import type { VbdStatus } from "../../host/vbd/status.js";
import { eventually } from "../e2e/harness.js";
import { LIMIT, MIB, World } from "./world.js";

/** A file system of a mebibyte; null, and the test is skipped, where this user may not mount one. */
function smallFileSystem(t: TestContext, world: World): string | null {
  const directory = world.scene.path("small");
  mkdirSync(directory);
  if (spawnSync("mount", ["-t", "tmpfs", "-o", "size=1m", "none", directory]).status !== 0) {
    t.skip("to mount a tmpfs needs root");
    return null;
  }
  return directory;
}

async function status(world: World, id: string): Promise<VbdStatus> {
  return (await world.json<{ vbd: VbdStatus }>("show", id)).vbd;
}

/** Guest 2 gets on with its work. */
async function neighbourWorks(world: World): Promise<void> {
  const counters = async () => (await status(world, "2/xvda")).counters;
  const before = await counters();
  await eventually(
    async () => (await counters()).responses > before.responses,
    "the other guest gets on with its work",
  );
  assert.equal((await counters()).ioErrors, 0);
}

test(
  "a file system that is full: the guest gets errors, the operator a line, and space cures it",
  LIMIT,
  async (t) => {
    const world = await World.start(t);
    const small = smallFileSystem(t, world);
    if (small === null) return;
    const image = `${small}/disk.img`;
    assert.equal(spawnSync("truncate", ["-s", "16M", image]).status, 0);
    (await world.run("attach", "1", `${image},raw,xvda,rw`)).expect(0);
    (await world.run("attach", "2", `${world.image("good.img")},raw,xvda,rw`)).expect(0);
    await world.guest(2);
    const guest = world.start("guest", "--workload", "1000000000");
    const outcome = await guest.outcome();
    assert.notEqual(outcome.status, 0, "a write that failed is told to the guest");
    await eventually(
      () => /level=error domid=1 devid=51712 .*write failed: .*ENOSPC/.test(world.daemon.stderr),
      "the operator is told",
    );
    assert.match((await status(world, "1/xvda")).lastError?.message ?? "", /ENOSPC/);
    await neighbourWorks(world);
    assert.equal(spawnSync("mount", ["-o", "remount,size=64m", small]).status, 0);
    // The workload expects zeros.
    assert.equal(
      spawnSync("fallocate", ["--punch-hole", "--offset", "0", "--length", "16M", image]).status,
      0,
    );
    const again = world.start("guest", "--workload", "200");
    (await again.outcome()).expect(0);
    world.scene.killAll();
    await world.daemon.ended;
    assert.equal(spawnSync("umount", [small]).status, 0);
  },
);

test("an image that shrinks: the guest is told, what is gone fails, what is left works", LIMIT, async (t) => {
  const world = await World.start(t);
  const image = world.image("disk.img");
  (await world.run("attach", "1", `${image},raw,xvda,rw`)).expect(0);
  (await world.run("attach", "2", `${world.image("good.img")},raw,xvda,rw`)).expect(0);
  await world.guest(2);
  const worker = await world.guest(1);
  // Until that is noticed, writes behind the end make it longer again.
  truncateSync(image, 2 * MIB);
  assert.equal((await worker.outcome()).status, 1, "what is gone is an error");
  await eventually(
    // The guest's next request comes, or the next look at the size.
    () => /domid=1 devid=51712 .*(the disk ends after|has shrunk from)/.test(world.daemon.stderr),
    "the operator is told",
  );
  // A guest that is at rest hears of it, too.
  await world.start("guest", "--domid", "1").until(/"connected"/);
  truncateSync(image, MIB);
  const told = /domid=1 devid=51712 .*has shrunk from [0-9]+ to 1048576 bytes/;
  await eventually(
    () => told.test(world.daemon.stderr),
    `the operator is told of the size: ${world.daemon.stderr}`,
  );
  await neighbourWorks(world);
  truncateSync(image, 32 * MIB);
  assert.equal((await world.json("resize", "1/xvda")).size, 32 * MIB);
  assert.equal((await status(world, "1/xvda")).state, 4);
});

test(
  "without file descriptors the next disk is refused with the remedy; the others go on",
  LIMIT,
  async (t) => {
    const world = await World.start(t);
    (await world.run("attach", "2", `${world.image("good.img")},raw,xvda,rw`)).expect(0);
    await world.guest(2);
    const before = (await status(world, "2/xvda")).counters;
    const { pid } = world.daemon;
    const limit = (most: string): void => {
      assert.equal(spawnSync("prlimit", ["--pid", String(pid), `--nofile=${most}`]).status, 0);
    };
    const open = Number(spawnSync("sh", ["-c", `ls /proc/${pid}/fd | wc -l`]).stdout);
    // Room for the control socket's client, and no more.
    limit(`${open + 2}:`);
    let refused = null;
    for (let i = 0; i < 8 && refused === null; i++) {
      const outcome = await world.run("attach", "1", `${world.image(`disk${i}.img`)},raw,d${i},rw`);
      if (outcome.status !== 0) refused = outcome;
    }
    assert.ok(refused, "no disk was refused");
    refused.expectMatch(
      /too many open files; raise `ulimit -n`, or LimitNOFILE=|out of file descriptors: look at its log and its limits/,
      "stderr",
    );
    limit("4096:");
    const after = (await status(world, "2/xvda")).counters;
    assert.ok(after.responses > before.responses && after.ioErrors === 0, "the other guest stood still");
    (await world.run("attach", "1", `${world.image("last.img")},raw,xvdz,rw`)).expect(0);
    await neighbourWorks(world);
  },
);
