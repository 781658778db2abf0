/**
 * Linux's xen-blkfront: boot, detach in use and not, kexec, module reload, suspend. It acts on each change of the
 * backend's state, ignores 2 unless it is at 1 itself, and reads `sectors` again at each 4.
 */
import assert from "node:assert/strict";
import { truncateSync } from "node:fs";
import { test } from "node:test";
import { IMAGE_BYTES, LIMIT, type Machine, onMachine, until } from "../vbd/harness.js";
import { type Keys, Peer } from "./peer.js";

/** talk_to_blkback: the ring's keys in one transaction, then Initialised. */
async function talkToBackend(peer: Peer, order: number): Promise<void> {
  const keys: Keys = await peer.makeRing(1 << order);
  if (order > 0) keys["ring-page-order"] = String(order);
  await peer.publish({ ...keys, "feature-persistent": "0" });
  await peer.state(3);
}

/** blkfront_connect: what is missing is fatal. */
async function connect(peer: Peer): Promise<void> {
  for (const key of ["sectors", "info", "sector-size"]) await peer.need(key);
  assert.ok((await peer.need("sectors")) > 0);
  // Read with a default; but what we publish has to be a number.
  for (const key of ["physical-sector-size", "feature-flush-cache", "feature-discard"]) await peer.need(key);
  await peer.need("feature-max-indirect-segments");
  await peer.state(4);
}

async function boot(peer: Peer, order = 0): Promise<void> {
  await peer.backIs(2);
  assert.ok((await peer.need("max-ring-page-order")) >= order);
  await peer.need("multi-queue-max-queues");
  await talkToBackend(peer, order);
  await peer.backIs(4);
  await connect(peer);
}

/** xenbus_reset_frontend: what a kernel does that finds its device connected. Each step has five seconds. */
async function resetFrontend(peer: Peer): Promise<void> {
  await peer.state(5);
  await peer.backIs(5);
  await peer.state(6);
  await peer.backIs(6);
  await peer.state(1);
  await peer.backIs(2);
}

for (const order of [0, 2, 4]) {
  test(
    `boot with a ring of ${1 << order} pages, use, and block-detach of a disk that is not in use`,
    LIMIT,
    onMachine(async (machine) => {
      const peer = await Peer.start(machine);
      await boot(peer, order);
      await peer.useDisk(1);
      const removed = peer.remove();
      await peer.backIs(5);
      // blkfront_closing: nobody has the disk open.
      await peer.state(6);
      assert.equal(await removed, "closed");
      await peer.dropRing();
      peer.wrote(2, 4, 6);
      await until("the vbd is gone", () => machine.status() === undefined);
      await machine.untilClean();
    }),
  );
}

test(
  "block-detach of a mounted disk: the frontend says 5 and goes on; the disk works until it is let go",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    await boot(peer);
    // What xl does at first; xapi waits for as long as it takes.
    await machine.xenstore.transaction(async (t) => {
      await t.write(`${peer.backend}/online`, "0");
      await t.write(`${peer.backend}/state`, "5");
    });
    await peer.backIs(5);
    await peer.state(5);
    for (let i = 1; i < 5; i++) await peer.useDisk(i);
    assert.equal(await peer.back(), 5);
    assert.match(machine.status()?.waitsFor ?? "", /^the frontend to close \(state 5, Closing\)$/);
    await peer.state(6);
    await peer.backIs(6);
    await peer.dropRing();
    peer.wrote(2, 4, 6);
    await peer.end();
  }),
);

test(
  "xl's time runs out for a mounted disk: the frontend's directory goes, and the backend lets go of everything",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    await boot(peer);
    const removed = peer.remove(2000);
    await peer.backIs(5);
    await peer.state(5);
    assert.equal(await removed, "forced");
    await peer.dropRing();
    await until("the vbd is gone", () => machine.status() === undefined);
  }),
);

test(
  "a paused guest's disk is removed in xl's time: by force, and answered at once then",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    await boot(peer);
    // The guest does nothing at all. "forced" is that the backend answered in the second time of two.
    assert.equal(await peer.remove(2000), "forced");
    await peer.dropRing();
  }),
);

test(
  "kexec: the new kernel walks the old one's frontend down and up again, five times",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    await boot(peer);
    peer.wrote(2, 4);
    for (let i = 1; i < 6; i++) {
      await peer.useDisk(i);
      peer.forgetRing();
      await resetFrontend(peer);
      // The old ring's keys are still there: of another order now.
      await boot(peer, i % 3);
      if (i % 3 === 0) await peer.drop("ring-page-order");
      await peer.useDisk(i + 10);
      peer.wrote(5, 6, 2, 4);
      await resetFrontend(peer);
      await peer.dropRing();
      await peer.drop("ring-page-order");
      await boot(peer);
      peer.wrote(5, 6, 2, 4);
    }
    await resetFrontend(peer);
    await peer.end();
  }),
);

test(
  "kexec after a crash, whose kernel gave no goodbye and whose successor reads state 4",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    await boot(peer, 2);
    await peer.useDisk(1);
    peer.forgetRing();
    // A single page now; ring-page-order of the old kernel is overwritten or removed, its ring-ref0 stays.
    await resetFrontend(peer);
    await peer.drop("ring-page-order");
    await boot(peer);
    await peer.useDisk(2);
    await resetFrontend(peer);
    await peer.end();
  }),
);

async function connected(machine: Machine): Promise<Peer> {
  const peer = await Peer.start(machine);
  await boot(peer);
  await peer.useDisk(1);
  return peer;
}

test(
  "a suspend that is cancelled: nothing is written, and the ring works on",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await connected(machine);
    await machine.looked();
    await peer.useDisk(2);
    peer.wrote(2, 4);
    await resetFrontend(peer);
    await peer.end();
  }),
);

test(
  "save and restore: a new domain with a fresh ring that does not wait for state 2",
  LIMIT,
  onMachine(async (machine) => {
    const old = await connected(machine);
    old.wrote(2, 4);
    // The old domain dies with its disk connected; the image is free for the new one at once.
    await machine.host.destroyGuest(1);
    await machine.untilState(6);
    assert.equal(await old.remove(), "closed");
    const peer = await Peer.start(machine, 2);
    machine.spy.states.length = 0;
    // blkfront_resume talks at once, in whatever state it finds the backend.
    await talkToBackend(peer, 2);
    await peer.backIs(4);
    await connect(peer);
    await peer.useDisk(3);
    peer.wrote(4);
  }),
);

test(
  "restore on a slow host: the frontend is at 3 before the backend has seen the disk",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.early(machine, (early) => talkToBackend(early, 0));
    await peer.backIs(4);
    await connect(peer);
    await peer.useDisk(1);
    peer.wrote(2, 4);
  }),
);

test(
  "resize while mounted: sectors are read again at the second 4",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await connected(machine);
    let sectors = 0;
    const look = async (): Promise<void> => {
      if ((await peer.back()) === 4) sectors = await peer.need("sectors");
    };
    await peer.guest.xenstore.watch(`${peer.backend}/state`, () => void look());
    await until("the old size was read", () => sectors === IMAGE_BYTES / 512);
    truncateSync(peer.path, 2 * IMAGE_BYTES);
    await until("the new size was read", () => sectors === (2 * IMAGE_BYTES) / 512);
    await peer.useDisk(IMAGE_BYTES / 4096 + 1);
    peer.wrote(2, 4, 4);
  }),
);
