/** Guests that die, and others that get their number. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { XenstoreError } from "../../host/platform/ports.js";
import { removeVbd } from "../../host/toolstack/vbd.js";
import { testDevices } from "./device.js";
import { backendPath, DEVID, DOMID, frontendPath, LIMIT, type Machine, onMachine, until } from "./harness.js";

const SPEC = { backendDomid: 0, domid: DOMID, devid: DEVID, path: "", mode: "w", dev: "xvda" };
const OTHER = DEVID + 16;

async function guestWithDisks(machine: Machine) {
  const guest = await machine.guest();
  await machine.plug({ path: machine.image() });
  await machine.plug({ path: machine.image("other.img"), devid: OTHER });
  const disks = [await machine.connect(guest)];
  disks.push(await machine.connect(guest, {}, OTHER));
  return { guest, disks };
}

test(
  "a dead guest's disks are released at once, without the toolstack; another guest's are not",
  LIMIT,
  onMachine(async (machine) => {
    await guestWithDisks(machine);
    const other = await machine.guest(2);
    await machine.plug({ path: machine.image("third.img"), domid: 2 });
    const disk = await machine.connect(other);
    await machine.host.killGuest(DOMID);
    await machine.untilState(6);
    await machine.untilState(6, OTHER);
    assert.equal(machine.status()?.queues, 0);
    assert.equal(machine.status()?.waitsFor, "the toolstack to remove the disk: the guest is gone");
    // All that is left of it in xenstore says that it is alive.
    assert.equal(await machine.xenstore.read(`${frontendPath()}/state`), "4");
    assert.ok(machine.log.includes("xbdback: domain 1 is gone; its disks are released"));
    await disk.write(0, new Uint8Array(512));
    assert.equal(machine.host.hypervisor.portsInUse(0), 1);
    // The toolstack finds its work done.
    assert.equal(await removeVbd(machine.xenstore, SPEC), "closed");
    await until("the vbd is gone", () => machine.status() === undefined);
  }),
);

test(
  "a frontend's directory that a driver domain may no longer read, since the toolstack has removed it, is gone",
  LIMIT,
  onMachine(async (machine) => {
    await guestWithDisks(machine);
    let removed = false;
    machine.spy.hook = (verb, path) => {
      if (removed && verb === "read" && path.startsWith(frontendPath()))
        throw new XenstoreError("EACCES", `read ${path}`);
    };
    await machine.xenstore.transaction(async (t) => {
      await t.write(`${backendPath()}/online`, "0");
      await t.write(`${backendPath()}/state`, "5");
    });
    await until("the daemon waits for the frontend", () => machine.status()?.state === 5);
    assert.equal(machine.status()?.queues, 1);
    removed = true;
    await machine.xenstore.remove(frontendPath());
    await machine.untilState(6);
    assert.equal(machine.status()?.queues, 0);
    assert.deepEqual(
      machine.log.filter((line) => line.includes("EACCES")),
      [],
    );
  }),
);

test(
  "xenstored tells of a death as Xen's does: when the guest is gone, and its nodes are still there",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const seen: unknown[] = [];
    const look = async (): Promise<void> => {
      const introduced = await machine.xenstore.isDomainIntroduced(DOMID);
      seen.push([introduced, await machine.xenstore.read("/local/domain/1/domid")]);
    };
    await machine.xenstore.watch("@releaseDomain", () => void look());
    await until("the first event has come", () => seen.length === 1);
    assert.deepEqual(seen.splice(0), [[true, "1"]]);
    // A guest may not ask.
    assert.equal(await guest.xenstore.isDomainIntroduced(DOMID), null);
    await machine.host.killGuest(DOMID);
    await until("its death is told", () => seen.length === 1);
    assert.deepEqual(seen, [[false, "1"]]);
  }),
);

for (const [name, write] of Object.entries({
  "the frontend's state": (machine: Machine) => machine.xenstore.write(`${frontendPath()}/state`, "3"),
  "the frontend's state, back at 1": (machine: Machine) =>
    machine.xenstore.write(`${frontendPath()}/state`, "1"),
  "our state": (machine: Machine) => machine.xenstore.write(`${backendPath()}/state`, "2"),
  "hotplug-status": (machine: Machine) =>
    machine.xenstore.write(`${backendPath()}/hotplug-status`, "connected"),
})) {
  test(
    `nothing brings a dead guest's disk back: ${name}`,
    LIMIT,
    onMachine(async (machine) => {
      await guestWithDisks(machine);
      await machine.host.killGuest(DOMID);
      await machine.untilState(6);
      await machine.untilClean();
      const before = machine.spy.states.length;
      await write(machine);
      await machine.looked();
      await machine.untilState(6);
      assert.ok(machine.spy.states.slice(before).every(({ state }) => state === 6));
      assert.equal(machine.reactor.mappedPages, 0);
    }),
  );
}

test(
  "a domid that is used again gets no disk of the old domain's, whatever it writes, and its own if it is given one",
  LIMIT,
  onMachine(async (machine) => {
    const { disks } = await guestWithDisks(machine);
    await disks[0].write(0, new Uint8Array(512).fill(1));
    await machine.host.killGuest(DOMID);
    await machine.untilState(6);
    // The toolstack has forgotten to tidy up; the new guest finds the directories of the old one.
    await machine.xenstore.remove("/local/domain/1");
    const heir = await machine.guest();
    await until("it is known", async () => (await machine.xenstore.read("/local/domain/1/domid")) === "1");
    const front = machine.front(heir);
    await front.write({ ...(await front.ring()), backend: backendPath(), "backend-id": "0" });
    for (const state of [1, 3, 4, 1, 3]) {
      await front.state(state);
      await machine.looked();
      assert.equal(await machine.state(), 6);
    }
    assert.equal(machine.reactor.mappedPages, 0);
    // Given the disk by the toolstack, it begins anew.
    await machine.plug({ path: machine.image("new.img", 1 << 21) });
    const disk = await machine.connect(heir);
    assert.equal(disk.size, 1 << 21);
    assert.equal(machine.status()?.counters.write, 0, "counters of the old guest");
  }),
);

test(
  "destroyed and created again in one breath",
  LIMIT,
  onMachine(async (machine) => {
    for (let round = 0; round < 5; round++) {
      const guest = await machine.guest();
      const path = machine.image();
      await machine.plug({ path });
      const disk = await machine.connect(guest);
      await disk.write(0, new Uint8Array(512).fill(round));
      await machine.host.destroyGuest(DOMID);
    }
    await machine.untilState(6);
    await machine.untilClean();
  }),
);

test(
  "a vbd that is there before its guest is known waits for it",
  LIMIT,
  onMachine(async (machine) => {
    await machine.plug({ path: machine.image() });
    await machine.untilState(2);
    // Another domain dies meanwhile.
    await machine.guest(9);
    await machine.host.destroyGuest(9);
    await machine.looked();
    assert.equal(await machine.state(), 2);
    await machine.xenstore.remove(frontendPath());
    const guest = await machine.guest();
    await machine.plug({ path: machine.image() });
    await machine.connect(guest);
  }),
);

{
  const { devices, open } = testDevices();
  test(
    "a dead guest's requests that are under way end first; then the image is free",
    LIMIT,
    onMachine(
      async (machine) => {
        const guest = await machine.guest();
        const path = machine.image();
        await machine.plug({ path });
        const disk = await machine.connect(guest);
        const device = devices.get(path)!;
        device.holding = true;
        void disk.write(0, new Uint8Array(4096)).catch(() => {});
        await until("it is in the store", () => device.held > 0);
        await machine.host.killGuest(DOMID);
        await machine.turns();
        assert.equal(device.closed, false);
        device.release();
        await machine.untilState(6);
        assert.equal(device.closed, true);
        await machine.untilClean();
      },
      { open },
    ),
  );
}

test(
  "xenstored that may not be asked, as in a driver domain: the guest's directory has to go",
  LIMIT,
  onMachine(async (machine) => {
    machine.spy.introduced = null;
    const guest = await machine.guest();
    await machine.plug({ path: machine.image() });
    await machine.connect(guest);
    await machine.host.killGuest(DOMID);
    await machine.looked();
    assert.equal(await machine.state(), 4);
    await machine.xenstore.remove("/local/domain/1");
    await machine.untilState(6);
    await machine.untilClean();
  }),
);
