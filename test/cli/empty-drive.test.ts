/** A CD-ROM drive without a medium, as a user attaches it. */

import { test } from "node:test";
import { LIMIT, World } from "./world.js";

test("an empty CD-ROM drive is attached, shown and detached; an empty disk is refused", LIMIT, async (t) => {
  const world = await World.start(t);
  (await world.run("attach", "1", "vdev=hdc,devtype=cdrom"))
    .expect(0)
    .expectMatch(/^xbdback1i5632: an empty drive is hdc of domain 1, read-only$/m);
  (await world.run("show", "1/hdc")).expect(0);
  (await world.run("detach", "1/hdc")).expect(0);
  (await world.run("attach", "1", "format=empty,vdev=xvdb"))
    .expect(1)
    .expectMatch(/^xbdback: only a CD-ROM drive can be empty: /m, "stderr");
  (await world.run("check", "vdev=hdc,devtype=cdrom")).expect(0);
});
