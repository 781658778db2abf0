/** What the toolstack's part does to disks that are not xbdback's, or that a guest still uses. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { addVbd, removeVbd, type VbdSpec } from "../../host/toolstack/vbd.js";
import { Peer } from "../frontends/peer.js";
import { LIMIT, type Machine, onMachine } from "../vbd/harness.js";

const DEVID = 51712;
const FRONTEND = `/local/domain/1/device/vbd/${DEVID}`;
const BACKEND = `/local/domain/0/backend/vbd/1/${DEVID}`;
const QDISK = `/local/domain/0/backend/qdisk/1/${DEVID}`;
const RECORD = `/libxl/1/device/vbd/${DEVID}`;
const SPEC: VbdSpec = { backendDomid: 0, domid: 1, devid: DEVID, path: "", mode: "w", dev: "xvda" };

/** All below a directory, as "path=value". */
async function dump(machine: Machine, path: string): Promise<string[]> {
  const names = (await machine.xenstore.directory(path)) ?? [];
  const below = await Promise.all(names.map((name) => dump(machine, `${path}/${name}`)));
  return [`${path}=${await machine.xenstore.read(path)}`, ...below.flat()];
}

/** A disk of another backend, as a toolstack leaves it; `record` is libxl's. */
async function foreign(machine: Machine, backend: string, record: boolean): Promise<void> {
  const { xenstore } = machine;
  const keys: [string, string][] = [
    [`${backend}/state`, "4"],
    [`${FRONTEND}/backend`, backend],
    [`${FRONTEND}/state`, "4"],
    [`${FRONTEND}/ring-ref`, "8"],
    ...(record ? ([[`${RECORD}/backend`, backend]] as [string, string][]) : []),
  ];
  for (const [path, value] of keys) await xenstore.write(path, value);
}

for (const record of [true, false]) {
  for (const [backend, whose] of [
    [QDISK, /served by qdisk of domain 0: detach it first with `xl block-detach 1 51712`/],
    [`/local/domain/3/backend/vbd/1/${DEVID}`, /served by vbd of domain 3: detach it first/],
  ] as const) {
    const title = `${backend}, ${record ? "with" : "without"} libxl's record`;
    test(
      `a disk of another backend survives attach and detach: ${title}`,
      LIMIT,
      onMachine(async (machine) => {
        await machine.guest();
        await foreign(machine, backend, record);
        const before = [...(await dump(machine, FRONTEND)), ...(await dump(machine, backend))];
        for (const path of [machine.image(), "/nonexistent.img"]) {
          await assert.rejects(addVbd(machine.xenstore, { ...SPEC, path, ask: true }), whose);
        }
        // Even where a directory of ours is there, as older releases have left it.
        await machine.xenstore.write(`${BACKEND}/state`, "6");
        await assert.rejects(addVbd(machine.xenstore, { ...SPEC, path: "/x" }), /has a disk xvda already/);
        assert.equal(await removeVbd(machine.xenstore, SPEC, 100), "closed");
        assert.equal(await machine.xenstore.directory(BACKEND), null);
        assert.deepEqual([...(await dump(machine, FRONTEND)), ...(await dump(machine, backend))], before);
        assert.equal((await machine.xenstore.read(`${RECORD}/backend`)) !== null, record);
        // The directory is the guest's, who may remove it; the record is not.
        if (!record) return;
        await machine.xenstore.remove(FRONTEND);
        await assert.rejects(addVbd(machine.xenstore, { ...SPEC, path: machine.image() }), whose);
      }),
    );
  }
}

test(
  "libxl's record says what libxl would have said, and goes with the disk",
  LIMIT,
  onMachine(async (machine) => {
    await machine.guest();
    const spec = { ...SPEC, path: machine.image() };
    await addVbd(machine.xenstore, spec);
    for (const [key, value] of Object.entries({
      frontend: FRONTEND,
      backend: BACKEND,
      params: spec.path,
      type: "phy",
      mode: "w",
      dev: "xvda",
      "device-type": "disk",
    })) {
      assert.equal(await machine.xenstore.read(`${RECORD}/${key}`), value, key);
    }
    assert.equal(await removeVbd(machine.xenstore, spec), "closed");
    assert.equal(await machine.xenstore.directory(RECORD), null);
    assert.equal(await machine.xenstore.directory(FRONTEND), null);
    // A record that a destroyed domain of this number has left is nobody's.
    await machine.xenstore.write(`${RECORD}/backend`, BACKEND);
    await machine.xenstore.write(`${RECORD}/toolstack`, "xbdback");
    await addVbd(machine.xenstore, spec);
    assert.equal(await removeVbd(machine.xenstore, spec), "closed");
  }),
);

test(
  "what a guest writes into its own directory decides neither who has its disk nor whose directory is removed",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const spec = { ...SPEC, path: machine.image() };
    await addVbd(machine.xenstore, spec);
    await guest.xenstore.write(`${FRONTEND}/backend`, QDISK);
    await assert.rejects(addVbd(machine.xenstore, spec), /already: detach it first with `xbdback detach/);
    assert.equal(await removeVbd(machine.xenstore, spec), "closed");
    assert.equal(await machine.xenstore.directory(FRONTEND), null);
    await addVbd(machine.xenstore, spec);
    await removeVbd(machine.xenstore, spec);
  }),
);

test(
  "without force a guest that does not close its disk keeps it",
  LIMIT,
  onMachine(async (machine) => {
    const peer = await Peer.start(machine);
    await peer.publish({ ...(await peer.makeRing()), state: "4" });
    await peer.backIs(4);
    assert.equal(await removeVbd(machine.xenstore, peer.spec, 50, false), "kept");
    await peer.backIs(5);
    await peer.state(5);
    await peer.useDisk(1);
    assert.equal(await removeVbd(machine.xenstore, peer.spec, 50, false), "kept");
    const removed = removeVbd(machine.xenstore, peer.spec, 10_000, false);
    await peer.state(6);
    assert.equal(await removed, "closed");
    await peer.dropRing();
  }),
);
