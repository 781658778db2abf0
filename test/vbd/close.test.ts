/** The way out, and back in again. */
import assert from "node:assert/strict";
import { dirname } from "node:path";
import { test } from "node:test";
import { removeVbd } from "../../host/toolstack/vbd.js";
import { Peer } from "../frontends/peer.js";
import { testDevices } from "./device.js";
import {
  backendPath,
  DEVID,
  DOMID,
  frontendPath,
  LIMIT,
  type Machine,
  onMachine,
  openFiles,
  until,
} from "./harness.js";

/** A frontend by hand that is connected. */
async function connected(machine: Machine) {
  const guest = await machine.guest();
  await machine.plug({ path: machine.image() });
  const front = machine.front(guest);
  const keys = await front.ring();
  await front.write(keys);
  await front.state(3);
  await machine.untilState(4);
  await front.state(4);
  return { guest, front, keys };
}

function written(machine: Machine): number[] {
  return machine.spy.states.map(({ state }) => state);
}

test(
  "front 5 gets back 5 and keeps its rings; front 6 gets back 6",
  LIMIT,
  onMachine(async (machine) => {
    const { front } = await connected(machine);
    await front.state(5);
    await machine.untilState(5);
    // Linux says Closing while the disk is still mounted, and goes on with its I/O.
    assert.equal(machine.status()?.queues, 1);
    await front.state(6);
    await machine.untilState(6);
    assert.equal(machine.status()?.queues, 0);
    await machine.untilClean();
    assert.deepEqual(written(machine), [2, 4, 5, 6]);
  }),
);

test(
  "I/O goes on while the frontend is at 5",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    await peer.publish(await peer.makeRing());
    await peer.state(3);
    await peer.backIs(4);
    await peer.state(4);
    await peer.state(5);
    await peer.backIs(5);
    // Written and read through the ring, each with its answer, and found in the image.
    await peer.useDisk(7);
    assert.equal(await peer.back(), 5);
  }),
);

test(
  "front 6 without 5, as GRUB closes, gets back 6 and then a new start",
  LIMIT,
  onMachine(async (machine) => {
    const { front } = await connected(machine);
    await front.state(6);
    await machine.untilState(6);
    await machine.untilClean();
    await front.write({ "ring-ref": "", "event-channel": "" });
    await front.state(1);
    await machine.untilState(2);
    await front.write(await front.ring());
    await front.state(3);
    await machine.untilState(4);
    assert.deepEqual(written(machine), [2, 4, 6, 2, 4]);
  }),
);

test(
  "after online=0 a closed vbd stays closed, and ends with its directory",
  LIMIT,
  onMachine(async (machine) => {
    const { front } = await connected(machine);
    await machine.xenstore.write(`${backendPath()}/online`, "0");
    await front.state(5);
    await machine.untilState(5);
    await front.state(6);
    await machine.untilState(6);
    await front.state(1);
    await machine.looked();
    assert.equal(await machine.state(), 6);
    await machine.unplug();
    await until("the vbd is gone", () => machine.status() === undefined);
    await machine.untilClean();
  }),
);

test(
  "the toolstack's 5 while the frontend is connected waits for the frontend",
  LIMIT,
  onMachine(async (machine) => {
    const { front } = await connected(machine);
    const removed = removeVbd(machine.xenstore, spec());
    await machine.untilState(5);
    await machine.looked();
    assert.equal(await machine.state(), 5);
    await front.state(5);
    await machine.looked();
    await front.state(6);
    assert.equal(await removed, "closed");
    assert.equal(await machine.xenstore.read(dirname(backendPath())), null, "nothing of the guest's stays");
    await until("the vbd is gone", () => machine.status() === undefined);
    await machine.untilClean();
    assert.deepEqual(written(machine), [2, 4, 6]);
  }),
);

function spec() {
  return { backendDomid: 0, domid: DOMID, devid: DEVID, path: "", mode: "w", dev: "xvda" };
}

for (const state of [1, 2, 3, 5, 6, null]) {
  test(
    `the toolstack's 5 while the frontend is ${state ?? "gone"} and has no connection is answered at once`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      await machine.plug({ path: machine.image(), noHotplug: true });
      const front = machine.front(guest);
      await machine.untilState(2);
      if (state === null) await machine.xenstore.remove(frontendPath());
      else await front.state(state);
      assert.equal(await removeVbd(machine.xenstore, spec()), "closed");
      await until("the vbd is gone", () => machine.status() === undefined);
    }),
  );
}

test(
  "a toolstack that forces its way: the frontend's directory goes, and the backend closes",
  LIMIT,
  onMachine(async (machine) => {
    await connected(machine);
    assert.equal(await removeVbd(machine.xenstore, spec(), 2000), "forced");
    await until("the vbd is gone", () => machine.status() === undefined);
    await machine.untilClean();
  }),
);

test(
  "the frontend's directory goes from under a connection: back 6",
  LIMIT,
  onMachine(async (machine) => {
    await connected(machine);
    await machine.xenstore.remove(frontendPath());
    await machine.untilState(6);
    await machine.untilClean();
  }),
);

test(
  "a toolstack that wants 5 in the very moment of connecting gets it",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    await machine.plug({ path: machine.image() });
    const front = machine.front(guest);
    await machine.untilState(2);
    machine.spy.hook = async (verb) => {
      if (verb !== "transaction") return;
      machine.spy.hook = null;
      await machine.xenstore.transaction(async (t) => {
        await t.write(`${backendPath()}/online`, "0");
        await t.write(`${backendPath()}/state`, "5");
      });
    };
    await front.write(await front.ring());
    await front.state(3);
    await machine.untilState(6);
    assert.deepEqual(written(machine), [2, 6]);
    await machine.untilClean();
  }),
);

