/**
 * Windows' xenvbd: walks down before it walks up, even at the first start: 5 until the backend is at 5 or 6, 6 until it
 * is at 6, then 1, and anything but 1, 6 and 2 is a failure. It watches `sectors` itself, and flushes with a barrier.
 */
import assert from "node:assert/strict";
import { truncateSync } from "node:fs";
import { test } from "node:test";
import { Op, Rsp } from "../../host/guest/layout.js";
import { IMAGE_BYTES, LIMIT, onMachine, pause, until } from "../vbd/harness.js";
import { Peer } from "./peer.js";

/** Writes the state over and over until the backend follows. */
async function insist(peer: Peer, state: number, ...wanted: number[]): Promise<void> {
  for (let round = 0; round < 500; round++) {
    await peer.state(state);
    await pause(1);
    if (wanted.includes(await peer.back())) return;
  }
  assert.fail(`the backend is at ${await peer.back()}, not ${wanted}`);
}

async function close(peer: Peer): Promise<void> {
  await insist(peer, 5, 5, 6);
  await insist(peer, 6, 6);
}

async function prepare(peer: Peer): Promise<void> {
  await peer.state(1);
  await until("the backend is at 2", async () => {
    const state = await peer.back();
    assert.ok([1, 6, 2].includes(state), `FrontendPrepare: the backend is at ${state}`);
    return state === 2;
  });
  // Read by it, and written by the toolstack.
  assert.equal(await peer.read("removable"), "0");
}

async function connect(peer: Peer, pages: number): Promise<void> {
  const keys = await peer.makeRing(pages);
  if (pages > 1) keys["ring-page-order"] = String(Math.log2(pages));
  // A deprecated key that must not make any difference.
  await peer.publish({ ...keys, "feature-large-sector-size": "1" });
  await peer.state(3);
  await peer.backIs(4);
  for (const key of ["sectors", "sector-size", "info", "feature-barrier", "feature-discard"]) {
    await peer.need(key);
  }
  await peer.state(4);
}

for (const pages of [1, 8]) {
  test(
    `start, use, hibernate, come back, and leave; rings of ${pages} pages`,
    LIMIT,
    onMachine(async (machine) => {
      const peer = await Peer.start(machine);
      await close(peer);
      await prepare(peer);
      await connect(peer, pages);
      await peer.useDisk(1);
      assert.equal(await peer.request(Op.writeBarrier, 0, null), Rsp.okay);
      await close(peer);
      await peer.dropRing();
      await peer.drop("ring-page-order");
      await prepare(peer);
      await connect(peer, 1);
      await peer.useDisk(2);
      await close(peer);
      await peer.dropRing();
      peer.wrote(2, 5, 6, 2, 4, 5, 6, 2, 4, 5, 6);
      await peer.end();
    }),
  );
}

test(
  "the size changes: the watch on sectors fires, and the number there is right when it does",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    await close(peer);
    await prepare(peer);
    await connect(peer, 1);
    const sizes: number[] = [];
    const look = async (): Promise<number> => sizes.push(await peer.need("sectors"));
    await peer.guest.xenstore.watch(`${peer.backend}/sectors`, () => void look());
    truncateSync(peer.path, 2 * IMAGE_BYTES);
    await until("it is told", () => sizes.includes((2 * IMAGE_BYTES) / 512));
    assert.equal(await peer.back(), 4);
  }),
);

test(
  "the toolstack ejects the disk while Windows comes up: it sees 5 or 6, and no loop is without end",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    await close(peer);
    const removed = peer.remove();
    await until("the disk is gone", async () => [0, 6].includes(await peer.back()));
    assert.equal(await removed, "closed");
  }),
);
