/** Snapshots under a guest that works: the point in time, the record of what was replaced, and everything that goes wrong. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { xenstoreSocket } from "../../host/platform/loopback/host.js";
import { connectXenstore } from "../../host/platform/xenstore/client.js";
import { until } from "../vbd/harness.js";
import { assertSame, connected, Guest, qemuImg, SIZE, withQemu, worldWithDisk } from "./live.js";
import { helperOf } from "./support.js";

const ROUNDS = process.env["XBDBACK_TEST"] === "full" ? 8 : 3;

for (const format of ["raw", "qcow2"] as const)
  withQemu(`${format}: two snapshots below a guest, and its next start`, async (t) => {
    const { world, image, target, attach, overlay } = await worldWithDisk(t, format);
    const [first, second] = [overlay("first"), overlay("second")];
    const guest = new Guest(await connected(t, world));
    await guest.work();
    const then = await guest.rest();
    (await world.run("snapshot", "1/xvda", first))
      .expect(0)
      .expectMatch(new RegExp(`^xbdback1i51712: the disk is cow:${first}:${target} from now on$`, "m"));
    guest.start();
    await guest.rest();
    guest.start();
    const { target: now } = await world.json<{ target: string }>("snapshot", "1/xvda", second);
    assert.equal(now, `cow:${second}:cow:${first}:${target}`);
    const last = await guest.rest();
    assertSame(world, image, format, then);
    await until("the takeover is said", () => /snapshot: .* is a point in time/.test(world.daemon.stderr));

    // The toolstack knows nothing of it: the guest starts again, on what xl names.
    await guest.disk.close();
    (await world.run("detach", "1/xvda")).expect(0);
    await attach();
    const again = await connected(t, world);
    assert.equal(again.size, SIZE);
    const whole = new Uint8Array(SIZE);
    await again.read(0, whole);
    assert.ok(last.equals(whole));
    (await world.run("replaced")).expect(0).expectMatch(/disk\.img, .*first\.qcow2: replaced by cow:.*xvda/);
    (await world.run("replaced", "--forget", image)).expect(5).expectMatch(/xbdback1i51712 has/, "stderr");
    await again.close();
    (await world.run("detach", "1/xvda")).expect(0);
    assertSame(world, image, format, then);

    // Nobody else writes what the overlays stand on.
    for (const what of [target, `cow:${first}:${target}`])
      (await world.run("attach", "2", `vdev=xvda,target=${what}`))
        .expect(5)
        .expectMatch(/a snapshot of domain 1 has replaced it at .*; attach that, .*--forget/, "stderr");
    (await world.run("attach", "2", `vdev=xvda,access=ro,target=${target}`)).expect(0);
    (await world.run("detach", "2/xvda")).expect(0);

    // The way back: each overlay into what it stands on.
    for (const one of [second, first]) qemuImg("commit", "-q", one);
    (await world.run("replaced", "--forget", image)).expect(0);
    (await world.run("replaced", "--forget", image)).expect(4);
    assertSame(world, image, format, last);
    await attach(2);
  });

withQemu("a snapshot is of one moment, and has all that was answered before", async (t) => {
  const { world, image, overlay } = await worldWithDisk(t);
  const disk = await connected(t, world);
  const lanes = 8;
  const blocks = SIZE / 4096;
  const issued = new Uint32Array(blocks);
  const answered = new Uint32Array(blocks);
  let stop = false;
  const lane = async (first: number): Promise<void> => {
    const page = new Uint32Array(1024);
    for (let block = first; !stop; block = (block + lanes) % blocks) {
      page.fill(++issued[block]);
      await disk.write(block * 4096, new Uint8Array(page.buffer));
      answered[block] = issued[block];
      if (block % 100 === first) await disk.flush();
    }
  };
  const running = Promise.all(Array.from({ length: lanes }, (_, i) => lane(i)));
  await until("it writes", () => answered[blocks / 2] > 0);
  const before = Uint32Array.from(answered);
  (await world.run("snapshot", "1/xvda", overlay("moment"))).expect(0);
  const after = Uint32Array.from(issued);
  const wrote = answered.reduce((sum, n) => sum + n);
  await until("it goes on", () => answered.reduce((sum, n) => sum + n) > wrote + 1000);
  stop = true;
  await running;
  const point = new Uint32Array(readFileSync(image).buffer);
  const page = new Uint8Array(4096);
  for (let block = 0; block < blocks; block++) {
    const generation = point[block * 1024];
    assert.ok(generation >= before[block] && generation <= after[block], `block ${block}: ${generation}`);
    assert.ok(point.subarray(block * 1024, (block + 1) * 1024).every((word) => word === generation));
    await disk.read(block * 4096, page);
    assert.ok(
      new Uint32Array(page.buffer).every((word) => word === answered[block]),
      `block ${block}`,
    );
  }
});

withQemu("what cannot be had leaves the disk as it is", async (t) => {
  const { world, image, attach, overlay } = await worldWithDisk(t);
  const guest = new Guest(await connected(t, world));
  guest.start();
  const refused = async (status: number, line: RegExp, ...args: string[]): Promise<void> => {
    (await world.run("snapshot", ...args)).expect(status).expectMatch(line, "stderr");
  };
  const path = overlay("refused");
  writeFileSync(path, "mine");
  await refused(1, /refused\.qcow2: exists; name a file/, "1/xvda", path);
  assert.equal(readFileSync(path, "utf8"), "mine");
  await refused(1, /cannot be created \(ENOTDIR\)/, "1/xvda", join(path, "no", "overlay"));
  await refused(4, /no such vbd/, "1/xvdb", overlay("none"));
  (await world.run("attach", "2", "vdev=hdc,devtype=cdrom")).expect(0);
  await refused(1, /is a CD-ROM drive/, "2/hdc", overlay("none"));
  const other = world.image("other.img", SIZE);
  await attach(2, `readonly:${other}`);
  await refused(1, /is only read/, "2/xvda", overlay("none"));
  assert.ok(!existsSync(overlay("none")));

  // It fails when the image is closed already: what is to be noted cannot be.
  const records = join(world.directory, "replaced-images");
  (await world.run("snapshot", "1/xvda", overlay("first"))).expect(0);
  const [record] = readdirSync(records);
  mkdirSync(join(records, `${record}.new`));
  await refused(1, /EISDIR|illegal operation on a directory|cannot be/, "1/xvda", overlay("second"));
  assert.ok(!existsSync(overlay("second")));
  rmSync(join(records, `${record}.new`), { recursive: true });
  await until("it is said", () => /no snapshot: .*the disk is as it was/.test(world.daemon.stderr));
  await guest.rest();
  guest.start();
  (await world.run("snapshot", "1/xvda", overlay("second"))).expect(0);
  await guest.rest();
  (await world.run("detach", "1/xvda", "--force")).expect(0);

  // A record that cannot be read stops what it could be about.
  writeFileSync(join(records, record), "{");
  (await world.run("attach", "1", `vdev=xvda,target=${image}`))
    .expect(1)
    .expectMatch(/replaced-images.*cannot be read.*put it right, or remove it/, "stderr");
});

withQemu("an image that was written since is refused, and a restored one served", async (t) => {
  const { world, image, attach, overlay } = await worldWithDisk(t);
  (await world.run("snapshot", "1/xvda", overlay("first"))).expect(0);
  (await world.run("detach", "1/xvda")).expect(0);
  const content = readFileSync(image);
  writeFileSync(image, content);
  (await world.run("attach", "1", `vdev=xvda,target=${image}`))
    .expect(1)
    .expectMatch(/was written since its snapshot, and cow:.* does not fit it any more.*--forget/, "stderr");
  const { replaced } = await world.json<{ replaced: { images: { changed: string }[] }[] }>("replaced");
  execFileSync("touch", ["-d", `@${replaced[0].images[0].changed.replace(/(\d{9})$/, ".$1")}`, image]);
  await attach();
  assert.match((await world.json<{ vbd: { device: string } }>("show", "1/xvda")).vbd.device, /^cow:/);
});

withQemu("the next guest of that name has the overlay, on another domain number", async (t) => {
  const { world, image, attach, overlay } = await worldWithDisk(t);
  const xenstore = await connectXenstore(xenstoreSocket(world.directory, 0));
  t.after(() => xenstore.close());
  await xenstore.write("/local/domain/1/name", "web");
  const guest = new Guest(await connected(t, world));
  await guest.work();
  (await world.run("snapshot", "1/xvda", overlay("first"))).expect(0);
  await guest.work();
  const last = await guest.rest();
  await guest.disk.close();
  (await world.run("detach", "1/xvda")).expect(0);
  (await world.run("attach", "2", `vdev=xvda,target=${image}`))
    .expect(5)
    .expectMatch(/a snapshot of web has replaced/, "stderr");
  // The domain restarts, as after a reboot of the guest.
  await xenstore.write("/local/domain/1/name", "gone");
  await xenstore.write("/local/domain/2/name", "web");
  await attach(2, `log:${world.scene.path("log")}:${image}`);
  const disk = await connected(t, world, 2);
  const whole = new Uint8Array(SIZE);
  await disk.read(0, whole);
  assert.ok(last.equals(whole));
});

withQemu("helper and daemon are killed, in the midst of snapshots and after them", async (t) => {
  const { world, image, attach, overlay } = await worldWithDisk(t);
  const guest = new Guest(await connected(t, world));
  guest.start();
  for (let round = 0; round < ROUNDS; round++) {
    const making = world.run("snapshot", "1/xvda", overlay(`round${round}`));
    await new Promise((resolve) => setTimeout(resolve, 90 * round));
    world.daemon.process.kill("SIGKILL");
    await Promise.all([making, world.daemon.ended]);
    await world.serveAgain();
    const last = await guest.rest();
    guest.start();
    const { replaced } = await world.json<{ replaced: { current: string }[] }>("replaced");
    const { vbd } = await world.json<{ vbd: { device: string } }>("show", "1/xvda");
    assert.equal(vbd.device, replaced[0]?.current ?? image);
    assert.equal(last.length, SIZE);
  }
  (await world.run("snapshot", "1/xvda", overlay("last"))).expect(0);
  const then = await guest.rest();
  guest.start();
  process.kill(await helperOf(world), "SIGKILL");
  await guest.work();
  await guest.rest();
  assert.equal(then.length, SIZE);
  await guest.disk.close();
  (await world.run("detach", "1/xvda")).expect(0);
  await attach();
});

withQemu("a snapshot of a disk without a guest, and a guest that leaves meanwhile", async (t) => {
  const { world, image, overlay } = await worldWithDisk(t);
  (await world.run("snapshot", "1/xvda", overlay("idle"))).expect(0);
  const { vbd } = await world.json<{ vbd: { device: string } }>("show", "1/xvda");
  assert.equal(vbd.device, `cow:${overlay("idle")}:${image}`);
  const guest = new Guest(await connected(t, world));
  await guest.work();
  const [made] = await Promise.all([world.run("snapshot", "1/xvda", overlay("leaving")), guest.disk.close()]);
  assert.ok(made.status === 0 || /has closed the disk meanwhile|has no disk/.test(made.stderr), made.stderr);
  const disk = await connected(t, world);
  assert.equal(disk.size, SIZE);
});
