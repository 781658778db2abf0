/**
 * GRUB: writes 3 without waiting, polls until the backend is not at 2 and takes what it finds then for a disk. It leaves
 * with 6, without 5; waits for exactly 6; blanks its keys; and puts 1 there for the kernel that it starts.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { LIMIT, onMachine, until } from "../vbd/harness.js";
import { Peer } from "./peer.js";

async function open(peer: Peer, abi: "x86_64" | "x86_32"): Promise<void> {
  await peer.publish(await peer.makeRing(1, abi));
  await peer.state(3);
  await until("the backend leaves 2", async () => (await peer.read("state")) !== "2");
  assert.equal(await peer.read("state"), "4", "GRUB would read a disk that is not there");
  assert.ok((await peer.need("sectors")) > 0);
  assert.equal(await peer.need("sector-size"), 512);
  assert.equal(await peer.read("dev"), "xvda");
}

async function handOver(peer: Peer): Promise<void> {
  await peer.state(6);
  await peer.backIs(6);
  await peer.dropRing();
  await peer.publish({ "ring-ref": "", "event-channel": "" });
  await peer.state(1);
}

for (const abi of ["x86_64", "x86_32"] as const) {
  test(
    `GRUB of ${abi} reads, hands over, and the kernel's blkfront connects and leaves`,
    LIMIT,
    onMachine(async (machine) => {
      const peer = await Peer.start(machine);
      await open(peer, abi);
      await peer.useDisk(1);
      await handOver(peer);
      await peer.backIs(2);
      peer.wrote(2, 4, 6, 2);
      // The kernel's order is its own: the keys are blank until it writes them.
      const keys = await peer.makeRing(4);
      await peer.publish({ ...keys, "ring-page-order": "2" });
      await peer.state(3);
      await peer.backIs(4);
      await peer.state(4);
      await peer.useDisk(2);
      await peer.state(5);
      await peer.backIs(5);
      await peer.state(6);
      await peer.backIs(6);
      await peer.dropRing();
      peer.wrote(4, 5, 6);
      await peer.end();
    }),
  );
}

test(
  "a kernel without a driver for the disk: GRUB's blank keys lead nowhere, and the toolstack removes it",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    await open(peer, "x86_64");
    await handOver(peer);
    await peer.backIs(2);
    await peer.end();
  }),
);

test(
  "a kernel that says 3 with GRUB's blank keys is told so, and may try again",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    await open(peer, "x86_64");
    await handOver(peer);
    await peer.backIs(2);
    await peer.state(3);
    await peer.backIs(6);
    assert.match((await machine.error()) ?? "", /^22 ring-ref is missing$/);
    await open(peer, "x86_64").catch(() => {});
    await peer.backIs(4);
    await peer.useDisk(3);
    assert.equal(await machine.error(), null);
  }),
);

test(
  "GRUB looks at its disks again and again",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    for (let i = 1; i < 10; i++) {
      await peer.backIs(2);
      await open(peer, "x86_64");
      await peer.useDisk(i);
      await handOver(peer);
    }
    await peer.backIs(2);
    await peer.end();
  }),
);
