/** From state 1 to 4: what is written, in which order, and what is waited for. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { testDevices } from "./device.js";
import { DEVID, LIMIT, type Machine, onMachine, until } from "./harness.js";

const OFFER = {
  "max-ring-page-order": "4",
  "max-ring-pages": "16",
  "multi-queue-max-queues": "4",
  "feature-max-indirect-segments": "256",
};
const DISCARD = { "discard-granularity": "512", "discard-alignment": "0", "discard-secure": "0" };
const DEVICE = {
  sectors: "2048",
  info: "0",
  "sector-size": "512",
  "physical-sector-size": "4096",
  "feature-flush-cache": "1",
  "feature-barrier": "1",
  "feature-persistent": "1",
  "feature-discard": "1",
  ...DISCARD,
};
const NO_DISCARD = Object.fromEntries(Object.keys(DISCARD).map((key) => [key, undefined]));

const CASES: {
  name: string;
  mode?: string;
  keys?: Record<string, string>;
  sectorSize?: number;
  expected: Record<string, string | undefined>;
}[] = [
  { name: "read-write", expected: {} },
  { name: "read-only", mode: "r", expected: { info: "4", "feature-discard": "0", ...NO_DISCARD } },
  {
    name: "CD-ROM",
    mode: "r",
    keys: { "device-type": "cdrom", removable: "1" },
    expected: { info: "7", "feature-discard": "0", ...NO_DISCARD },
  },
  {
    name: "discard-enable=0",
    keys: { "discard-enable": "0" },
    expected: { "feature-discard": "0", ...NO_DISCARD },
  },
  { name: "discard-enable=1", keys: { "discard-enable": "1" }, expected: {} },
  { name: "4096-byte sectors", sectorSize: 4096, expected: { "sector-size": "4096" } },
];

for (const { name, mode = "w", keys = {}, sectorSize, expected } of CASES) {
  const { open } = testDevices((device) => {
    if (sectorSize) device.sectorSize = sectorSize;
  });
  const body = async (machine: Machine): Promise<void> => {
    const guest = await machine.guest();
    await machine.plug({ path: machine.image(), mode, keys });
    const disk = await machine.connect(guest);
    const { states } = machine.spy;
    assert.deepEqual(
      states.map(({ state }) => state),
      [2, 4],
    );
    assert.deepEqual(states[0].keys, { ...OFFER, state: "2" });
    const wanted: Record<string, string | undefined> = { ...OFFER, ...DEVICE, ...expected, state: "4" };
    for (const [key, value] of Object.entries(wanted)) if (value === undefined) delete wanted[key];
    // How the file system punches holes is its own matter.
    const written = { ...states[1].keys };
    for (const key of ["discard-granularity", "physical-sector-size"]) {
      assert.equal(key in written, key in wanted, key);
      delete written[key];
      delete wanted[key];
    }
    assert.deepEqual(written, wanted);
    const bytes = new Uint8Array(4096).fill(1);
    await disk.read(8192, bytes);
    assert.deepEqual(bytes, new Uint8Array(4096));
    await disk.close();
    assert.deepEqual(
      states.map(({ state }) => state),
      [2, 4, 5, 6],
    );
  };
  test(`the keys of a disk: ${name}`, LIMIT, onMachine(body, { open }));
}

test(
  "what is not offered is not there",
  LIMIT,
  onMachine(
    async (machine) => {
      const guest = await machine.guest();
      await machine.plug({ path: machine.image() });
      const disk = await machine.connect(guest, { queues: 4, ringPageOrder: 4 });
      const [offer, device] = machine.spy.states;
      assert.deepEqual(offer.keys, {
        "max-ring-page-order": "0",
        "max-ring-pages": "1",
        "multi-queue-max-queues": "1",
        state: "2",
      });
      assert.equal(device.keys["feature-persistent"], "0");
      assert.deepEqual(
        [disk.negotiated.queues, disk.negotiated.ringEntries, disk.negotiated.persistent],
        [1, 32, false],
      );
    },
    { features: { maxQueues: 1, maxRingPageOrder: 0, maxIndirectSegments: 0, persistent: false } },
  ),
);

for (const early of [1, 3, 4]) {
  test(
    `state 2 is held until the hotplug script has spoken; the frontend is at ${early}`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      const path = machine.image();
      await machine.plug({ path, noHotplug: true });
      const front = machine.front(guest);
      await front.write(await front.ring());
      await front.state(early);
      await machine.untilState(2);
      await machine.looked();
      assert.equal(await machine.state(), 2);
      assert.match(machine.status()?.waitsFor ?? "", /^the hotplug script/);
      await machine.hotplug(path);
      if (early === 1) {
        await machine.looked();
        assert.equal(await machine.state(), 2);
        await front.state(3);
      }
      await machine.untilState(4);
      assert.equal(machine.status()?.queues, 1);
    }),
  );

  test(
    `a frontend that is at ${early} before the backend begins`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      // The frontend's directory is there first: with both at once, the backend would be at 2 too soon.
      const front = machine.front(guest);
      const keys = await front.ring();
      const path = machine.image();
      machine.spy.hook = async (verb, name) => {
        if (verb !== "watch" || !name.endsWith(`${DEVID}/state`)) return;
        machine.spy.hook = null;
        await front.write(keys);
        await front.state(early);
      };
      await machine.plug({ path });
      if (early === 1) {
        await machine.untilState(2);
        await front.state(3);
      }
      await machine.untilState(4);
      assert.deepEqual(
        machine.spy.states.map(({ state }) => state),
        [2, 4],
      );
    }),
  );
}

test(
  "the keys' order: all of a disk's are there when state 4 is",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const backend = await machine.plug({ path: machine.image() });
    const seen: (string | null)[] = [];
    const look = async (): Promise<void> => {
      if ((await guest.xenstore.read(`${backend}/state`)) !== "4") return;
      for (const key of ["sectors", "info", "sector-size", "feature-discard"]) {
        seen.push(await guest.xenstore.read(`${backend}/${key}`));
      }
    };
    await guest.xenstore.watch(`${backend}/state`, () => void look());
    await machine.connect(guest);
    await until("the guest has looked", () => seen.length >= 4);
    assert.deepEqual(seen.slice(0, 4), ["2048", "0", "512", "1"]);
  }),
);

test(
  "the operator hears xbdback(4)'s words",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const path = machine.image();
    await machine.plug({ path });
    const disk = await machine.connect(guest, { queues: 2, abi: "x86_32" });
    await disk.close();
    await machine.unplug();
    await until("the vbd is gone", () => machine.backend.status().length === 0);
    const [attach, first, second, detach] = machine.log;
    assert.equal(attach, `xbd backend: attach device ${path} (size 1048576) for domain 1`);
    const using = /^xbd backend 0xca00 for domain 1 using event channel [0-9]+, protocol x86_32-abi$/;
    assert.match(first, using);
    assert.match(second, using);
    assert.equal(detach, `xbd backend: detach device ${path} for domain 1`);
    assert.equal(machine.log.length, 4);
  }),
);
