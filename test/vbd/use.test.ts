/** Who may use an image, and how. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { Op } from "../../host/guest/layout.js";
import { openDevice } from "../../host/storage/open.js";
import { DEVID, type Guest, IMAGE_BYTES, LIMIT, type Machine, onMachine, until } from "./harness.js";

const OTHER = DEVID + 16;

test(
  "an image has one user: the second vbd is told of it, the first is not disturbed",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const path = machine.image();
    await machine.plug({ path });
    await machine.plug({ path, devid: OTHER });
    const first = await machine.connect(guest);
    await assert.rejects(machine.connect(guest, {}, OTHER), /is at Clos/);
    assert.ok(
      machine.log.includes("xbdback backend/vbd/1/51728: can't VOP_OPEN device 0xca10: 16"),
      machine.log.join("\n"),
    );
    assert.match((await machine.error(OTHER)) ?? "", /^16 .*disk\.img: in use by this process/);
    await machine.untilState(6, OTHER);
    await first.write(0, new Uint8Array(512).fill(1));
    assert.equal(machine.status()?.state, 4);
    // When the first has closed, the second gets it.
    await first.close();
    await machine.untilState(6);
    const second = await machine.connect(guest, {}, OTHER);
    assert.equal(await machine.error(OTHER), null);
    await second.close();
  }),
);

for (const [mode, other] of [
  ["w!", "w!"],
  ["w", "w!"],
  ["r", "r"],
  ["r", "ro"],
]) {
  test(
    `modes ${mode} and ${other} share an image`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      const path = machine.image();
      await machine.plug({ path, mode });
      await machine.plug({ path, mode: other, devid: OTHER });
      const first = await machine.connect(guest);
      const second = await machine.connect(guest, {}, OTHER);
      await first.read(0, new Uint8Array(512));
      await second.read(0, new Uint8Array(512));
    }),
  );
}

test(
  "an image that is not there, and one that cannot be",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const path = `${machine.host.directory}/none.img`;
    await machine.plug({ path });
    await assert.rejects(machine.connect(guest), /is at Clos/);
    assert.match((await machine.error()) ?? "", /^2 .*none\.img: no such file/);
    await machine.untilState(6);
    writeFileSync(path, new Uint8Array(100));
    await assert.rejects(machine.connect(guest), /is at Clos/);
    assert.match((await machine.error()) ?? "", /^22 .*only 100 bytes long/);
    await machine.untilState(6);
    await until("each was said", () => machine.log.filter((line) => line.includes("VOP_OPEN")).length === 2);
  }),
);

/** A page to write from, granted for one raw request. */
async function submit(guest: Guest, machine: Machine, operation: number): Promise<number> {
  const disk = await machine.connect(guest);
  const frame = guest.pages.allocate(1);
  guest.pages.memory.u8.fill(0xff, frame * 4096, (frame + 1) * 4096);
  const ref = guest.pages.grant(0, frame, false);
  try {
    if (operation === Op.discard) {
      return await disk.submit({ operation, discard: { sectors: 8n, flag: 0 } });
    }
    return await disk.submit({ operation, segments: [{ ref, first: 0, last: 7 }] });
  } finally {
    await disk.close();
    guest.pages.endAccess(ref);
    guest.pages.free(frame, 1);
  }
}

for (const mode of ["r", "ro", "", "x", "read-write", "W", "w ", "window", "r!", null]) {
  test(
    `mode ${JSON.stringify(mode)} is read-only`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      const path = machine.image();
      writeFileSync(path, new Uint8Array(IMAGE_BYTES).fill(0x55));
      const before = readFileSync(path);
      await machine.plug({ path, keys: { mode } });
      for (const operation of [Op.write, Op.writeBarrier, Op.discard]) {
        assert.notEqual(await submit(guest, machine, operation), 0);
      }
      assert.equal(await submit(guest, machine, Op.read), 0);
      assert.deepEqual(readFileSync(path), before);
    }),
  );
}

for (const mode of ["w", "rw", "w!", "rw!"]) {
  test(
    `mode ${JSON.stringify(mode)} writes`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      const path = machine.image();
      await machine.plug({ path, mode });
      assert.equal(await submit(guest, machine, Op.write), 0);
      assert.equal(readFileSync(path)[4095], 0xff);
    }),
  );
}

const opened: { path: string; readOnly: boolean }[] = [];
test(
  "a directory that is made anew in the midst of a look does not lend its mode to the old image",
  LIMIT,
  onMachine(
    async (machine) => {
      const guest = await machine.guest();
      const old = machine.image();
      const other = machine.image("other.img");
      await machine.plug({ path: old, mode: "r" });
      await machine.untilState(2);
      const front = machine.front(guest);
      const ring = await front.ring();
      await front.write(ring);
      let looks = 0;
      machine.spy.hook = async (verb, name) => {
        if (verb !== "read" || !name.endsWith("/mode") || ++looks > 20) return;
        await machine.unplug();
        await machine.plug({ path: looks % 2 ? other : old, mode: looks % 2 ? "w" : "r" });
        await front.write(ring);
        await front.state(3);
      };
      await front.state(3);
      await machine.untilState(4);
      assert.ok(looks > 20);
      for (const { path, readOnly } of opened) assert.equal(readOnly, path === old);
    },
    {
      open: (path, options) => {
        opened.push({ path, readOnly: options.readOnly });
        return openDevice(path, options);
      },
    },
  ),
);
