/**
 * edk2's XenPvBlkDxe (OVMF): 4 at once, with the keys in the same transaction; a state above 4 is an error to it. On its
 * way out it wants 5 answered with exactly 5, then 6 with 6, and the kernel that it starts finds 1.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { LIMIT, onMachine } from "../vbd/harness.js";
import { Peer } from "./peer.js";

/** `%d`: a grant reference of 2^31 or more would have a minus sign. */
async function connect(peer: Peer): Promise<void> {
  const keys = await peer.makeRing();
  await peer.publish({ ...keys, "ring-ref": String(Number(keys["ring-ref"]) | 0), state: "4" });
}

async function waitForConnected(peer: Peer): Promise<void> {
  assert.equal(await peer.backIs(4, 5, 6, 7, 8), 4);
  for (const key of ["info", "sectors", "sector-size", "feature-barrier", "feature-flush-cache"]) {
    await peer.need(key);
  }
}

async function stop(peer: Peer): Promise<void> {
  await peer.state(5);
  assert.equal(await peer.backIs(5, 6, 7, 8), 5, "edk2 logs an error if 5 is left out");
  await peer.state(6);
  await peer.backIs(6);
  await peer.state(1);
  await peer.backIs(0, 1, 2, 6);
  await peer.drop("ring-ref", "event-channel", "protocol");
  await peer.dropRing();
}

test(
  "start, use, ExitBootServices, and again in the kernel",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    await connect(peer);
    await waitForConnected(peer);
    await peer.useDisk(1);
    await stop(peer);
    await peer.backIs(2);
    peer.wrote(2, 4, 5, 6, 2);
    await connect(peer);
    await waitForConnected(peer);
    await peer.useDisk(2);
    await stop(peer);
    await peer.backIs(2);
    await peer.end();
  }),
);

test(
  "at 4 before the backend has seen the disk",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.early(machine, connect);
    await waitForConnected(peer);
    await peer.useDisk(1);
    await stop(peer);
    await peer.backIs(2);
    peer.wrote(2, 4, 5, 6, 2);
  }),
);

test(
  "twenty connections of a boot menu, none of which jumps over 5",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    for (let i = 1; i <= 20; i++) {
      await connect(peer);
      await waitForConnected(peer);
      await peer.useDisk(i);
      await stop(peer);
      await peer.backIs(2);
    }
    peer.wrote(2, ...Array.from({ length: 20 }, () => [4, 5, 6, 2]).flat());
    await peer.end();
  }),
);
