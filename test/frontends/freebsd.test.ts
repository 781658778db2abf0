/**
 * FreeBSD's xbd: reads both names of the ring's size, writes both, goes fatal if `sectors` is 0 at state 4, and reads
 * `sectors` again at each later 4.
 */
import assert from "node:assert/strict";
import { truncateSync } from "node:fs";
import { test } from "node:test";
import { Op, Rsp } from "../../host/guest/layout.js";
import { IMAGE_BYTES, LIMIT, onMachine, until } from "../vbd/harness.js";
import { Peer } from "./peer.js";

async function boot(peer: Peer, wanted: number): Promise<void> {
  await peer.backIs(2, 3, 4);
  const order = await peer.need("max-ring-page-order");
  const pages = await peer.need("max-ring-pages");
  assert.equal(pages, 1 << order, "the two names tell of two rings");
  const keys = await peer.makeRing(wanted);
  if (wanted > 1) {
    keys["num-ring-pages"] = String(wanted);
    keys["ring-page-order"] = String(Math.log2(wanted));
  }
  for (const [key, value] of Object.entries(keys)) await peer.publish({ [key]: value });
  await peer.state(3);
  await peer.backIs(4);
  assert.ok((await peer.need("sectors")) > 0, "xbd_connect: sectors is 0");
  await peer.need("sector-size");
  await peer.need("info");
  await peer.state(4);
}

for (const pages of [1, 4, 16]) {
  test(
    `boot with a ring of ${pages} pages, use, resize, and detach`,
    LIMIT,
    onMachine(async (machine) => {
      const peer = await Peer.start(machine);
      await boot(peer, pages);
      await peer.useDisk(1);
      // Barriers order its writes where it has no flush.
      assert.equal(await peer.request(Op.writeBarrier, 0, new Uint8Array(512)), Rsp.okay);
      truncateSync(peer.path, 2 * IMAGE_BYTES);
      await until(
        "sectors has changed",
        async () => (await peer.need("sectors")) === (2 * IMAGE_BYTES) / 512,
      );
      assert.equal(await peer.back(), 4);
      const removed = peer.remove();
      await peer.backIs(5);
      // xbd_closing: with nobody who has it open it is Closed at once.
      await peer.state(6);
      assert.equal(await removed, "closed");
      await peer.dropRing();
      peer.wrote(2, 4, 4, 6);
    }),
  );
}

test(
  "a disk in use answers 5 with nothing but a message, and closes at the last close",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    await boot(peer, 2);
    const removed = peer.remove();
    await peer.backIs(5);
    await peer.useDisk(1);
    await peer.useDisk(2);
    await peer.state(5);
    await peer.state(6);
    assert.equal(await removed, "closed");
    await peer.dropRing();
    peer.wrote(2, 4, 6);
  }),
);
