/** Disks of qemu-storage-daemon over vhost-user-blk, through the whole of xbdback: a daemon, a guest, another's server. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { openVhostUser } from "../../host/storage/vhost-user/open.js";
import { World } from "../cli/world.js";
import { eventually, type Running, sha256 } from "../e2e/harness.js";
import { pattern } from "../storage/helpers.js";
import { progress, SIZE, verified, withPrograms, work } from "./support.js";

interface Daemon {
  readonly running: Running;
  readonly socket: string;
}

/** qemu-storage-daemon with an image as a vhost-user-blk export. */
async function storageDaemon(world: World, image: string, format = "raw", queues = 4): Promise<Daemon> {
  const socket = world.scene.path("vhost.sock");
  const running = world.scene.start("qemu-storage-daemon", [
    ...["--object", "iothread,id=io0"],
    ...["--blockdev", `driver=file,node-name=f,filename=${image},discard=unmap`],
    ...["--blockdev", `driver=${format},node-name=n,file=f,discard=unmap`],
    "--export",
    `type=vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path=${socket},writable=on,iothread=io0,num-queues=${queues}`,
  ]);
  await eventually(() => existsSync(socket), "qemu-storage-daemon listens");
  return { running, socket };
}

withPrograms(
  ["qemu-storage-daemon"],
  "a guest works on a disk of qemu-storage-daemon, and has it alone",
  async (t) => {
    const world = await World.start(t);
    const image = world.image("disk.raw", SIZE);
    const { socket } = await storageDaemon(world, image);
    const target = `vhost-user:${socket}`;

    const check = (await world.run("check", `${target},raw,xvda,rw`)).expect(0);
    check.expectMatch(/^target +vhost-user:.* \(a vhost-user server\)$/m);
    check.expectMatch(/^size +32 MiB \(33554432 bytes\)$/m);
    check.expectMatch(/^discard +yes$/m);
    (await world.run("attach", "1", `vdev=xvda,target=${target}`)).expect(0);
    const guest = work(world, 10_000);
    await guest.until(/"connected"/);
    (await world.run("show", "1/xvda")).expect(0).expectMatch(/^through +a vhost-user server$/m);
    const again = (await world.run("attach", "2", `vdev=xvda,target=vhost-user:/${socket}`)).expect(5);
    again.expectMatch(/in use by xbdback1i51712, a disk of domain 1; detach it there first/, "stderr");
    assert.equal(await verified(guest), await sha256(image));
    (await world.run("detach", "1/xvda")).expect(0);
    (await world.run("attach", "2", `vdev=xvda,target=${target}`)).expect(0);
  },
);

for (const [format, queues] of [
  ["qcow2", 1],
  ["qcow2", 4],
  ["raw", 4],
] as const) {
  withPrograms(
    ["qemu-storage-daemon", "qemu-img"],
    `a server that is killed again and again costs its guest a pause: ${format}, ${queues} queues`,
    async (t) => {
      const world = await World.start(t);
      const image = world.scene.path("disk.img");
      (await world.scene.run("qemu-img", "create", "-q", "-f", format, image, "32M")).expect(0);
      let { running, socket } = await storageDaemon(world, image, format, queues);
      (await world.run("attach", "1", `vdev=xvda,target=vhost-user:${socket}`)).expect(0);
      const guest = world.start(
        ...["guest", "--domid", "1", "--queues", String(queues)],
        ...["--workload", "12000", "--depth", "32"],
      );
      for (let kills = 1; kills <= 5; kills++) {
        await progress(guest, 1500 * kills);
        running.process.kill("SIGKILL");
        await running.ended;
        rmSync(socket);
        ({ running, socket } = await storageDaemon(world, image, format, queues));
      }
      const sum = await verified(guest);
      assert.match(world.daemon.stderr, /connected again; [0-9]+ requests are sent again/);
      (await world.run("show", "1/xvda")).expect(0).expectMatch(/^last error +none/m);
      (await world.run("detach", "1/xvda")).expect(0);
      // What it had allocated and not yet referred to is leaked when it is killed (3), which costs space and no data.
      if (format === "qcow2") {
        const check = world.scene.start("qemu-img", ["check", "-q", "-U", image]);
        assert.ok([0, 3].includes((await check.outcome()).status ?? 1));
      }
      const raw = world.scene.path("copy.raw");
      (await world.scene.run("qemu-img", "convert", "-U", "-f", format, "-O", "raw", image, raw)).expect(0);
      assert.equal(await sha256(raw), sum);
    },
  );
}

/** Asks for 24 writes at once, and says so when some of them are done, so that the server has all of them. */
const WRITER = `
const [open, helpers, path] = process.argv.slice(1);
const { openVhostUser } = await import(open);
const { fill, pattern, scatter, write } = await import(helpers);
const disk = await openVhostUser("disk", path, { readOnly: false });
let done = 0;
for (let i = 0; i < 24; i++)
  void write(disk, i * 8192, fill(scatter(4096), pattern(4096, i + 1))).then(() => ++done === 2 && console.log("sent"));`;

withPrograms(
  ["qemu-storage-daemon"],
  "a new client is answered when all that the one before had asked has ended, though that was killed",
  async (t) => {
    const world = await World.start(t);
    const image = world.image("disk.raw", SIZE);
    const socket = world.scene.path("vhost.sock");
    world.scene.start("qemu-storage-daemon", [
      ...["--object", "iothread,id=io0", "--object", "throttle-group,id=slow,limits.iops-total=4"],
      ...["--blockdev", `driver=file,node-name=f,filename=${image}`],
      ...["--blockdev", "driver=throttle,node-name=n,throttle-group=slow,file=f"],
      "--export",
      `type=vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path=${socket},writable=on,iothread=io0`,
    ]);
    await eventually(() => existsSync(socket), "qemu-storage-daemon listens");
    const modules = ["../../host/storage/vhost-user/open.js", "../storage/helpers.js"];
    const urls = modules.map((module) => new URL(module, import.meta.url).href);
    const writer = world.scene.start(process.execPath, [
      "--input-type=module",
      "-e",
      WRITER,
      ...urls,
      socket,
    ]);
    await writer.until(/sent/);
    const block = (i: number): Buffer => readFileSync(image).subarray(i * 8192, i * 8192 + 4096);
    const landed = (): number =>
      [...Array(24).keys()].filter((i) => block(i).equals(pattern(4096, i + 1))).length;
    assert.ok(landed() < 24);
    writer.process.kill("SIGKILL");
    const disk = await openVhostUser("disk", socket, { readOnly: false });
    assert.equal(landed(), 24);
    assert.equal(disk.fenced, true);
    await disk.close();
  },
);

withPrograms(
  ["qemu-storage-daemon"],
  "a server that does not come back costs errors in the end, and `show` says since when",
  async (t) => {
    const world = await World.start(t, "--nbd-reconnect", "1");
    const image = world.image("disk.raw", SIZE);
    const { running, socket } = await storageDaemon(world, image);
    (await world.run("attach", "1", `vdev=xvda,target=vhost-user:${socket}`)).expect(0);
    const guest = work(world, 1_000_000);
    await guest.until(/"progress"/);
    running.process.kill("SIGKILL");
    await running.ended;
    assert.notEqual((await guest.outcome()).status, 0);
    (await world.run("show", "1/xvda"))
      .expect(0)
      .expectMatch(/^through +a vhost-user server, connecting again since [0-9:]{8} \(.*\)$/m);
    assert.match(
      world.daemon.stderr,
      /no connection within 1 s \(.*\); I\/O fails until the server is there again/,
    );
    (await world.run("detach", "1/xvda")).expect(0);
  },
);
