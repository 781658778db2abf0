/** attach, list, show, resize and detach, as an administrator types them. */
import assert from "node:assert/strict";
import { truncateSync } from "node:fs";
import { test } from "node:test";
import { xenstoreSocket } from "../../host/platform/loopback/host.js";
import { connectXenstore } from "../../host/platform/xenstore/client.js";
import { LIMIT, MIB, World } from "./world.js";

test("a disk's life, from attach to detach", LIMIT, async (t) => {
  const world = await World.start(t);
  const image = world.image("disk.img");
  assert.equal((await world.run("list")).expect(0).stdout, "");

  const attached = (await world.run("attach", "1", `${image},raw,xvda,rw`)).expect(0);
  assert.equal(attached.stdout, `xbdback1i51712: ${image} is xvda of domain 1\n`);
  const waits = (await world.run("show", "1/xvda")).expect(0);
  waits.expectMatch(/^status +waiting for the frontend \(state 1, Initialising\)$/m);
  waits.expectMatch(/^hotplug-status +connected$/m);

  const guest = await world.guest();
  const list = (await world.run("list")).expect(0);
  list.expectMatch(
    /^xbdback1i51712 +1 +xvda +Connected +Connected +(active|idle) +16MiB +[0-9]+ +\S*disk.img$/m,
  );
  const shown = (await world.run("show", "xbdback1i51712")).expect(0);
  shown.expectMatch(/^status +(active|idle)$/m);
  shown.expectMatch(/^protocol +x86_64-abi, a ring of 1 page, persistent grants$/m);
  shown.expectMatch(/^ring 0 +port [0-9]+, 32 slots; req_prod [0-9]+ /m);
  const { vbd, rings } = await world.json<{ vbd: Record<string, unknown>; rings: object[] }>(
    "show",
    "1/51712",
  );
  assert.equal(vbd.name, "xbdback1i51712");
  assert.equal(vbd.device, image);
  assert.equal(rings.length, 1);

  truncateSync(image, 32 * MIB);
  assert.deepEqual(await world.json("resize", "1/xvda"), {
    name: "xbdback1i51712",
    domid: 1,
    devid: 51712,
    size: 32 * MIB,
  });

  assert.equal((await world.run("detach", "1/xvda")).expect(0).stdout, "xbdback1i51712: detached\n");
  assert.notEqual((await guest.outcome()).signal, "SIGKILL");
  assert.deepEqual(await world.json("list"), { vbds: [] });
});

test("what cannot be attached says why, and leaves nothing behind", LIMIT, async (t) => {
  const world = await World.start(t);
  const image = world.image("disk.img");
  const refuse = async (status: number, pattern: RegExp, ...args: string[]): Promise<void> => {
    const outcome = (await world.run(...args)).expect(status);
    outcome.expectMatch(pattern, "stderr");
    assert.equal(outcome.stderr.trim().split("\n").length, 1, outcome.story);
  };
  (await world.run("attach", "1", `${image},raw,xvda,rw`)).expect(0);
  await refuse(
    1,
    /domain 1 has a disk xvda already: detach it first with `xbdback detach 1\/51712`/,
    "attach",
    "1",
    `${image},raw,xvda,rw`,
  );
  await refuse(
    5,
    /disk\.img: in use by xbdback1i51712, a disk of domain 1/,
    "attach",
    "2",
    `${image},raw,xvda,rw`,
  );
  await refuse(1, /none\.img: no such file/, "attach", "2", `${world.scene.path("none.img")},raw,xvda,rw`);
  await refuse(1, /below \/dev, as for xl: write \/.*disk\.img/, "attach", "2", "disk.img,,xvda");
  await refuse(5, /qcow2:\S+: in use by xbdback1i51712/, "attach", "2", `${image},qcow2,xvda`);
  await refuse(2, /unknown value "dmg" for format/, "attach", "2", `${image},dmg,xvda`);
  await refuse(2, /unknown value "yes" for access/, "attach", "2", `${image},raw,xvda,yes`);
  await refuse(4, /domain does not exist: "7"/, "attach", "7", `${image},raw,xvda,rw`);
  await refuse(4, /domain does not exist: "web"/, "attach", "web", `${image},raw,xvda,rw`);
  await refuse(4, /no such vbd: xbdback2i51712/, "detach", "2/xvda");
  await refuse(4, /no such vbd: "xbdback2i51712"/, "show", "2/xvda");
  await refuse(1, /xbdback1i51712 is not connected/, "resize", "1/xvda");
  const { vbds } = await world.json<{ vbds: { name: string }[] }>("list");
  assert.deepEqual(
    vbds.map(({ name }) => name),
    ["xbdback1i51712"],
  );
});

