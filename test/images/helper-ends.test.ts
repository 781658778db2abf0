/** Nothing runs on that serves an image, whoever of daemon, helper and guest ends, and in whatever order; and no guest loses by it. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { suite, type TestContext } from "node:test";
import { World } from "../cli/world.js";
import { eventually, type Running } from "../e2e/harness.js";
import { helperOf, lives, progress, SIZE, verified, withPrograms, work } from "./support.js";

const QEMU = ["qemu-storage-daemon", "qemu-img"] as const;

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

/** What there is of helpers and of their guard: processes, and directories with sockets. */
function left(world: World): string[] {
  const directories = readdirSync(join(world.directory, "helpers")).filter((name) => name.startsWith("vbd-"));
  const processes = world.scene.processes().flatMap(({ pid, args }) => {
    const isHelper = args.some((arg) => arg.includes(join(world.directory, "helpers")));
    return isHelper && lives(pid) ? [`${pid} ${args[0]}`] : [];
  });
  return [...directories, ...processes];
}

/** The helper has ended; its guard lives as long as the daemon. */
async function helperEnded(world: World): Promise<void> {
  await eventually(() => left(world).every((one) => one.endsWith("/perl")), "the helper ends with its disk");
}

async function checkImage(world: World): Promise<void> {
  await helperEnded(world);
  const image = world.scene.path("disk.qcow2");
  const { status, story } = await world.scene.start("qemu-img", ["check", "-q", image]).outcome();
  // 3: there are clusters that nothing refers to, which a kill of the helper leaves.
  assert.ok(status === 0 || status === 3, story);
}

const MANY = 1_000_000_000;
type Victim = "daemon" | "helper" | "guest";

/** Who is killed, in what order. */
const ORDERS: readonly (readonly Victim[])[] = [
  ["daemon"],
  ["helper"],
  ["guest"],
  ["guest", "daemon"],
  ["daemon", "guest"],
  ["helper", "daemon"],
  ["daemon", "helper"],
  ["daemon", "helper", "guest"],
];

function killAll(order: readonly Victim[], { world, guest, helper }: Served): void {
  const kill: Record<Victim, () => void> = {
    daemon: () => world.daemon.process.kill("SIGKILL"),
    helper: () => process.kill(helper, "SIGKILL"),
    guest: () => guest.process.kill("SIGKILL"),
  };
  for (const victim of order) kill[victim]();
}

for (const order of ORDERS) {
  withPrograms(QEMU, `nothing is left after SIGKILL of ${order.join(", ")}, and a detach`, async (t) => {
    const served = await serve(t, MANY);
    const { world, guest } = served;
    killAll(order, served);
    if (order.includes("daemon")) {
      await world.daemon.ended;
      await world.serveAgain();
    }
    guest.process.kill("SIGKILL");
    await guest.ended;
    await world.run("detach", "1/xvda", "--force", "--timeout", "1");
    await helperEnded(world);
    world.daemon.process.kill("SIGTERM");
    await world.daemon.ended;
    await eventually(() => left(world).length === 0, "nothing is left");
    await checkImage(world);
  });
}

withPrograms(QEMU, "nothing is left of a machine that is removed with its daemon", async (t) => {
  const { world, helper } = await serve(t, MANY);
  const guards = world.scene.processes().filter(({ args }) => args[2]?.includes("flock"));
  assert.equal(guards.length, 1);
  const machine = world.scene.processes().find(({ args }) => args[2] === "machine");
  world.daemon.process.kill("SIGKILL");
  process.kill(machine?.pid ?? 0, "SIGTERM");
  await eventually(() => !lives(helper) && !lives(guards[0].pid), "helper and guard have ended", 20_000);
});

withPrograms(QEMU, "an image is served on after a stop of the whole unit", async (t) => {
  const { world, guest, helper } = await serve(t, 20_000);
  // As a service manager may do, to all processes of the unit; the helper first is the worse order.
  process.kill(helper, "SIGTERM");
  world.daemon.process.kill("SIGTERM");
  assert.equal((await world.daemon.outcome()).status, 0);
  await eventually(() => left(world).length === 0, "the helper has ended");
  await world.serveAgain();
  await verified(guest);
  (await world.run("detach", "1/xvda")).expect(0);
  await checkImage(world);
});

