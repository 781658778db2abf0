/**
 * mini-os (stub domains, pv-grub): 4 at once, as edk2; persistent grants if the backend has them. At its end it waits
 * until the backend has come back to 2, and hangs if it stays at 6.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { LIMIT, onMachine } from "../vbd/harness.js";
import { Peer } from "./peer.js";

async function init(peer: Peer): Promise<void> {
  const keys = await peer.makeRing();
  await peer.publish({ ...keys, "feature-persistent": "0", state: "4" });
  let state = await peer.back();
  while (state < 4) state = await peer.backIs(4, 5, 6);
  assert.equal(state, 4, "backend not available");
  for (const key of ["info", "sectors", "sector-size", "feature-barrier", "feature-flush-cache"]) {
    await peer.need(key);
  }
}

async function shutdown(peer: Peer): Promise<void> {
  await peer.state(5);
  await peer.backIs(5, 6);
  await peer.state(6);
  await peer.backIs(6);
  await peer.state(1);
  // while (state < XenbusStateInitWait || state >= XenbusStateClosed)
  await peer.backIs(2, 3, 4, 5);
  await peer.drop("ring-ref", "event-channel");
  await peer.dropRing();
}

test(
  "init, use, shutdown, and the next one in the same domain (pv-grub starts its kernel)",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    for (let i = 1; i < 6; i++) {
      await init(peer);
      await peer.useDisk(i);
      await shutdown(peer);
      assert.equal(await peer.back(), 2);
    }
    peer.wrote(2, ...Array.from({ length: 5 }, () => [4, 5, 6, 2]).flat());
    await peer.end();
  }),
);

test(
  "at 4 before the backend has seen the disk",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.early(machine, async (early) => {
      await early.publish({ ...(await early.makeRing()), state: "4" });
    });
    await peer.backIs(4);
    await peer.useDisk(1);
    await shutdown(peer);
    peer.wrote(2, 4, 5, 6, 2);
  }),
);
