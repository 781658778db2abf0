/** Disks of servers under a guest at work, while the daemon, the server, or both are killed. */
import { test } from "node:test";
import { cannotServe } from "./served.js";
import { type Death, playSlice, WAYS } from "./slice.js";

const LIMIT = { timeout: 180_000 };
const ALL: readonly Death[] = ["both", "backend", "server", "both", "backend", "both"];

for (const [i, way] of WAYS.slice(0, 2).entries()) {
  test(`the daemon and a vhost-user server are killed, alone and at once: ${way.name}`, {
    ...LIMIT,
    skip: cannotServe("vhost-user"),
  }, async () => {
    await playSlice(way, ALL, 300 + i, "vhost-user");
  });
}

test("the daemon and an NBD server are killed, alone and at once", {
  ...LIMIT,
  skip: cannotServe("nbd"),
}, async () => {
  await playSlice(WAYS[1], ALL, 310, "nbd");
});

for (const [i, disk] of (["qcow2", "vhd", "overlay"] as const).entries()) {
  test(`the daemon and the helper of an image are killed, alone and at once: ${disk}`, {
    ...LIMIT,
    skip: cannotServe(disk),
  }, async () => {
    await playSlice(WAYS[i], ALL, 320 + i, disk);
  });
}
