/** Vbds that are half there, and toolstacks that change their minds. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { random } from "../../host/guest/workload.js";
import { addVbd, removeVbd } from "../../host/toolstack/vbd.js";
import {
  backendPath,
  DEVID,
  DOMID,
  frontendPath,
  LIMIT,
  type Machine,
  onMachine,
  pause,
  until,
} from "./harness.js";

const SPEC = { backendDomid: 0, domid: DOMID, devid: DEVID, mode: "w", dev: "xvda" };

const HALVES: Record<string, (machine: Machine) => Promise<void>> = {
  "the frontend's directory": (machine) => machine.xenstore.remove(frontendPath()),
  "the frontend's state": (machine) => machine.xenstore.remove(`${frontendPath()}/state`),
  "the whole guest's directory": (machine) => machine.xenstore.remove(`/local/domain/${DOMID}`),
};

for (const [name, remove] of Object.entries(HALVES)) {
  test(
    `${name} was never there: state 2, a reason, and removal at once`,
    LIMIT,
    onMachine(async (machine) => {
      await machine.plug({ path: machine.image() });
      await remove(machine);
      await machine.untilState(2);
      await machine.looked();
      assert.equal(await machine.state(), 2);
      assert.equal(machine.status()?.waitsFor, "the frontend (not there)");
      assert.equal(await removeVbd(machine.xenstore, { ...SPEC, path: "" }), "closed");
      await until("the vbd is gone", () => machine.status() === undefined);
    }),
  );

  for (const step of [2, 3, 4, 5, 6]) {
    test(
      `${name} goes while the frontend is at ${step}; then the toolstack removes the rest`,
      LIMIT,
      onMachine(async (machine) => {
        const guest = await machine.guest();
        await machine.plug({ path: machine.image(), noHotplug: step < 4 });
        const front = machine.front(guest);
        await front.write(await front.ring());
        await machine.untilState(2);
        await front.state(Math.min(step, 3));
        if (step > 3) await machine.untilState(4);
        if (step > 4) await front.state(5);
        if (step > 4) await machine.untilState(5);
        if (step > 5) await front.state(6);
        if (step > 5) await machine.untilState(6);
        await remove(machine);
        if (step > 3) await machine.untilState(6);
        await machine.untilClean();
        assert.equal(await removeVbd(machine.xenstore, { ...SPEC, path: "" }), "closed");
        await until("the vbd is gone", () => machine.status() === undefined);
        assert.equal(await machine.xenstore.directory("/local/domain/0/error"), null);
      }),
    );
  }
}

test(
  "the backend's directory was never there: the frontend waits in vain, and nothing is made up for it",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    await machine.plug({ path: machine.image() });
    await machine.untilState(2);
    await machine.xenstore.remove(backendPath());
    await until("the vbd is gone", () => machine.status() === undefined);
    const front = machine.front(guest);
    await front.write(await front.ring());
    for (const state of [3, 4, 5, 6, 1]) await front.state(state);
    await machine.turns();
    assert.equal(await machine.xenstore.read(`${backendPath()}/state`), null);
    assert.equal(machine.backend.status().length, 0);
    await machine.plug({ path: machine.image() });
    await (await machine.connect(guest)).close();
  }),
);

test(
  "a frontend's directory that comes later is taken up",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    await machine.plug({ path: machine.image() });
    await machine.xenstore.remove(frontendPath());
    await machine.untilState(2);
    const front = machine.front(guest);
    await front.write({ ...(await front.ring()), backend: backendPath(), state: "3" });
    await machine.untilState(4);
  }),
);

test(
  "a directory with some of its keys, or only with keys of ours",
  LIMIT,
  onMachine(async (machine) => {
    for (const keys of [{ online: "1" }, { sectors: "1" }, { "hotplug-status": "connected" }, {}]) {
      await machine.xenstore.mkdir(backendPath());
      for (const [key, value] of Object.entries(keys)) {
        await machine.xenstore.write(`${backendPath()}/${key}`, value);
      }
      await machine.turns();
      assert.equal(await machine.xenstore.read(`${backendPath()}/state`), null);
      await machine.xenstore.remove(backendPath());
    }
    await until("nothing is left", () => machine.backend.status().length === 0);
    assert.deepEqual(machine.log, []);
  }),
);

test(
  "a toolstack that attaches and detaches without a pause, with a guest at work in between",
  { timeout: 60_000 },
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const path = machine.image();
    for (let round = 0; round < 30; round++) {
      await addVbd(machine.xenstore, { ...SPEC, path });
      if (round % 3 === 0) {
        const disk = await machine.connect(guest);
        disk.onFailure = () => void disk.close().catch(() => {});
        await disk.write(0, new Uint8Array(4096).fill(round));
      }
      assert.equal(await removeVbd(machine.xenstore, { ...SPEC, path }), "closed", `round ${round}`);
    }
    await until("the vbd is gone", () => machine.status() === undefined);
    await machine.untilClean();
    assert.equal(machine.host.hypervisor.grantsInUse(), 0);
  }),
);

test(
  "a toolstack gone mad: online and our own state, at random; in the end the disk can be had or removed",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const path = machine.image();
    await machine.plug({ path });
    const front = machine.front(guest);
    await front.write(await front.ring());
    const roll = random(11);
    for (let round = 0; round < 400; round++) {
      const write = (key: string, value: number) =>
        machine.xenstore.write(`${backendPath()}/${key}`, `${value}`);
      if (roll() % 3 === 0) await write("online", roll() % 2);
      else if (roll() % 2) await write("state", roll() % 9);
      else await front.state(roll() % 7);
      if (roll() % 8 === 0) await pause(2);
      assert.ok(machine.host.hypervisor.portsInUse(0) <= 1);
    }
    for (const { state } of machine.spy.states) assert.ok([2, 4, 5, 6].includes(state), `${state}`);
    await removeVbd(machine.xenstore, { ...SPEC, path });
    await until("the vbd is gone", () => machine.status() === undefined);
    await machine.untilClean();
    await machine.plug({ path });
    await (await machine.connect(guest)).close();
  }),
);