test(
  "without a daemon, the remedy is named; a guest that does not close its disk keeps it, but for --force",
  LIMIT,
  async (t) => {
    const world = await World.start(t);
    const image = world.image("disk.img");
    (await world.run("attach", "1", `${image},raw,xvda,rw`)).expect(0);
    const guest = await world.guest();
    guest.process.kill("SIGKILL");
    await guest.ended;
    const kept = (await world.run("detach", "1/xvda", "--timeout", "1")).expect(5);
    kept.expectMatch(
      /^xbdback: xbdback1i51712: not detached: the guest still uses the disk after 1 s \(frontend state Connected \(4\)\); unmount it in the guest and detach it again, or use --force$/m,
      "stderr",
    );
    (await world.run("show", "1/xvda")).expect(0).expectMatch(/^frontend +Connected \(4\)$/m);
    assert.deepEqual(await world.json("detach", "1/xvda", "--timeout", "1", "--force"), {
      name: "xbdback1i51712",
      domid: 1,
      devid: 51712,
      removal: "forced",
    });
    world.daemon.process.kill("SIGTERM");
    await world.daemon.ended;
    for (const args of [["list"], ["show", "1/xvda"], ["attach", "1", `${image},raw,xvda,rw`]]) {
      const outcome = (await world.run(...args)).expect(1);
      outcome.expectMatch(
        /^xbdback: no daemon answers at \S+control.sock: start it with `xbdback serve --directory \S+machine`$/m,
        "stderr",
      );
    }
  },
);

test("nobody writes to a CD-ROM, whatever its access", LIMIT, async (t) => {
  const world = await World.start(t);
  const image = world.image("cd.iso");
  const attached = (await world.run("attach", "1", `${image},raw,xvdd,rw,cdrom`)).expect(0);
  assert.match(attached.stdout, /is xvdd of domain 1, read-only$/m);
  // A reader has it beside another one.
  (await world.run("attach", "2", `${image},raw,hdc:cdrom,w`)).expect(0);
});

test("check needs no daemon", LIMIT, async (t) => {
  const world = await World.start(t);
  const image = world.image("disk.img", MIB + 100);
  const checked = (await world.run("check", `${image},raw,xvda,ro`)).expect(0);
  checked.expectMatch(/^size +1 MiB \(1048576 bytes\)$/m);
  checked.expectMatch(/^access +read-only$/m);
  checked.expectMatch(/^warning +.*not a multiple of the sector size 512/m);
  assert.equal((await world.json("check", `${image},raw,sda,w`)).devid, 2048);
  (await world.run("attach", "1", `${image},raw,xvda,rw`)).expect(0);
  (await world.run("check", `${image},raw,xvda,rw`)).expect(5).expectMatch(/in use by/, "stderr");
});

test("a disk that xl has made, or that is another domain's, is for xl to take away", LIMIT, async (t) => {
  const world = await World.start(t);
  const image = world.image("disk.img");
  (await world.run("attach", "1", `backend=1,vdev=xvdb,target=${image}`))
    .expect(1)
    .expectMatch(/backend=1: a disk of another domain is attached with `xl block-attach`/, "stderr");
  (await world.run("attach", "1", `${image},raw,xvda,rw`)).expect(0);
  const xenstore = await connectXenstore(xenstoreSocket(world.directory, 0));
  t.after(() => xenstore.close());
  // As xl's records are.
  await xenstore.remove("/libxl/1/device/vbd/51712/toolstack");
  (await world.run("detach", "1/xvda"))
    .expect(1)
    .expectMatch(/xl attached this disk: detach it with `xl block-detach 1 51712`/, "stderr");
  (await world.run("show", "1/xvda")).expect(0);
});

test("guests by their names", LIMIT, async (t) => {
  const world = await World.start(t);
  const xenstore = await connectXenstore(xenstoreSocket(world.directory, 0));
  t.after(() => xenstore.close());
  await xenstore.write("/local/domain/1/name", "web server");
  await xenstore.write("/local/domain/2/name", "1");
  (await world.run("attach", "web server", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
  (await world.run("show", "web server/xvda"))
    .expect(0)
    .expectMatch(/^vbd +xbdback1i51712: xvda of domain 1 \(web server\)$/m);
  (await world.run("list")).expect(0).expectMatch(/^xbdback1i51712 +web\\040server +xvda /m);
  (await world.run("pause", "web server/51712")).expect(0);
  // A number is a number, whatever guests are called.
  (await world.run("show", "1/xvda")).expect(0).expectMatch(/domain 1 \(web server\)/);
  (await world.run("stats", "web server/xvda"))
    .expect(0)
    .expectMatch(/^xbdback1i51712 +web\\040server +xvda/m);
  for (const command of ["show", "detach", "pause", "trace"]) {
    (await world.run(command, "mail/xvda"))
      .expect(4)
      .expectMatch(/domain does not exist: "mail": `xl list`/, "stderr");
  }
  (await world.run("show", "web server/xvdb")).expect(4);
  await xenstore.write("/local/domain/2/name", "web server");
  for (const command of [
    ["show", "web server/xvda"],
    ["attach", "web server", "/x,raw,xvdb,rw"],
  ]) {
    (await world.run(...command))
      .expect(4)
      .expectMatch(
        /^xbdback: domains 1 and 2 are both called "web server": say which by its number\n$/,
        "stderr",
      );
  }
  await xenstore.write("/local/domain/2/name", "1");
  (await world.run("show", "nonsense")).expect(2).expectMatch(/or, by its guest, web\/xvda/, "stderr");
  (await world.run("detach", "web server/xvda")).expect(0);
});
