/** Advisories about what xenstore says: whether a disk is read-only, and whose it is. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { Op } from "../../host/guest/layout.js";
import { openDevice } from "../../host/storage/open.js";
import { parseMode } from "../../host/vbd/backend-keys.js";
import { backendPath, LIMIT, onMachine, until } from "../vbd/harness.js";
import { connected } from "./connected.js";

// ---- Read-only ----

test("XSA-142: of all modes only w, rw, w! and rw! write; what is empty or unknown reads", () => {
  const words = ["", "r", "w", "o", "!", " ", "x", "\n", "W", "ro", "rw", "wr", "d", "1", "\0"];
  for (const a of words) {
    for (const b of words) {
      for (const c of words) {
        const mode = a + b + c;
        assert.equal(
          parseMode(mode).readOnly,
          !["w", "rw", "w!", "rw!"].includes(mode),
          JSON.stringify(mode),
        );
      }
    }
  }
});

for (const keys of [
  {},
  { "device-type": "disk", removable: "1" },
  { "device-type": "cdrom", "discard-enable": "1" },
  { mode: null },
]) {
  test(
    `XSA-266: a read-only disk is read-only as what it may be attached: ${JSON.stringify(keys)}`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      const path = machine.image();
      const before = Buffer.alloc(1 << 20, 0x5a);
      writeFileSync(path, before);
      await machine.plug({ path, mode: "r", keys });
      const disk = await machine.connect(guest);
      const ref = guest.pages.grant(0, guest.pages.allocate(1), false);
      const segments = [{ ref, first: 0, last: 7 }];
      assert.equal(await disk.submit({ operation: Op.write, segments }), -1);
      assert.equal(await disk.submit({ operation: Op.write, segments, indirect: true }), -1);
      assert.equal(await disk.submit({ operation: Op.writeBarrier, segments }), -1);
      assert.equal(await disk.submit({ operation: Op.flushDiskcache, segments }), -1);
      assert.equal(await disk.submit({ operation: Op.read, segments }), 0);
      assert.equal(Number(await machine.xenstore.read(`${backendPath()}/info`)) & 4, 4);
      assert.deepEqual(readFileSync(path), before);
    }),
  );
}

test(
  "CVE-2013-2140: a discard on a disk of mode r is refused, and the image stays as it is",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const path = machine.image();
    const before = Buffer.alloc(1 << 20, 0x5a);
    writeFileSync(path, before);
    await machine.plug({ path, mode: "r", keys: { "discard-enable": "1" } });
    const disk = await machine.connect(guest);
    for (const flag of [0, 1])
      assert.equal(await disk.submit({ operation: Op.discard, discard: { sectors: 64n, flag } }), -1);
    assert.deepEqual(readFileSync(path), before);
  }),
);

// ---- Keys ----

test(
  "XSA-175: a directory whose frontend-id or frontend is another domain's is not served, and no image is opened",
  LIMIT,
  () => {
    const opened: string[] = [];
    return onMachine(
      async (machine) => {
        const guest = await machine.guest();
        await machine.guest(2);
        const front = machine.front(guest);
        for (const [i, keys] of [
          { "frontend-id": "2" },
          { "frontend-id": "0" },
          { "frontend-id": "1x" },
          { frontend: "/local/domain/2/device/vbd/51712" },
          { frontend: "/local/domain/1/device/vbd/51712/" },
          { frontend: "/local/domain/1/data" },
        ].entries()) {
          await machine.plug({ path: machine.image(`${i}.img`), keys });
          await front.write(await front.ring());
          await front.state(3);
          await machine.untilState(6);
          await machine.unplug();
          await until("the vbd is gone", () => machine.status() === undefined);
        }
        assert.deepEqual(opened, []);
        assert.equal(machine.reactor.mappedPages, 0);
      },
      {
        open: (path, options) => {
          opened.push(path);
          return openDevice(path, options);
        },
      },
    )();
  },
);

test(
  "XSA-178: the guest can write none of what decides which image is opened, and how",
  LIMIT,
  onMachine(async (machine) => {
    const { guest, path, front } = await connected(machine);
    for (const key of ["params", "physical-device-path", "mode", "frontend-id", "online", "state", "new"])
      await assert.rejects(guest.xenstore.write(`${backendPath()}/${key}`, "w"), /EACCES/);
    await front.write({ params: "/etc/passwd", mode: "w", "physical-device-path": "/etc/passwd" });
    await front.state(6);
    await machine.untilState(6);
    await front.state(1);
    await machine.untilState(2);
    await front.state(3);
    await machine.untilState(4);
    assert.equal(machine.status()?.device, path);
  }),
);
