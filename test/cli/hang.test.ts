/**
 * A disk that hangs: a file in FUSE, whose server is stopped and goes on. What is in flight waits, nobody else does, and a
 * daemon can end all the same.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { connect } from "node:net";
import { type TestContext, test } from "node:test";
import type { VbdStatus } from "../../host/vbd/status.js";
import { eventually, full, type Running } from "../e2e/harness.js";
import { absent } from "../support/programs.js";
import { LIMIT, pause, World } from "./world.js";

const MISSING = absent("nbdkit", "nbdfuse");
const SKIP =
  MISSING || (existsSync("/dev/fuse") && process.getuid?.() === 0 ? false : "FUSE needs root and /dev/fuse");
const HANG_SECONDS = full ? 30 : 3;

interface Disk {
  readonly path: string;
  readonly server: Running;
  unmount(): void;
}

/** A socket is there before it listens. */
function listens(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path, () => resolve(true));
    socket.on("connect", () => socket.end()).on("error", () => resolve(false));
  });
}

/** A disk of zeros whose server can be stopped. */
async function hangingDisk(world: World): Promise<Disk> {
  const socket = world.scene.path("nbd.sock");
  const directory = world.scene.path("mounted");
  mkdirSync(directory);
  const server = world.scene.start("nbdkit", ["-f", "-U", socket, "memory", "16M"]);
  await eventually(() => listens(socket), "nbdkit listens");
  world.scene.start("nbdfuse", [directory, "--unix", socket]);
  const path = `${directory}/nbd`;
  await eventually(() => existsSync(path), "the file is there");
  return { path, server, unmount: () => spawnSync("umount", ["-l", directory]) };
}

/** A daemon, and guest 1's disk in it that can hang. */
async function onHangingDisk(
  t: TestContext,
  serve: readonly string[],
  body: (world: World, disk: Disk) => Promise<void>,
): Promise<void> {
  const world = await World.start(t, ...serve);
  const disk = await hangingDisk(world);
  try {
    (await world.run("attach", "1", `${disk.path},raw,xvda,rw`)).expect(0);
    await body(world, disk);
  } finally {
    disk.unmount();
  }
}

interface Shown {
  readonly vbd: VbdStatus;
  readonly rings: { readonly oldestSeconds: number | null }[];
}

/** Stops the disk's server, and waits until a request hangs. */
async function hang(world: World, { server }: Disk): Promise<void> {
  server.process.kill("SIGSTOP");
  await eventually(async () => {
    const { rings } = await world.json<Shown>("show", "1/xvda");
    return (rings[0]?.oldestSeconds ?? 0) > 1;
  }, "a request hangs");
}

test(`a disk that hangs for ${HANG_SECONDS} s and comes back`, { ...LIMIT, skip: SKIP }, (t) =>
  onHangingDisk(t, [], async (world, disk) => {
    (await world.run("attach", "2", `${world.image("good.img")},raw,xvda,rw`)).expect(0);
    await world.guest(2);
    const guest = world.start("guest", "--workload", "20000");
    await guest.until(/"progress"/);
    await hang(world, disk);

    world.daemon.process.kill("SIGUSR1");
    const told = /domid=1 devid=51712 msg="ring 0: req_prod .* in flight, the oldest for [0-9.]+ s"/;
    await eventually(() => told.test(world.daemon.stderr), "the log tells of it");
    (await world.run("show", "1/xvda")).expect(0).expectMatch(/oldest/);
    const responses = async (id: string) => (await world.json<Shown>("show", id)).vbd.counters.responses;
    const [stuck, working] = [await responses("1/xvda"), await responses("2/xvda")];
    await pause(HANG_SECONDS * 1000);
    assert.equal(await responses("1/xvda"), stuck);
    assert.ok((await responses("2/xvda")) > working, "the other guest stands still");

    disk.server.process.kill("SIGCONT");
    await guest.until(/"verified"/);
    (await guest.outcome()).expect(0);
    assert.equal((await world.json<Shown>("show", "1/xvda")).vbd.counters.ioErrors, 0);
  }),
);

test("a daemon ends beside a disk that hangs; the next one goes on", { ...LIMIT, skip: SKIP }, (t) =>
  onHangingDisk(t, ["--drain-timeout", "1"], async (world, disk) => {
    const guest = world.start("guest", "--workload", "20000");
    await guest.until(/"progress"/);
    await hang(world, disk);
    world.daemon.process.kill("SIGTERM");
    const left = /still in flight after 1 s, and are left to the journals/;
    await eventually(() => left.test(world.daemon.stderr), "it gives up waiting");
    // The kernel keeps a process, a killed one, too, until a file server has answered it.
    disk.server.process.kill("SIGCONT");
    (await world.daemon.outcome()).expect(5);
    await world.serveAgain();
    await guest.until(/"verified"/);
    (await guest.outcome()).expect(0);
  }),
);
