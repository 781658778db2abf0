/** What is weak in other backends' connections. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Op, Rsp } from "../../host/guest/layout.js";
import { testDevices } from "../vbd/device.js";
import { LIMIT, type Machine, onMachine, until } from "../vbd/harness.js";

/** The frontend asks for a ring as wrong as this; the backend maps nothing and names the key. */
async function refusesOrder(machine: Machine, order: string): Promise<void> {
  const guest = await machine.guest();
  await machine.plug({ path: machine.image() });
  const front = machine.front(guest);
  const keys = await front.ring();
  await front.write({ ...keys, "ring-page-order": order, "ring-ref0": keys["ring-ref"] });
  await front.state(3);
  await machine.untilState(6);
  assert.match((await machine.error()) ?? "", /ring-page-order is/);
  assert.equal(machine.reactor.mappedPages, 0);
  assert.equal(machine.host.hypervisor.portsInUse(0), 0);
}

for (const order of ["5", "31", "32", "33", "64", "99", "-1", "4294967296"]) {
  test(
    `tapdisk, FreeBSD: ring-page-order ${order} is refused before it is shifted or allocated`,
    LIMIT,
    onMachine((machine) => refusesOrder(machine, order)),
  );
}

for (const path of ["6", "1", "gone"]) {
  test(
    `NetBSD, tapdisk: a connected frontend is suddenly ${path}: no panic, and no ring stays mapped`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      await machine.plug({ path: machine.image() });
      const front = machine.front(guest);
      await front.write(await front.ring());
      await front.state(3);
      await machine.untilState(4);
      assert.equal(machine.reactor.mappedPages, 1);
      if (path === "gone") await machine.xenstore.remove(front.directory);
      else await front.state(path);
      await machine.untilState(path === "1" ? 2 : 6);
      await machine.untilClean();
    }),
  );
}

test(
  "QEMU: ten thousand bad requests are not ten thousand lines for the operator",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    await machine.plug({ path: machine.image() });
    const disk = await machine.connect(guest);
    const before = machine.log.length;
    for (let round = 0; round < 400; round++) {
      const batch = Array.from({ length: 25 }, (_, i) => disk.submit({ operation: 7 + i, nrSegments: 200 }));
      for (const status of await Promise.all(batch)) assert.equal(status, -2);
    }
    assert.ok(machine.log.length - before < 5, machine.log.slice(before).join("\n"));
  }),
);

{
  const { devices, open } = testDevices();
  test(
    "tapdisk: a flush is answered after the disk's flush, not before",
    LIMIT,
    onMachine(
      async (machine) => {
        const guest = await machine.guest();
        const path = machine.image();
        await machine.plug({ path });
        const disk = await machine.connect(guest);
        const device = devices.get(path)!;
        device.holding = true;
        let answered = false;
        const flush = disk.submit({ operation: Op.flushDiskcache }).finally(() => {
          answered = true;
        });
        await until("the store flushes", () => device.held === 1);
        // Answered behind it, by a pass that has seen both.
        assert.equal(await disk.submit({ operation: 99 }), Rsp.eopnotsupp);
        assert.equal(answered, false);
        device.release();
        assert.equal(await flush, 0);
      },
      { open },
    ),
  );
}

test(
  "FreeBSD: a frontend that is at 4 already when the hotplug script ends is connected",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const path = machine.image();
    await machine.plug({ path, noHotplug: true });
    const front = machine.front(guest);
    await machine.untilState(2);
    await front.write(await front.ring());
    await front.state(3);
    await front.state(4);
    await machine.looked();
    assert.equal(await machine.state(), 2);
    await machine.hotplug(path);
    await machine.untilState(4);
  }),
);

test(
  "FreeBSD: from 6 a frontend that starts again gets 2, and then its connection",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    await machine.plug({ path: machine.image() });
    for (let round = 0; round < 3; round++) {
      const disk = await machine.connect(guest);
      await disk.write(0, new Uint8Array(4096));
      await disk.close();
      await machine.untilState(6);
    }
    await machine.front(guest).state(1);
    await machine.untilState(2);
  }),
);

for (const away of [6, 1]) {
  const { devices, open } = testDevices();
  test(
    `Linux: a frontend that goes to ${away} and comes back during I/O waits for the I/O, and is served again`,
    LIMIT,
    onMachine(
      async (machine) => {
        const guest = await machine.guest();
        const path = machine.image();
        await machine.plug({ path });
        const disk = await machine.connect(guest, { persistent: false });
        const device = devices.get(path)!;
        device.holding = true;
        const lost = disk.write(0, new Uint8Array(4096).fill(1)).catch(() => {});
        await until("the write is in the store", () => device.held === 1);
        const front = machine.front(guest);
        await front.state(away);
        await machine.turns();
        assert.equal(device.closed, false);
        assert.ok(machine.reactor.mappedPages > 0);
        device.release();
        await machine.untilState(away === 6 ? 6 : 2);
        await machine.untilClean();
        assert.equal(device.closed, true);
        await front.state(1);
        await machine.untilState(2);
        await front.write(await front.ring());
        await front.state(3);
        await machine.untilState(4);
        await lost;
      },
      { open },
    ),
  );
}

test(
  "Linux: a guest of many persistent grants takes none of another guest's",
  LIMIT,
  onMachine(async (machine) => {
    const greedy = await machine.guest(1);
    const small = await machine.guest(2);
    await machine.plug({ path: machine.image() });
    await machine.plug({ path: machine.image("small.img"), domid: 2 });
    const disk = await machine.connect(greedy, { queues: 4 });
    const bytes = new Uint8Array(256 << 10);
    await Promise.all(Array.from({ length: 16 }, () => disk.write(0, bytes)));
    const held = machine.reactor.mappedPages;
    const other = await machine.connect(small);
    await other.write(0, bytes);
    assert.ok(machine.reactor.mappedPages >= held + 64, "the other guest's pages are kept, too");
  }),
);
