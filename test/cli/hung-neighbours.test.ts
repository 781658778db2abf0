/** A file system that hangs with many disks on it: whoever has to do with the others notices nothing. */
import assert from "node:assert/strict";
import { truncateSync } from "node:fs";
import { type TestContext, test } from "node:test";
import type { VbdStatus } from "../../host/vbd/status.js";
import { eventually } from "../e2e/harness.js";
import { HangingFiles, NO_FUSE } from "../support/hanging-files.js";
import { LIMIT, MIB, World } from "./world.js";

/** More than libuv has threads, and more than the kernel has workers for io_uring by default. */
const ATTACHED = 6;
const ASKED_FOR = 10;
/** What a command may take here, its own start included, on a machine that does a lot besides. Waiting took 10 s and more. */
const SOON_MS = 5000;

const letter = (i: number): string => `xvd${String.fromCharCode(97 + i)}`;

async function withHangingFiles(
  t: TestContext,
  body: (world: World, files: HangingFiles) => Promise<void>,
  ...serve: string[]
): Promise<void> {
  const world = await World.start(t, ...serve);
  const files = await HangingFiles.mount(world.scene);
  try {
    await body(world, files);
  } finally {
    await files.unmount();
  }
}

async function soon(world: World, ...args: string[]): Promise<string> {
  const start = performance.now();
  const { stdout } = (await world.run(...args)).expect(0);
  const took = performance.now() - start;
  assert.ok(took < SOON_MS, `${args.join(" ")} took ${took.toFixed(0)} ms`);
  return stdout;
}

test(
  "attached and requested disks hang; all that concerns the others goes on",
  { ...LIMIT, skip: NO_FUSE },
  (t) =>
    withHangingFiles(t, async (world, files) => {
      const [good, late] = [world.image("good.img"), world.image("late.img")];
      await soon(world, "attach", "1", `${good},raw,xvda,rw`);
      await world.guest(1);
      for (let i = 0; i < ATTACHED; i++)
        (await world.run("attach", "2", `${files.path(i)},raw,${letter(i)},rw`)).expect(0);
      await files.hang();
      // Those of a toolstack that gives up and tries again, for one disk and for others.
      const asking = Array.from({ length: ASKED_FOR }, (_, i) =>
        world.start(
          "attach",
          "2",
          `log:${files.path(90)}:${files.path(i % 2 ? 50 : 60 + i)},raw,${letter(ATTACHED + i)},rw`,
        ),
      );
      const shown = async (name: string): Promise<VbdStatus> =>
        (await world.json<{ vbd: VbdStatus }>("show", name)).vbd;
      await eventually(
        async () => (await shown("2/xvda")).storage.state === "waiting",
        "the status of an idle disk says that it hangs",
      );
      const { storage } = await shown("2/xvda");
      assert.match(storage.reason ?? "", /\/hanging\/0 does not answer \(stat\)$/);
      assert.ok(storage.since !== null && Date.now() - storage.since < 60_000);

      assert.match(await soon(world, "list"), /^xbdback1i51712 /m);
      assert.match(await soon(world, "show", "2/xvda"), /waiting for storage for \d+ s: .* does not answer/);
      await soon(world, "attach", "1", `${late},raw,xvdb,rw`);
      await soon(
        world,
        "attach",
        "1",
        `log:${world.scene.path("io.log")}:${world.image("third.img")},raw,xvdc,rw`,
      );
      truncateSync(good, 32 * MIB);
      await eventually(
        async () => (await shown("1/xvda")).size === 32 * MIB,
        "the growth of a healthy disk is seen",
      );
      await soon(world, "detach", "1/xvdb");
      await soon(world, "detach", "1/xvdc");
      for (const one of asking) one.process.kill("SIGKILL");
    }),
);

test(
  "an upgrade hands over the healthy disks, names the others, and takes them over when their storage answers",
  {
    ...LIMIT,
    skip: NO_FUSE,
  },
  (t) =>
    withHangingFiles(t, async (world, files) => {
      await soon(world, "attach", "1", `${world.image("good.img")},raw,xvda,rw`);
      await world.guest(1);
      (await world.run("attach", "2", `${files.path(0)},raw,xvda,rw`)).expect(0);
      (await world.run("attach", "2", `${files.path(1)},raw,xvdb,rw`)).expect(0);
      const stuck = await world.guest(2);
      await files.hang();
      const shown = async (name: string): Promise<VbdStatus> =>
        (await world.json<{ vbd: VbdStatus }>("show", name)).vbd;
      await eventually(
        async () => (await shown("2/xvda")).storage.state === "waiting",
        "the guest's disk hangs",
      );
      const old = world.daemon.process.pid;
      const upgraded = await world.run("upgrade");
      assert.equal(upgraded.status, 1);
      const said = upgraded.stdout + upgraded.stderr;
      const paused = /^xbdback1i51712: paused for (\d+) ms$/m.exec(upgraded.stdout);
      assert.ok(paused && Number(paused[1]) < SOON_MS, said);
      const still = `xbdback2i51712: waits for process ${old}, which still has the disk: waiting for storage for `;
      assert.ok(upgraded.stdout.includes(still), said);
      assert.match(upgraded.stderr, /1 of 2 disks are not active again/);
      const { counters } = await shown("1/xvda");
      await eventually(
        async () => (await shown("1/xvda")).counters.responses > counters.responses,
        "guest 1 works",
      );
      const problem = new RegExp(`^problem +process ${old}, the previous daemon, has not ended: `, "m");
      assert.match(await soon(world, "status"), problem);
      await files.resume();
      await eventually(async () => (await shown("2/xvda")).queues > 0, "guest 2's disk is taken over");
      await eventually(async () => (await shown("2/xvda")).counters.responses > 0, "guest 2 works");
      await world.daemon.ended;
      assert.doesNotMatch(await soon(world, "status"), problem);
      assert.equal(stuck.process.exitCode, null, "it has read what it wrote");
    }),
);