withPrograms(QEMU, "daemons that are killed are followed by others that find the helper again", async (t) => {
  const { world, guest, helper } = await serve(t, 30_000);
  for (let kills = 1; kills <= 5; kills++) {
    // Far from its end, which it may reach while a daemon starts.
    await progress(guest, 500 * kills);
    world.daemon.process.kill("SIGKILL");
    await world.daemon.ended;
    await world.serveAgain();
    await eventually(() => /taken over/.test(world.daemon.stderr), "the next daemon goes on");
    assert.equal(await helperOf(world), helper, world.daemon.stderr);
  }
  await verified(guest);
  (await world.run("show", "1/xvda")).expect(0).expectMatch(/^last error +none/m);
  (await world.run("detach", "1/xvda")).expect(0);
  await eventually(() => !lives(helper), "the helper ends with the disk");
  // The daemon sees that a moment later.
  const rest = (): string => readdirSync(join(world.directory, "helpers")).sort().join();
  await eventually(() => rest() === "daemons,guard", "nothing is left of it");
  await checkImage(world);
});

withPrograms(QEMU, "a vbd that is removed while there is no daemon leaves no helper", async (t) => {
  const { world, guest, helper } = await serve(t, MANY);
  world.daemon.process.kill("SIGKILL");
  guest.process.kill("SIGKILL");
  await world.daemon.ended;
  await world.run("detach", "1/xvda", "--force", "--timeout", "1");
  await world.serveAgain();
  await eventually(() => !lives(helper), "the next daemon ends it");
  assert.deepEqual(readdirSync(join(world.directory, "helpers")).sort(), ["daemons", "guard"]);
});

// The guard gives helpers half a minute, and a daemon ten seconds: all of these wait for that at once.
suite("what has its time", { concurrency: true }, () => {
  for (const order of [["daemon"], ["daemon", "helper"], ["daemon", "guest"]] as const) {
    withPrograms(
      QEMU,
      `nothing is left after SIGKILL of ${order.join(", ")}, and no other daemon`,
      async (t) => {
        const served = await serve(t, MANY);
        killAll(order, served);
        await eventually(() => left(served.world).length === 0, "nothing is left");
        await checkImage(served.world);
      },
    );
  }

  withPrograms(QEMU, "a helper that does not answer is left alone, and its guest waits", async (t) => {
    const { world, guest, helper } = await serve(t, 20_000);
    process.kill(helper, "SIGSTOP");
    world.daemon.process.kill("SIGKILL");
    await world.daemon.ended;
    await world.serveAgain();
    const busy =
      /qemu-storage-daemon, process \d+, has not done yet what the previous daemon has asked of it/;
    await eventually(() => busy.test(world.daemon.stderr), "the daemon says so");
    assert.ok(lives(helper));
    process.kill(helper, "SIGCONT");
    await verified(guest);
    assert.equal(await helperOf(world), helper);
    (await world.run("detach", "1/xvda")).expect(0);
    await checkImage(world);
  });

  withPrograms(QEMU, "a helper that does not answer ends when its disk is detached", async (t) => {
    const { world, guest, helper } = await serve(t, MANY);
    process.kill(helper, "SIGSTOP");
    world.daemon.process.kill("SIGKILL");
    await world.daemon.ended;
    await world.serveAgain();
    guest.process.kill("SIGKILL");
    await world.run("detach", "1/xvda", "--force", "--timeout", "1");
    await helperEnded(world);
    assert.ok(!lives(helper));
  });
});

withPrograms(QEMU, "a helper that was started otherwise is replaced, and its guest goes on", async (t) => {
  const { world, guest, helper } = await serve(t, 20_000);
  world.daemon.process.kill("SIGKILL");
  await world.daemon.ended;
  await world.serveAgain("--cache", "none");
  await eventually(() => !lives(helper), "it has ended");
  await verified(guest);
  assert.notEqual(await helperOf(world), helper);
  (await world.run("detach", "1/xvda")).expect(0);
  await checkImage(world);
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
