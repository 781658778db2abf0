/** Wrapped disks as an administrator gives them to a guest: what commands say of them, and who may have what. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { type TestContext, test } from "node:test";
import { joinGuest } from "../../host/guest/process.js";
import { World } from "../cli/world.js";
import { eventually } from "../e2e/harness.js";
import { hashFile } from "../restart/processes.js";
import { helperOf, MIB, progress, SIZE, verified, withPrograms, work } from "./support.js";

const LIMIT = { timeout: 180_000 };
const QEMU = ["qemu-storage-daemon", "qemu-img"] as const;

interface CowWorld {
  readonly world: World;
  readonly base: string;
  readonly overlay: string;
  readonly target: string;
}

async function withCow(t: TestContext): Promise<CowWorld> {
  const world = await World.start(t);
  const base = world.image("base.img", SIZE);
  const overlay = world.scene.path("overlay.qcow2");
  return { world, base, overlay, target: `cow:${overlay}:${base}` };
}

withPrograms(QEMU, "a guest works on an overlay, while another one has the same base", async (t) => {
  const { world, base, overlay, target } = await withCow(t);
  const before = await hashFile(base);
  const checked = (await world.run("check", `vdev=xvda,target=${target}`)).expect(0);
  checked.expectMatch(
    /^target +cow:\S+ \(qemu-storage-daemon, .*: qcow2 \S+overlay\.qcow2, over raw \S+base\.img\)$/m,
  );
  assert.equal(existsSync(overlay), false, "a check makes no file");
  (await world.run("attach", "1", `vdev=xvda,target=${target}`)).expect(0);
  (await world.run("attach", "2", `vdev=xvda,target=cow:${overlay}.2:readonly:${base}`)).expect(0);
  const busy = async (why: RegExp, ...spec: string[]): Promise<void> => {
    (await world.run("attach", "2", ...spec)).expect(5).expectMatch(why, "stderr");
  };
  await busy(/in use by xbdback1i51712, a disk of domain 1/, `vdev=xvdb,target=${target}`);
  await busy(/in use by xbdback1i51712, a disk of domain 1/, `${overlay},raw,xvdb,ro`);
  await busy(/in use by xbdback1i51712, a disk of domain 1/, `${base},raw,xvdb,rw`);
  (await world.run("attach", "2", `${base},raw,xvdb,ro`)).expect(0);

  // So that it has not done before the command looks.
  (await world.run("limit", "1/xvda", "--iops", "100")).expect(0);
  const guest = work(world, 3000);
  await progress(guest, 100);
  const shown = (await world.run("show", "1/xvda")).expect(0);
  shown.expectMatch(/^device +cow:\S+overlay\.qcow2:\S+base\.img, 32 MiB/m);
  shown.expectMatch(/^through +qemu-storage-daemon, .*: qcow2 \S+overlay\.qcow2, over raw \S+base\.img$/m);
  (await world.run("limit", "1/xvda", "--none")).expect(0);
  const sha256 = await verified(guest);
  assert.equal(await hashFile(base), before, "the base is as it was");
  assert.ok(statSync(overlay).blocks > 0);
  (await world.run("detach", "1/xvda")).expect(0);

  // The same disk, for the next one.
  (await world.run("attach", "1", `vdev=xvda,target=readonly:${target}`)).expect(0);
  const reader = await joinGuest(world.directory, 1, 51712, { inFlightBytes: MIB });
  const hash = createHash("sha256");
  const part = new Uint8Array(MIB);
  for (let position = 0; position < SIZE; position += MIB) {
    await reader.disk.read(position, part);
    hash.update(part);
  }
  await reader.stop();
  assert.equal(hash.digest("hex"), sha256);
});

withPrograms(
  QEMU,
  "kill -9 of the daemon, again and again, costs a guest on an overlay nothing",
  async (t) => {
    const { world, base, target } = await withCow(t);
    const before = await hashFile(base);
    (await world.run("attach", "1", `vdev=xvda,target=log:${world.scene.path("log")}:${target}`)).expect(0);
    const guest = work(world, 30_000);
    await progress(guest, 200);
    for (let kills = 0; kills < 4; kills++) {
      world.daemon.process.kill("SIGKILL");
      await world.daemon.ended;
      await world.serveAgain();
      await eventually(() => /taken over/.test(world.daemon.stderr), "the next daemon takes over");
      const done = guest.stdout.length;
      await eventually(() => guest.stdout.length > done, "the guest goes on");
    }
    world.daemon.process.kill("SIGTERM");
    (await world.daemon.outcome()).expect(0);
    await world.serveAgain();
    await verified(guest);
    assert.equal(await hashFile(base), before);
    assert.match(
      readFileSync(world.scene.path("log"), "utf8"),
      /^\S+Z write of \d+ bytes at sector \d+: done/m,
    );
  },
);

test("a guest sees the errors that are made, and the operator a line that names them", LIMIT, async (t) => {
  const world = await World.start(t);
  const image = world.image("disk.img", MIB);
  const target = `delay:1ms:error:write+rate=100%:${image}`;
  (await world.run("attach", "1", `vdev=xvda,target=${target}`)).expect(0);
  assert.notEqual((await work(world, 50).outcome()).status, 0);
  await eventually(
    () =>
      /domid=1 devid=51712 msg="write failed: write \d+ bytes at \d+ of error:write\S+: EIO"/.test(
        world.daemon.stderr,
      ),
    "the daemon says so",
  );
  (await world.run("attach", "2", "vdev=xvda,target=limit:fast:/disk.img"))
    .expect(2)
    .expectMatch(/"fast" is not a rate: write limit:RATES:TARGET/, "stderr");
});

withPrograms(QEMU, "an overlay over an image, and its helper, survive kill -9", async (t) => {
  const world = await World.start(t);
  const image = world.scene.path("base.qcow2");
  (await world.scene.start("qemu-img", ["create", "-f", "qcow2", image, String(SIZE)]).outcome()).expect(0);
  const before = await hashFile(image);
  const overlay = world.scene.path("overlay.qcow2");
  (await world.run("attach", "1", `format=qcow2,vdev=xvda,target=cow:${overlay}:${image}`)).expect(0);
  const guest = work(world, 30_000);
  await progress(guest, 200);
  (await world.run("show", "1/xvda"))
    .expect(0)
    .expectMatch(
      /^through +qemu-storage-daemon, process \d+.*: qcow2 \S+overlay\.qcow2, over qcow2 \S+base\.qcow2$/m,
    );
  process.kill(await helperOf(world), "SIGKILL");
  await progress(guest, 400);
  world.daemon.process.kill("SIGKILL");
  await world.daemon.ended;
  await world.serveAgain();
  await verified(guest);
  assert.equal(await hashFile(image), before);
});
