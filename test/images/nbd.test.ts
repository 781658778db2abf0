/** Disks on other people's NBD servers, through the whole of xbdback: a daemon, a guest, qemu-nbd and nbdkit. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, rmSync } from "node:fs";
import type { TestContext } from "node:test";
import { World } from "../cli/world.js";
import { eventually, freePort, type Running, sha256 } from "../e2e/harness.js";
import { helperOf, progress, SIZE, verified, withPrograms, work } from "./support.js";

/** qemu-nbd on a socket, which it makes itself. */
async function qemuNbd(world: World, image: string, socket: string): Promise<Running> {
  const server = world.scene.start("qemu-nbd", [
    "-f",
    "raw",
    "-t",
    "-e",
    "8",
    "--discard=unmap",
    "-k",
    socket,
    image,
  ]);
  await eventually(() => existsSync(socket), "qemu-nbd listens");
  return server;
}

/** A world whose guest 1 has a disk of qemu-nbd. */
async function withServer(t: TestContext, ...options: string[]) {
  const world = await World.start(t, ...options);
  const image = world.image("disk.raw", SIZE);
  const socket = world.scene.path("nbd.sock");
  const server = await qemuNbd(world, image, socket);
  (await world.run("attach", "1", `vdev=xvda,target=nbd+unix:///?socket=${socket}`)).expect(0);
  return { world, image, socket, server };
}

withPrograms(["qemu-nbd"], "a guest works on a disk of qemu-nbd, and has it alone", async (t) => {
  const world = await World.start(t);
  const image = world.image("disk.raw", SIZE);
  const socket = world.scene.path("nbd.sock");
  await qemuNbd(world, image, socket);
  const uri = `nbd+unix:///?socket=${socket}`;

  const check = (await world.run("check", `${uri},raw,xvda,rw`)).expect(0);
  check.expectMatch(/^target +nbd\+unix:.* \(an NBD server, by qemu-storage-daemon, process [0-9]+\)$/m);
  check.expectMatch(/^size +32 MiB \(33554432 bytes\)$/m);
  check.expectMatch(/^discard +yes$/m);
  (await world.run("attach", "1", `vdev=xvda, target=${uri}`)).expect(0);
  const guest = work(world, 10_000);
  await guest.until(/"connected"/);
  const shown = (await world.run("show", "1/xvda")).expect(0);
  shown.expectMatch(/^through +an NBD server, by qemu-storage-daemon, process [0-9]+$/m);
  const again = (await world.run("attach", "2", `vdev=xvda,target=nbd+unix:///?a=b&socket=${socket}`)).expect(
    5,
  );
  again.expectMatch(/in use by xbdback1i51712, a disk of domain 1; detach it there first/, "stderr");
  assert.equal(await verified(guest), await sha256(image));
  (await world.run("detach", "1/xvda")).expect(0);
  (await world.run("attach", "2", `vdev=xvda,target=${uri}`)).expect(0);
});

withPrograms(["qemu-nbd"], "a guest waits while its NBD server is killed and started again", async (t) => {
  const { world, image, socket, ...first } = await withServer(t);
  let { server } = first;
  const guest = work(world, 30_000);
  for (let kills = 1; kills <= 4; kills++) {
    await progress(guest, kills * 6000);
    server.process.kill("SIGKILL");
    await server.ended;
    rmSync(socket);
    server = await qemuNbd(world, image, socket);
  }
  assert.equal(await verified(guest), await sha256(image));
  assert.equal(world.daemon.stderr.match(/connected again/g)?.length, 4, world.daemon.stderr);
});

withPrograms(
  ["qemu-nbd"],
  "I/O fails when the NBD server stays away, and the daemon serves on",
  async (t) => {
    const { world, server } = await withServer(t, "--nbd-reconnect", "1");
    const guest = work(world, 1_000_000);
    await guest.until(/"progress"/);
    server.process.kill("SIGKILL");
    const outcome = await guest.outcome();
    assert.notEqual(outcome.status, 0);
    assert.match(world.daemon.stderr, /EIO: no connection to the server within 1 s after it was lost/);
    const shown = (await world.run("show", "1/xvda")).expect(0);
    shown.expectMatch(/^last error +.*EIO/m);
    (await world.run("detach", "1/xvda")).expect(0);
    const other = world.image("other.raw", SIZE);
    (await world.run("attach", "2", `${other},raw,xvda,rw`)).expect(0);
  },
);