test(
  "a kexec without goodbye: the frontend is at 1 again, and then has another ring",
  LIMIT,
  onMachine(async (machine) => {
    const { front } = await connected(machine);
    await front.state(1);
    await machine.untilState(2);
    await machine.untilClean();
    await front.write(await front.ring());
    await front.state(3);
    await machine.untilState(4);
  }),
);

test(
  "twenty connections with other parameters each leave nothing behind",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const path = machine.image();
    await machine.plug({ path });
    let files = 0;
    for (let round = 0; round < 20; round++) {
      const disk = await machine.connect(guest, {
        abi: round % 2 ? "x86_32" : "x86_64",
        queues: 1 + (round % 4),
        ringPageOrder: round % 5,
        persistent: round % 3 !== 0,
        indirect: round % 7 !== 0,
        inFlightBytes: 1 << 20,
      });
      const bytes = new Uint8Array(40960).fill(round);
      await disk.write(0, bytes);
      await disk.read(0, bytes);
      assert.equal(bytes[40959], round);
      const status = machine.status();
      assert.deepEqual([status?.queues, status?.ringPages], [1 + (round % 4), 2 ** (round % 5)]);
      assert.deepEqual(await disk.close(), { grantsInUse: 0 });
      await machine.untilState(6);
      assert.equal(machine.reactor.mappedPages, 0);
      assert.equal(machine.host.hypervisor.portsInUse(0), 0);
      assert.equal(machine.host.hypervisor.grantsInUse(), 0);
      if (round === 4) files = openFiles();
    }
    assert.equal(openFiles(), files);
    assert.equal(machine.status()?.counters.write, 20);
    // Closed means that others may have the image.
    await machine.plug({ path, devid: DEVID + 16 });
    await (await machine.connect(guest, {}, DEVID + 16)).close();
  }),
);

const held = testDevices();
test(
  "disconnecting waits for what is in flight",
  LIMIT,
  onMachine(
    async (machine) => {
      const guest = await machine.guest();
      const path = machine.image();
      await machine.plug({ path });
      const disk = await machine.connect(guest, { persistent: false });
      const device = held.devices.get(path)!;
      device.holding = true;
      const lost = disk.read(0, new Uint8Array(4096)).catch(() => {});
      await until("the read is in the store", () => device.held === 1);
      await machine.front(guest).state(6);
      await machine.turns();
      assert.equal(await machine.state(), 4, "closed while the store still writes into guest pages");
      assert.equal(machine.status()?.inflight, 1);
      assert.equal(machine.status()?.counters.read, 1);
      device.release();
      await machine.untilState(6);
      await machine.untilClean();
      assert.equal(device.closed, true);
      assert.equal(machine.status()?.counters.responses, 1);
      await lost;
    },
    { open: held.open },
  ),
);

test(
  "a directory that is made anew between two looks begins anew, with its new image",
  LIMIT,
  onMachine(async (machine) => {
    const { front } = await connected(machine);
    // One transaction: the backend never sees that it was gone.
    const other = machine.image("other.img", 2 << 20);
    await machine.plug({ path: other });
    await machine.untilState(2);
    await front.write(await front.ring());
    await front.state(3);
    await machine.untilState(4);
    assert.equal(machine.status()?.device, other);
    assert.equal(machine.status()?.size, 2 << 20);
  }),
);

test(
  "the backend's directory alone is made anew: its new image is the one that is served",
  LIMIT,
  onMachine(async (machine) => {
    await connected(machine);
    const other = machine.image("other.img", 2 << 20);
    await machine.xenstore.transaction(async (t) => {
      await t.write(`${backendPath()}/physical-device-path`, other);
      await t.write(`${backendPath()}/state`, "1");
    });
    await until("it is served", () => machine.status()?.device === other);
    await machine.untilState(4);
    assert.equal(await machine.xenstore.read(`${backendPath()}/sectors`), "4096");
  }),
);

{
  const closing: (() => void)[] = [];
  const options = {
    hold: async () => {},
    release: () => new Promise<void>((resolve) => void closing.push(resolve)),
  };
  const spec = { backendDomid: 0, domid: DOMID, devid: DEVID };

  test(
    "a disk is closed before the toolstack hears that it is removed; not when its guest closes it",
    LIMIT,
    onMachine(async (machine) => {
      const { front } = await connected(machine);
      for (const go of closing.splice(0)) go();
      await front.state(6);
      await machine.untilState(6);
      assert.equal(closing.length, 0);
      let removed = false;
      await front.write(await front.ring());
      await front.state(3);
      await machine.untilState(4);
      const removal = removeVbd(machine.xenstore, spec).then((how) => {
        removed = true;
        return how;
      });
      await machine.untilState(5);
      await front.state(6);
      await until("it is being closed", () => closing.length === 1);
      assert.equal(await machine.state(), 5);
      assert.equal(removed, false);
      for (const go of closing.splice(0)) go();
      assert.equal(await removal, "closed");
    }, options),
  );

  test(
    "a disk that cannot be closed does not keep the toolstack waiting",
    LIMIT,
    onMachine(async (machine) => {
      const { front } = await connected(machine);
      closing.length = 0;
      const removal = removeVbd(machine.xenstore, spec);
      await machine.untilState(5);
      await front.state(6);
      assert.equal(await removal, "closed");
      assert.ok(closing.length > 0);
    }, options),
  );
}
