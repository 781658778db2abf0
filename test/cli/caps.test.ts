/** A disk that a guest would never get is refused when it is attached. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { LIMIT, pause, World } from "./world.js";

test("a disk over --max-vbds is refused at attach, and what a guest has stays its own", LIMIT, async (t) => {
  const world = await World.start(t, "--max-vbds", "2");
  const attach = (domain: string, vdev: string) =>
    world.run("attach", domain, `${world.image(`${domain}${vdev}.img`)},raw,${vdev},rw`);
  for (const vdev of ["xvda", "xvdb"]) (await attach("1", vdev)).expect(0);
  (await attach("1", "xvdc"))
    .expect(1)
    .expectMatch(
      /^xbdback: \S+1xvdc\.img: domain 1 has 2 disks, as many as it may: detach a disk, or serve with a higher --max-vbds$/m,
      "stderr",
    );
  (await world.run("show", "1/xvdc")).expect(4);
  (await attach("2", "xvda")).expect(0);
  (await world.run("detach", "1/xvdb")).expect(0);
  (await attach("1", "xvdc")).expect(0);
  const guest = await world.guest();
  world.daemon.process.kill("SIGKILL");
  await world.daemon.ended;
  // Options count from the last one on.
  await world.serveAgain("--max-vbds", "1");
  while (!/^ring 0 /m.test((await world.run("show", "1/xvda")).stdout)) await pause(50);
  (await attach("1", "xvdd")).expect(1).expectMatch(/domain 1 has [12] disks, as many as it may/, "stderr");
  assert.doesNotMatch(world.daemon.stderr, /xbdback1i517(12|44).*as many as it may/);
  guest.process.kill("SIGTERM");
  (await guest.outcome()).expect(143);
});
