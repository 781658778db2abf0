/** A vbd has an open file, and the next daemon opens a path: where that leads to another file, the guest waits. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, linkSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { LIMIT, MIB, pause, World } from "../cli/world.js";
import { eventually } from "../e2e/harness.js";
import { absent } from "../support/programs.js";

const OTHER = Buffer.alloc(16 * MIB, 0x99);

/** An image with a guest at work; `replace` puts another file in its place, and `restore` the first one back. */
async function withGuest(world: World) {
  const image = world.image("disk.img");
  const kept = world.scene.path("kept.img");
  linkSync(image, kept);
  (await world.run("attach", "1", `${image},raw,xvda,rw`)).expect(0);
  const guest = await world.guest();
  return {
    guest,
    image,
    replace(): void {
      const other = world.scene.path("other.img");
      writeFileSync(other, OTHER);
      renameSync(other, image);
    },
    restore: () => renameSync(kept, image),
  };
}

async function shows(world: World, pattern: RegExp): Promise<void> {
  while (!pattern.test((await world.run("show", "1/xvda")).stdout)) await pause(50);
}

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  test(
    `an image that was replaced is not the guest's: it waits, and goes on with its own, after ${signal}`,
    LIMIT,
    async (t) => {
      const world = await World.start(t);
      const { guest, image, replace, restore } = await withGuest(world);
      replace();
      world.daemon.process.kill(signal);
      await world.daemon.ended;
      await world.serveAgain();
      await shows(world, /not the disk that the guest has: it was file \d+:\d+, and now there is file/);
      (await world.run("show", "1/xvda")).expect(0).expectMatch(/^backend +Connected \(4\)/m);
      // Tried again now and then, and said once.
      await pause(2500);
      assert.equal(world.daemon.stderr.match(/not the disk that the guest has/g)?.length, 1);
      assert.ok(readFileSync(image).equals(OTHER), "the other file is left alone");
      restore();
      await shows(world, /^ring 0 /m);
      guest.process.kill("SIGTERM");
      (await guest.outcome()).expect(143);
    },
  );
}

test("an image that is gone is waited for, at rest", LIMIT, async (t) => {
  const world = await World.start(t);
  const { image } = await withGuest(world);
  rmSync(image);
  world.daemon.process.kill("SIGKILL");
  await world.daemon.ended;
  await world.serveAgain();
  await shows(world, /now there is nothing; put the former one back/);
  const seconds = (): number => {
    const fields = readFileSync(`/proc/${world.daemon.process.pid}/stat`, "latin1").split(") ")[1].split(" ");
    return (Number(fields[11]) + Number(fields[12])) / 100;
  };
  const before = seconds();
  await pause(3000);
  assert.ok(seconds() - before < 1, `${seconds() - before} s of CPU in 3 s`);
});

test("upgrade leaves a daemon alone whose guest would get another file", LIMIT, async (t) => {
  const world = await World.start(t);
  const { replace } = await withGuest(world);
  replace();
  const before = world.daemon.process.pid;
  (await world.run("upgrade"))
    .expect(1)
    .expectMatch(/not the disk that the guest has|see its log|its log says why/, "stderr");
  assert.equal(world.daemon.process.exitCode, null, `${before} goes on`);
  (await world.run("show", "1/xvda")).expect(0).expectMatch(/^ring 0 /m);
});

test("an overlay that was deleted is not made anew", {
  ...LIMIT,
  skip: absent("qemu-storage-daemon", "qemu-img"),
}, async (t) => {
  const world = await World.start(t);
  const overlay = world.scene.path("overlay.qcow2");
  (await world.run("attach", "1", `vdev=xvda,target=cow:${overlay}:${world.image("base.img")}`)).expect(0);
  rmSync(overlay);
  world.daemon.process.kill("SIGKILL");
  await world.daemon.ended;
  await world.serveAgain();
  while (!/not the disk that the guest has/.test(world.daemon.stderr)) await pause(50);
  assert.equal(existsSync(overlay), false);
});

test("a loop device that was attached to another file is not the guest's disk", LIMIT, async (t) => {
  if (process.geteuid?.() !== 0) return t.skip("loop devices need root");
  const world = await World.start(t);
  const losetup = (...args: string[]) => spawnSync("losetup", args, { encoding: "utf8" });
  const made = losetup("--find", "--show", world.image("one.img"));
  if (made.status !== 0) return t.skip(`no loop device: ${made.error?.message ?? made.stderr.trim()}`);
  const loop = made.stdout.trim();
  t.after(() => losetup("--detach", loop));
  if (!existsSync(`/sys/block/${loop.slice("/dev/".length)}/diskseq`))
    return t.skip("no sequence numbers of disks: needs Linux 5.15");
  (await world.run("attach", "1", `${loop},raw,xvda,rw`)).expect(0);
  await world.guest();
  world.daemon.process.kill("SIGKILL");
  await world.daemon.ended;
  const other = world.scene.path("two.img");
  writeFileSync(other, OTHER);
  losetup("--detach", loop);
  // It is detached when its last user has closed it.
  await eventually(() => losetup(loop, other).status === 0, "the loop device has another file");
  await world.serveAgain();
  await shows(
    world,
    /not the disk that the guest has: it was block \d+, disk \d+, and now there is block \d+, disk \d+/,
  );
  (await world.run("show", "1/xvda")).expect(0).expectMatch(/^backend +Connected \(4\)/m);
  assert.ok(readFileSync(other).equals(OTHER), "the other file is left alone");
});

test("a link that was moved does not lead to the guest's disk", LIMIT, async (t) => {
  const world = await World.start(t);
  const current = world.scene.path("current.img");
  const v1 = world.image("v1.img");
  const v2 = world.scene.path("v2.img");
  writeFileSync(v2, OTHER);
  const link = (to: string): void => {
    symlinkSync(to, `${current}.new`);
    renameSync(`${current}.new`, current);
  };
  link(v1);
  (await world.run("attach", "1", `${current},raw,xvda,rw`)).expect(0);
  await world.guest();
  link(v2);
  world.daemon.process.kill("SIGKILL");
  await world.daemon.ended;
  await world.serveAgain();
  await shows(world, /not the disk that the guest has: it was file/);
  assert.ok(readFileSync(v2).equals(OTHER), "the other file is left alone");
  link(v1);
  await shows(world, /^ring 0 /m);
});
