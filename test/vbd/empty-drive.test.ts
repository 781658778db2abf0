/** CD-ROM drives without a medium, as libxl has them: no params, or an empty placeholder that nobody may write. */
import assert from "node:assert/strict";
import { chmodSync } from "node:fs";
import { test } from "node:test";
import { openDisk } from "../../host/storage/disk.js";
import {
  backendPath,
  type Guest,
  LIMIT,
  type Machine,
  type MachineOptions,
  onMachine,
  type Plug,
  until,
} from "./harness.js";

const CDROM = { "device-type": "cdrom", removable: "1" };

/** A guest gets a drive of no sectors, and errors when it reads. */
async function servesNothing(machine: Machine, guest: Guest, plug: Plug): Promise<void> {
  await machine.plug(plug);
  const disk = await machine.connect(guest);
  const read = (key: string) => machine.xenstore.read(`${backendPath()}/${key}`);
  assert.equal(await read("sectors"), "0");
  // CDROM, REMOVABLE and READONLY.
  assert.equal(await read("info"), "7");
  await assert.rejects(disk.read(0, new Uint8Array(512)));
  await assert.rejects(disk.write(0, new Uint8Array(512)));
  assert.equal(machine.status()?.size, 0);
  await disk.close();
  await machine.untilState(6);
  await machine.unplug();
  await until("the vbd is gone", () => machine.status() === undefined);
}

for (const [where, threads] of [
  ["here", undefined],
  ["in a thread", { reactors: 1 }],
] as const) {
  const options: MachineOptions = { open: openDisk, ...(threads && { threads }) };
  test(
    `an empty placeholder is a drive without a medium, served ${where}`,
    LIMIT,
    onMachine(async (machine) => {
      const path = machine.image("empty", 0);
      chmodSync(path, 0o400);
      await servesNothing(machine, await machine.guest(), { path, mode: "w", keys: CDROM });
    }, options),
  );
  test(
    `a CD-ROM without params is a drive without a medium, served ${where}`,
    LIMIT,
    onMachine(async (machine) => {
      const keys = { ...CDROM, params: "", "physical-device-path": null };
      const guest = await machine.guest();
      await servesNothing(machine, guest, { mode: "r", keys });
      await servesNothing(machine, guest, { mode: "r", keys: { ...keys, params: null } });
    }, options),
  );
}

test(
  "an empty image is not a disk",
  LIMIT,
  onMachine(
    async (machine) => {
      const guest = await machine.guest();
      await machine.plug({ path: machine.image("empty", 0), mode: "r" });
      const front = machine.front(guest);
      await front.write(await front.ring());
      await front.state(3);
      await until("it is refused", async () => (await machine.error()) !== null);
      assert.match(String(await machine.error()), /empty: empty, less than a sector/);
    },
    { open: openDisk },
  ),
);
