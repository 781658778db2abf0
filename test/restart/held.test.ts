/** What a vbd was given is its own until it is removed, over the daemon's restarts, while no guest is connected. */
import { test } from "node:test";
import { LIMIT, pause, World } from "../cli/world.js";

const BUSY = /in use by xbdback1i51712, a disk of domain 1/;

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  test(
    `a disk whose guest is not connected yet is taken again by the next daemon, after ${signal}`,
    LIMIT,
    async (t) => {
      const world = await World.start(t);
      const spec = `${world.image("disk.img")},raw,xvda,rw`;
      const refused = async (): Promise<void> => {
        (await world.run("attach", "2", spec)).expect(5).expectMatch(BUSY, "stderr");
      };
      (await world.run("attach", "1", spec)).expect(0);
      await refused();
      world.daemon.process.kill(signal);
      await world.daemon.ended;
      await world.serveAgain();
      await refused();
      // GRUB's disk is Linux's: between the two connections nobody else gets it.
      const guest = await world.guest();
      guest.process.kill("SIGTERM");
      await guest.ended;
      await refused();
      (await world.run("detach", "1/xvda")).expect(0);
      (await world.run("attach", "2", spec)).expect(0);
    },
  );
}

test("a disk that another program has while the daemon starts is taken when it is free", LIMIT, async (t) => {
  const world = await World.start(t);
  const image = world.image("disk.img");
  (await world.run("attach", "1", `${image},raw,xvda,rw`)).expect(0);
  world.daemon.process.kill("SIGKILL");
  await world.daemon.ended;
  const demo = world.start("demo", image);
  await demo.until(/nbd\+unix/);
  await world.serveAgain();
  const said = /level=error .*in use by process \d+ .*; trying again every few seconds/;
  while (!said.test(world.daemon.stderr)) await pause(50);
  demo.process.kill("SIGTERM");
  await demo.ended;
  const taken = async (): Promise<boolean> => (await world.run("check", `${image},raw,xvda,rw`)).status === 5;
  while (!(await taken())) await pause(100);
});
