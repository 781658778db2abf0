/** "Why is it stuck": storage that does not answer is named, with what waits for it and since when. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import type { VbdStatus } from "../../host/vbd/status.js";
import { eventually } from "../e2e/harness.js";
import { absent } from "../support/programs.js";
import { LIMIT, MIB, World } from "./world.js";

const status = async (world: World): Promise<VbdStatus> =>
  (await world.json<{ vbd: VbdStatus }>("show", "1/xvda")).vbd;

test("the server of a disk is killed under a guest", { ...LIMIT, skip: absent("qemu-nbd") }, async (t) => {
  const world = await World.start(t);
  const image = world.image("disk.img");
  const socket = world.scene.path("nbd.sock");
  const pidFile = world.scene.path("nbd.pid");
  const server = world.scene.start("qemu-nbd", [
    "-f",
    "raw",
    "-t",
    "-k",
    socket,
    `--pid-file=${pidFile}`,
    image,
  ]);
  await eventually(() => existsSync(pidFile), "qemu-nbd serves");
  (await world.run("attach", "1", `vdev=xvda,target=nbd+unix:///?socket=${socket}`)).expect(0);
  const held = await status(world);
  assert.equal(held.storage.state, "ok");
  const documented = readFileSync(new URL("../../../docs/json.md", import.meta.url), "utf8");
  for (const field of Object.keys(held))
    assert.ok(documented.includes(`\`${field}\``), `docs/json.md has no ${field}`);
  assert.equal(held.size, 16 * MIB, "known before the guest connects");
  assert.match(held.device ?? "", /^nbd\+unix:/);
  await world.guest();
  server.process.kill("SIGKILL");
  await server.ended;
  const waiting = async (): Promise<boolean> => (await status(world)).storage.state === "waiting";
  while (!(await waiting()));
  const { storage, inflight, waitsFor } = await status(world);
  assert.match(
    storage.reason ?? "",
    /^an NBD server is away, connecting again since [0-9:]{8} \(connection refused by /,
  );
  assert.ok(storage.since !== null && Date.now() - storage.since < 60_000);
  assert.ok(inflight > 0);
  assert.equal(waitsFor, null, "it is connected all the same");
  (await world.run("show", "1/xvda"))
    .expect(0)
    .expectMatch(
      /^status +waiting for storage for \d+ s: an NBD server is away, connecting again .*; \d+ requests? waiting/m,
    );
  (await world.run("list")).expect(0).expectMatch(/ storage /);
  world.daemon.process.kill("SIGUSR1");
  await eventually(() => /waiting for storage for/.test(world.daemon.stderr), "SIGUSR1 says so, too");
  world.scene.start("qemu-nbd", ["-f", "raw", "-t", "-k", socket, image]);
  while (await waiting());
});

test("a pause is seen before the guest connects", LIMIT, async (t) => {
  const world = await World.start(t);
  (await world.run("attach", "1", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
  (await world.run("pause", "1/xvda")).expect(0);
  (await world.run("show", "1/xvda"))
    .expect(0)
    .expectMatch(/^status +waiting for the frontend \(state 1, Initialising\); the disk is paused/m);
  (await world.run("list"))
    .expect(0)
    .expectMatch(/^xbdback1i51712 +1 +xvda +InitWait +Initialising +paused +16MiB +0 +\S+disk\.img$/m);
});
