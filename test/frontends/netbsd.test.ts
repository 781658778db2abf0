/**
 * NetBSD's xbd: it is at 3 without waiting for anybody, panics if the disk's keys are missing at state 4 and at any
 * state that it does not know, asserts that no grant is in use after a response, and leaves most of a flush unwritten.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Op, Rsp } from "../../host/guest/layout.js";
import { LIMIT, onMachine, until } from "../vbd/harness.js";
import { Peer } from "./peer.js";

/** xbd_xenbus_resume, which is also how it starts. */
async function resume(peer: Peer): Promise<void> {
  await peer.publish(await peer.makeRing());
  await peer.state(3);
}

/** xbd_backend_changed, for each event of the backend's state. */
async function watchBackend(peer: Peer): Promise<string[]> {
  const panics: string[] = [];
  const look = async (): Promise<void> => {
    const state = await peer.back();
    if (state > 6) panics.push(`bad backend state ${state}`);
    if (state !== 4) return;
    for (const key of ["sectors", "info", "sector-size"]) {
      if ((await peer.read(key)) === null) panics.push(`${key} is missing`);
    }
  };
  await peer.guest.xenstore.watch(`${peer.backend}/state`, () => void look());
  return panics;
}

async function connect(peer: Peer): Promise<void> {
  await peer.backIs(4);
  await peer.state(4);
}

for (const early of [false, true]) {
  test(
    `boot, use, flush, detach; the frontend is ${early ? "first" : "second"}`,
    LIMIT,
    onMachine(async (machine) => {
      const peer = early ? await Peer.early(machine, resume) : await Peer.start(machine);
      const panics = await watchBackend(peer);
      if (!early) await resume(peer);
      await connect(peer);
      // More requests than the ring has entries, so that the flush finds one that was used.
      for (let i = 0; i < 20; i++) await peer.useDisk(i);
      for (let i = 0; i < 40; i++) assert.equal(await peer.bareRequest(Op.flushDiskcache), Rsp.okay);
      const removed = peer.remove();
      await peer.backIs(5);
      // It finishes its requests, and closes without a word before.
      await peer.state(6);
      await peer.backIs(6, 0);
      assert.equal(await removed, "closed");
      await peer.dropRing();
      peer.wrote(2, 4, 6);
      assert.deepEqual(panics, []);
      await until("the vbd is gone", () => machine.status() === undefined);
    }),
  );
}

test(
  "shutdown by the guest, and the same domain starts its frontend again",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    const panics = await watchBackend(peer);
    for (let i = 1; i < 4; i++) {
      await resume(peer);
      await connect(peer);
      await peer.useDisk(i);
      await peer.state(5);
      await peer.backIs(5);
      await peer.state(6);
      await peer.backIs(6);
      await peer.dropRing();
    }
    peer.wrote(2, 4, 5, 6, 2, 4, 5, 6, 2, 4, 5, 6);
    assert.deepEqual(panics, []);
    await peer.end();
  }),
);