withPrograms(
  ["nbdkit", "nbdinfo"],
  "a guest works on a disk of nbdkit, over TCP, with an export's name",
  async (t) => {
    const world = await World.start(t);
    const port = await freePort();
    world.scene.start("nbdkit", [
      "-f",
      "-i",
      "127.0.0.1",
      "-p",
      String(port),
      "--filter=exportname",
      "memory",
      "32M",
      "exportname=disk one",
      "exportname-strict=true",
    ]);
    const uri = `nbd://127.0.0.1:${port}/disk%20one`;
    await eventually(() => spawnSync("nbdinfo", ["--size", uri]).status === 0, "nbdkit listens");
    (await world.run("check", `nbd://127.0.0.1:${port}/two,raw,xvda`))
      .expect(1)
      .expectMatch(/has no export "two"/, "stderr");
    (await world.run("attach", "1", `vdev=xvda,target=${uri}`)).expect(0);
    await verified(work(world, 5000));
  },
);

withPrograms(
  ["nbdkit"],
  "a server's large blocks are the guest's sectors, or it says what to do",
  async (t) => {
    const world = await World.start(t);
    const start = async (name: string, minimum: string): Promise<string> => {
      const socket = world.scene.path(name);
      world.scene.start("nbdkit", [
        ...["-f", "-U", socket, "--filter=blocksize-policy", "memory", "32M"],
        ...[
          `blocksize-minimum=${minimum}`,
          "blocksize-preferred=64k",
          "blocksize-maximum=256k",
          "blocksize-error-policy=error",
        ],
      ]);
      await eventually(() => existsSync(socket), "nbdkit listens");
      return `nbd+unix:///?socket=${socket}`;
    };
    const small = await start("4k.sock", "4k");
    (await world.run("check", `${small},raw,xvda`))
      .expect(0)
      .expectMatch(/^sectors +4096 bytes, physical 4096$/m);
    (await world.run("attach", "1", `vdev=xvda,target=${small}`)).expect(0);
    await verified(work(world, 3000));
    const large = await start("64k.sock", "64k");
    (await world.run("check", `${large},raw,xvda`))
      .expect(1)
      .expectMatch(/nbdkit --filter=blocksize/, "stderr");
  },
);

withPrograms(["nbdkit"], "a read-only server's disk is served read-only, and not otherwise", async (t) => {
  const world = await World.start(t);
  const socket = world.scene.path("nbd.sock");
  world.scene.start("nbdkit", ["-f", "-r", "-U", socket, "memory", "32M"]);
  await eventually(() => existsSync(socket), "nbdkit listens");
  const uri = `nbd+unix:///?socket=${socket}`;
  (await world.run("attach", "1", `${uri},raw,xvda,rw`))
    .expect(1)
    .expectMatch(/read-only; attach it read-only/, "stderr");
  (await world.run("attach", "1", `${uri},raw,xvda,ro`)).expect(0);
  (await world.run("attach", "2", `${uri},raw,xvda,ro`)).expect(0);
});

/** Resolves when the guest has done more than it had. */
async function more(guest: Running): Promise<void> {
  const done = guest.stdout.length;
  await eventually(() => guest.stdout.length > done, "the guest goes on");
}

withPrograms(
  ["qemu-nbd", "qemu-storage-daemon"],
  "a daemon that is stopped or killed hands an NBD disk over",
  async (t) => {
    const { world, image } = await withServer(t);
    const guest = work(world, 40_000);
    await guest.until(/"progress"/);

    world.daemon.process.kill("SIGTERM");
    (await world.daemon.outcome()).expect(0);
    const second = world.start("serve");
    await eventually(() => /taken over after a pause/.test(second.stderr), "the second daemon takes over");
    await more(guest);

    second.process.kill("SIGKILL");
    await second.ended;
    const third = world.start("serve");
    await eventually(() => /taken over/.test(third.stderr), "the third daemon takes over");
    assert.equal(await verified(guest), await sha256(image));
  },
);

