/** Disks of qemu-storage-daemon over vhost-user-blk, through the whole of xbdback: a daemon, a guest, another's server. */
import assert from "node:assert/strict";
import { existsSync, rmSync } from "node:fs";
import { World } from "../cli/world.js";
import { eventually, type Running, sha256 } from "../e2e/harness.js";
import { SIZE, verified, withPrograms, work } from "./support.js";

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

withPrograms(
  ["qemu-storage-daemon", "qemu-img"],
  "a server that dies costs its disk errors until it is attached again",
  async (t) => {
    const world = await World.start(t);
    const image = world.scene.path("disk.qcow2");
    (await world.scene.run("qemu-img", "create", "-q", "-f", "qcow2", image, "32M")).expect(0);
    const first = await storageDaemon(world, image, "qcow2", 1);
    const target = `vhost-user:${first.socket}`;
    (await world.run("attach", "1", `vdev=xvda,target=${target}`)).expect(0);
    const guest = work(world, 1_000_000);
    await guest.until(/"progress"/);
    first.running.process.kill("SIGKILL");
    await first.running.ended;
    assert.notEqual((await guest.outcome()).status, 0);
    assert.match(world.daemon.stderr, /the server has closed its connection; all I\/O fails until/);
    (await world.run("show", "1/xvda"))
      .expect(0)
      .expectMatch(/^last error .*EIO(: the server is lost|; written data may be lost)/m);
    (await world.run("detach", "1/xvda")).expect(0);
    for (const path of [first.socket, image]) rmSync(path);
    (await world.scene.run("qemu-img", "create", "-q", "-f", "qcow2", image, "32M")).expect(0);
    await storageDaemon(world, image, "qcow2", 1);
    (await world.run("attach", "1", `vdev=xvda,target=${target}`)).expect(0);
    await verified(work(world, 5_000));
    (await world.run("detach", "1/xvda")).expect(0);
    (await world.scene.run("qemu-img", "check", "-q", "-U", image)).expect(0);
  },
);
