/** What a service manager keeps for the next daemon: the open files that have the disks' locks. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  closeSync,
  constants,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
} from "node:fs";
import { type TestContext, test } from "node:test";
import { LIMIT, MIB, pause, World } from "../cli/world.js";
import { eventually, type Running } from "../e2e/harness.js";
import { absent } from "../support/programs.js";
import { FakeServiceManager } from "../support/service-manager.js";

const NAME = "xbdback1i51712";

async function start(t: TestContext): Promise<{ service: FakeServiceManager; world: World }> {
  const service = new FakeServiceManager();
  t.after(() => service.close());
  return { service, world: await World.startUnder(service, t) };
}

async function killed(world: World, signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
  world.daemon.process.kill(signal);
  await world.daemon.ended;
}

const kept = (service: FakeServiceManager, count = 1): Promise<void> =>
  eventually(() => service.stored.get(NAME)?.length === count, `${count} descriptors are kept`);

/** The guest's work, which checks what it reads, continues. */
async function continues(guest: Running): Promise<void> {
  const done = guest.stdout.length;
  await guest.until(new RegExp(`^[^]{${done}}[^]*"done":[0-9]+[^]*"done":[0-9]+`));
}

async function ends(world: World, guest: Running): Promise<void> {
  guest.process.kill("SIGTERM");
  (await guest.outcome()).expect(143);
  (await world.run("detach", "1/xvda")).expect(0);
}

function filesOf({ process: { pid } }: Running): string[] {
  const directory = `/proc/${pid}/fd`;
  return readdirSync(directory).map((fd) => readlinkSync(`${directory}/${fd}`));
}

test("after a kill nobody takes the image, and a deleted one is the guest's again", LIMIT, async (t) => {
  const { service, world } = await start(t);
  const image = world.image("disk.img");
  (await world.run("attach", "1", `${image},raw,xvda,rw`)).expect(0);
  await kept(service);
  const guest = await world.guest();
  await killed(world);
  (await world.run("check", `${image},raw,xvda,rw`)).expect(5).expectMatch(/in use by/, "stderr");
  assert.equal(spawnSync("flock", ["--nonblock", image, "true"]).status, 1, "its flock is held");
  rmSync(image);
  await world.serveAgain();
  await continues(guest);
  assert.ok(filesOf(world.daemon).includes(`${image} (deleted)`));
  await eventually(
    async () => /deleted/.test((await world.run("list")).stdout),
    "list says that the image is deleted",
  );
  await ends(world, guest);
  await eventually(() => service.stored.size === 0, "nothing is kept any more");
  assert.equal(filesOf(world.daemon).includes(`${image} (deleted)`), false);
});

test(
  "an image that was replaced while a daemon restarts is not the guest's: it keeps its own",
  LIMIT,
  async (t) => {
    const { service, world } = await start(t);
    const image = world.image("disk.img");
    (await world.run("attach", "1", `${image},raw,xvda,rw`)).expect(0);
    await kept(service);
    const guest = await world.guest();
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      await killed(world, signal);
      await kept(service);
      renameSync(world.image("other.img"), image);
      await world.serveAgain();
      await continues(guest);
    }
    await eventually(
      async () => /^image .*replaced/m.test((await world.run("show", "1/xvda")).stdout),
      "show says that the image was replaced",
    );
    await ends(world, guest);
    assert.ok(readFileSync(image).equals(Buffer.alloc(16 * MIB)), "the other file is left alone");
    // The path's file is another one, and nobody has it.
    (await world.run("check", `${image},raw,xvda,rw`)).expect(0);
  },
);

test("QEMU does not write an image whose daemon was killed", {
  ...LIMIT,
  skip: absent("qemu-io"),
}, async (t) => {
  const { service, world } = await start(t);
  const image = world.image("disk.img");
  (await world.run("attach", "1", `${image},raw,xvda,rw`)).expect(0);
  await kept(service);
  await killed(world);
  const { status, stderr } = spawnSync("qemu-io", ["-f", "raw", "-c", "write 0 4k", image], {
    encoding: "utf8",
  });
  assert.equal(status, 1);
  assert.match(stderr, /Failed to get "write" lock/);
});

test("a disk that is detached is free at once, however slow the service manager is", LIMIT, async (t) => {
  const { service, world } = await start(t);
  const image = world.image("disk.img");
  (await world.run("attach", "1", `${image},raw,xvda,rw`)).expect(0);
  await kept(service);
  service.slow = true;
  (await world.run("detach", "1/xvda")).expect(0);
  (await world.run("attach", "2", `${image},raw,xvda,rw`)).expect(0);
});

test("what is kept for a vbd that does not exist any more is given back", LIMIT, async (t) => {
  const { service, world } = await start(t);
  const image = world.image("disk.img");
  (await world.run("attach", "1", `${image},raw,xvda,rw`)).expect(0);
  await kept(service);
  // As after a restart during which the toolstack has removed the disk.
  const [fd] = service.stored.get(NAME) as number[];
  service.stored.delete(NAME);
  service.stored.set("xbdback1i51728", [fd]);
  await killed(world);
  await world.serveAgain();
  await eventually(
    () => service.messages.includes("FDSTOREREMOVE=1\nFDNAME=xbdback1i51728"),
    "it is given back",
  );
  await eventually(() => service.stored.get(NAME)?.length === 1, "the disk has its locks");
});

test("a block device stays one user's after a kill, and is free when it is detached", LIMIT, async (t) => {
  if (process.geteuid?.() !== 0) return t.skip("loop devices need root");
  const { service, world } = await start(t);
  const losetup = (...args: string[]) => spawnSync("losetup", args, { encoding: "utf8" });
  const made = losetup("--find", "--show", world.image("one.img"));
  if (made.status !== 0) return t.skip(`no loop device: ${made.error?.message ?? made.stderr.trim()}`);
  const loop = made.stdout.trim();
  t.after(() => losetup("--detach", loop));
  (await world.run("attach", "1", `${loop},raw,xvda,rw`)).expect(0);
  await kept(service);
  const guest = await world.guest();
  await killed(world);
  assert.throws(() => closeSync(openSync(loop, constants.O_RDONLY | constants.O_EXCL)), { code: "EBUSY" });
  await world.serveAgain();
  await continues(guest);
  guest.process.kill("SIGTERM");
  await guest.ended;
  service.slow = true;
  (await world.run("detach", "1/xvda")).expect(0);
  // The service manager still has it open, exclusively.
  const attached = world.run("attach", "2", `${loop},raw,xvda,rw`);
  await pause(500);
  service.catchUp();
  (await attached).expect(0);
});