withPrograms(
  ["qemu-nbd", "qemu-storage-daemon"],
  "a daemon is killed while its server is away: the guest waits for both",
  async (t) => {
    const { world, image, socket, server } = await withServer(t);
    const guest = work(world, 20_000);
    await guest.until(/"progress"/);
    server.process.kill("SIGKILL");
    await server.ended;
    await eventually(() => /requests wait for another connection/.test(world.daemon.stderr), "it is seen");
    world.daemon.process.kill("SIGKILL");
    await world.daemon.ended;
    // What was asked of the server before has ended, which every daemon from now on has to know.
    for (let i = 0; i < 2; i++) {
      const next = world.start("serve");
      await eventually(() => /no socket at .*nbd\.sock|connection refused by/.test(next.stderr), "it tries");
      next.process.kill("SIGKILL");
      await next.ended;
    }
    rmSync(socket, { force: true });
    await qemuNbd(world, image, socket);
    const last = world.start("serve");
    await eventually(() => /taken over/.test(last.stderr), "the last daemon takes over");
    assert.equal(await verified(guest), await sha256(image));
  },
);

withPrograms(
  ["qemu-nbd", "qemu-storage-daemon"],
  "an NBD disk is closed when the daemon and its helper are killed: nobody knows what the server still does",
  async (t) => {
    const { world } = await withServer(t);
    const guest = work(world, 1_000_000);
    await guest.until(/"progress"/);
    const helper = await helperOf(world);
    world.daemon.process.kill("SIGKILL");
    process.kill(helper, "SIGKILL");
    await world.daemon.ended;
    const second = world.start("serve");
    await eventually(
      () =>
        /previous daemon was killed or its drain timed out, and the server may still carry out/.test(
          second.stderr,
        ),
      "it is closed",
    );
    assert.notEqual((await guest.outcome()).status, 0);
  },
);

withPrograms(
  ["qemu-nbd"],
  "a disk that was handed over waits for its server, over any number of daemons",
  async (t) => {
    const { world, image, socket, server } = await withServer(t);
    const guest = work(world, 1_000_000);
    await guest.until(/"progress"/);
    world.daemon.process.kill("SIGTERM");
    (await world.daemon.outcome()).expect(0);
    server.process.kill("SIGTERM");
    await server.ended;
    rmSync(socket, { force: true });

    const second = world.start("serve");
    await eventually(() => /no socket at .*nbd\.sock|connection refused by/.test(second.stderr), "it tries");
    second.process.kill("SIGTERM");
    (await second.outcome()).expect(0);
    await qemuNbd(world, image, socket);
    const third = world.start("serve");
    await eventually(() => /taken over after a pause/.test(third.stderr), "the third daemon takes over");
    const done = guest.stdout.length;
    await eventually(() => guest.stdout.length > done, "the guest goes on");
  },
);

withPrograms(
  ["qemu-nbd", "qemu-storage-daemon"],
  "a daemon is cut short while its server owes answers: the next one waits for them",
  async (t) => {
    const { world, image, server } = await withServer(t, "--drain-timeout", "1");
    const guest = work(world, 20_000);
    await guest.until(/"progress"/);
    server.process.kill("SIGSTOP");
    let second: Running;
    try {
      world.daemon.process.kill("SIGTERM");
      await world.daemon.ended;
      second = world.start("serve");
      await eventually(
        () => /has not done yet what the previous daemon has asked of it/.test(second.stderr),
        "it waits",
      );
    } finally {
      server.process.kill("SIGCONT");
    }
    await eventually(() => /taken over after a pause/.test(second.stderr), "it takes over");
    assert.equal(await verified(guest), await sha256(image));
  },
);
