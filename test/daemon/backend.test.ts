/** Which vbds the backend knows of. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Backend } from "../../host/daemon/backend.js";
import { addVbd, removeVbd, type VbdSpec } from "../../host/toolstack/vbd.js";
import { DEFAULT_FEATURES } from "../../host/vbd/backend-keys.js";
import { DEVID, LIMIT, onMachine, until } from "../vbd/harness.js";

const ROOT = "/local/domain/0/backend/vbd";

test(
  "a domain's whole directory, and that of all, may go at once",
  LIMIT,
  onMachine(async (machine) => {
    const path = machine.image();
    for (const domid of [1, 2]) {
      const guest = await machine.guest(domid);
      for (const devid of [DEVID, DEVID + 16]) {
        await machine.plug({ path, mode: "r", devid, domid });
        await machine.connect(guest, {}, devid);
      }
    }
    assert.equal(machine.backend.status().length, 4);
    await machine.xenstore.remove(`${ROOT}/1`);
    await until("two are left", () => machine.backend.status().length === 2);
    await machine.xenstore.remove("/local/domain/0/backend");
    await until("none is left", () => machine.backend.status().length === 0);
    await machine.untilClean();
    await machine.plug({ path, devid: 768 });
    await machine.untilState(2, 768);
  }),
);

test(
  "one event that stands for many leads to all of them",
  LIMIT,
  onMachine(async (machine) => {
    const path = machine.image();
    await machine.guest();
    await machine.backend.stop();
    await machine.plug({ path });
    await machine.plug({ path, devid: 768 });
    // A watch that tells nothing but what the client's queue does when it is full: its own path.
    const deaf = { ...machine.spy.xenstore };
    let changed: (path: string) => void = () => {};
    deaf.watch = async (name, callback) => {
      if (name !== ROOT) return machine.spy.xenstore.watch(name, callback);
      changed = callback;
      return { remove: async () => {} };
    };
    const backend = new Backend({
      xenstore: deaf,
      reactor: machine.reactor,
      features: DEFAULT_FEATURES,
      domid: 0,
      kind: "vbd",
      log: () => {},
    });
    await backend.start();
    changed(ROOT);
    await until("both are known", () => backend.status().length === 2);
    await machine.unplug();
    changed(ROOT);
    await until("one is left", () => backend.status().length === 1);
    await backend.stop();
  }),
);

test(
  "names that are no vbd are let be",
  LIMIT,
  onMachine(async (machine) => {
    await machine.guest();
    for (const name of ["x", "1/x", "01/51712", "1/-5", "1/51712x", "1/99999999999", "-1/1", "1//2"]) {
      await machine.xenstore.write(`${ROOT}/${name}/state`, "1").catch(() => {});
    }
    await machine.xenstore.write(`${ROOT}/1/51712/deep/down`, "1");
    await until("all were found to be nothing", () => machine.backend.status().length === 0);
    await machine.plug({ path: machine.image() });
    await machine.untilState(2);
    assert.deepEqual(machine.log, []);
  }),
);

test(
  "a hundred vbds come and go at once",
  LIMIT,
  onMachine(async (machine) => {
    await machine.guest();
    await machine.xenstore.transaction(async (t) => {
      for (let devid = 0; devid < 100; devid++) {
        const directory = `${ROOT}/1/${devid}`;
        await t.write(`${directory}/frontend`, `/local/domain/1/device/vbd/${devid}`);
        await t.write(`${directory}/frontend-id`, "1");
        await t.write(`${directory}/online`, "1");
        await t.write(`${directory}/state`, "1");
      }
    });
    await until(
      "all are offered",
      () => machine.backend.status().filter(({ state }) => state === 2).length === 100,
    );
    await machine.xenstore.remove(`${ROOT}/1`);
    await until("all are gone", () => machine.backend.status().length === 0);
  }),
);

const SPEC: VbdSpec = { backendDomid: 0, domid: 1, devid: DEVID, path: "", mode: "w", dev: "xvda" };

test(
  "the toolstack: adds, refuses to add twice, removes",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const spec = { ...SPEC, path: machine.image() };
    await addVbd(machine.xenstore, spec);
    await assert.rejects(addVbd(machine.xenstore, spec), /has a disk xvda already/);
    const disk = await machine.connect(guest);
    disk.onFailure = () => void disk.close();
    await disk.flush();
    assert.equal(await removeVbd(machine.xenstore, spec), "closed");
    assert.equal(await machine.xenstore.read(`${ROOT}/1/51712/state`), null);
    await addVbd(machine.xenstore, spec);
    assert.equal(await removeVbd(machine.xenstore, spec), "closed");
    // What is not there is removed, too.
    assert.equal(await removeVbd(machine.xenstore, spec), "closed");
  }),
);

test(
  "the toolstack without a backend: a time-out that says so, and nothing left behind",
  LIMIT,
  onMachine(async (machine) => {
    await machine.guest();
    await machine.backend.stop();
    const spec = { ...SPEC, path: machine.image() };
    await assert.rejects(
      addVbd(machine.xenstore, spec, 100),
      /^Error: no backend took up .*\/1\/51712 within 0\.1 s: is xbdback running\?$/,
    );
    assert.equal(await machine.xenstore.read(`${ROOT}/1/51712/state`), null);
    await machine.plug(spec);
    assert.equal(await removeVbd(machine.xenstore, spec, 100), "unanswered");
    assert.equal(await machine.xenstore.read(`${ROOT}/1/51712/state`), null);
  }),
);
