/** Nothing runs on that serves an image, whoever of daemon, helper and guest ends, and in whatever order. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import type { TestContext } from "node:test";
import { World } from "../cli/world.js";
import { eventually, type Running } from "../e2e/harness.js";
import { helperOf, progress, SIZE, verified, withPrograms, work } from "./support.js";

function lives(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

interface Served {
  readonly world: World;
  readonly guest: Running;
  readonly helper: number;
}

/** A guest that works on a qcow2 image. */
async function serve(t: TestContext, operations: number): Promise<Served> {
  const world = await World.start(t);
  const image = world.scene.path("disk.qcow2");
  (await world.scene.run("qemu-img", "create", "-q", "-f", "qcow2", image, String(SIZE))).expect(0);
  (await world.run("attach", "1", `${image},qcow2,xvda,rw`)).expect(0);
  const guest = work(world, operations);
  await progress(guest, 1000);
  return { world, guest, helper: await helperOf(world) };
}

const MANY = 1_000_000_000;
type Victim = "daemon" | "helper" | "guest";

/** Who ends, in what order; the guest's disk is detached where the daemon stays. */
const ORDERS: readonly (readonly Victim[])[] = [
  ["daemon"],
  ["helper"],
  ["guest"],
  ["guest", "daemon"],
  ["daemon", "guest"],
  ["helper", "daemon"],
  ["daemon", "helper", "guest"],
];

const QEMU = ["qemu-storage-daemon", "qemu-img"] as const;

for (const order of ORDERS) {
  withPrograms(QEMU, `nothing runs on after SIGKILL of ${order.join(", ")}`, async (t) => {
    const { world, guest, helper } = await serve(t, MANY);
    const kill: Record<Victim, () => void> = {
      daemon: () => world.daemon.process.kill("SIGKILL"),
      helper: () => process.kill(helper, "SIGKILL"),
      guest: () => guest.process.kill("SIGKILL"),
    };
    for (const victim of order) kill[victim]();
    let last = helper;
    if (!order.includes("daemon")) {
      // The next one, where there is one.
      last = (await helperOf(world)) || helper;
      guest.process.kill("SIGKILL");
      await guest.ended;
      (await world.run("detach", "1/xvda", "--force", "--timeout", "1")).expect(0);
    }
    await eventually(() => !lives(helper) && !lives(last), "the helper has ended");
  });
}

withPrograms(QEMU, "an image is served on after a stop of the whole unit", async (t) => {
  const { world, guest, helper } = await serve(t, 20_000);
  // As systemd does, to all processes of the unit; the helper first is the worse order.
  process.kill(helper, "SIGTERM");
  world.daemon.process.kill("SIGTERM");
  assert.equal((await world.daemon.outcome()).status, 0);
  await eventually(() => !lives(helper), "the helper has ended");
  await world.serveAgain();
  await verified(guest);
  (await world.run("detach", "1/xvda")).expect(0);
  (await world.scene.run("qemu-img", "check", "-q", "-f", "qcow2", world.scene.path("disk.qcow2"))).expect(0);
});

withPrograms(
  QEMU,
  "a qemu-storage-daemon that dies is replaced, again and again, and its guest loses nothing",
  async (t) => {
    const { world, guest, helper } = await serve(t, 12_000);
    for (let kills = 1, last = helper; kills <= 4; kills++) {
      process.kill(last, "SIGKILL");
      await progress(guest, 1000 + 2000 * kills);
      const next = await helperOf(world);
      assert.notEqual(next, last);
      last = next;
    }
    assert.match(world.daemon.stderr, /qemu-storage-daemon ended with SIGKILL/);
    await verified(guest);
    const shown = (await world.run("show", "1/xvda")).expect(0);
    shown.expectMatch(/^through +qemu-storage-daemon, process [0-9]+: qcow2 /m);
    shown.expectMatch(/^last error +none/m);
    (await world.run("detach", "1/xvda")).expect(0);
  },
);
