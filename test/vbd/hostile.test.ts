/** Guests that mean harm. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Op } from "../../host/guest/layout.js";
import { random } from "../../host/guest/workload.js";
import type { Front } from "./front.js";
import { backendPath, DEVID, type Guest, LIMIT, type Machine, onMachine, pause, until } from "./harness.js";

for (const [name, lead] of [
  ["one more than a ring", 33],
  ["half the numbers there are", 0x80000000],
  ["one behind", 0xffffffff],
] as const) {
  test(
    `req_prod is ${name} ahead: the ring halts, one line is logged, another guest goes on`,
    LIMIT,
    onMachine(async (machine) => {
      const bad = await machine.guest(1);
      const good = await machine.guest(2);
      await machine.plug({ path: machine.image() });
      await machine.plug({ path: machine.image("good.img"), domid: 2 });
      const front = machine.front(bad);
      const keys = await front.ring();
      await front.write(keys);
      await front.state(3);
      await machine.untilState(4);
      const disk = await machine.connect(good);
      const before = machine.log.length;
      front.reqProd = lead;
      for (let i = 0; i < 50; i++) {
        front.kick(keys);
        await disk.write(0, new Uint8Array(512).fill(i));
      }
      assert.deepEqual(machine.log.slice(before), [
        "xbdback1i51712: the frontend claims more requests than its ring holds; this ring takes no more",
      ]);
      // Halted is not closed: the guest may still go in good order, and come back.
      front.reqProd = front.rspProd;
      front.kick(keys);
      await front.state(6);
      await machine.untilState(6);
      await (await machine.connect(bad)).flush();
    }),
  );
}

test(
  "garbage in requests: each gets its answer, and a good request works afterwards",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const other = await machine.guest(2);
    await machine.plug({ path: machine.image() });
    await machine.plug({ path: machine.image("other.img"), domid: 2 });
    const disk = await machine.connect(guest, { queues: 2 });
    const quiet = await machine.connect(other);
    const refs = [false, true].map((readOnly) => guest.pages.grant(0, guest.pages.allocate(1), readOnly));
    const roll = random(20260101);
    const pick = <T>(...of: T[]): T => of[roll() % of.length];
    const one = (): Promise<number> =>
      disk.submit({
        operation: pick(
          Op.read,
          Op.write,
          Op.writeBarrier,
          Op.flushDiskcache,
          4,
          Op.discard,
          7 + (roll() % 249),
        ),
        sector: pick(0n, 2047n, 2048n, BigInt(roll()), (1n << 63n) - 1n, (1n << 64n) - 1n),
        handle: pick(DEVID & 0xffff, roll() & 0xffff),
        segments: Array.from({ length: roll() % 12 }, () => ({
          ref: pick(...refs, 0, roll()),
          first: pick(0, 7, 8, roll() & 0xff),
          last: pick(0, 7, 8, roll() & 0xff),
        })),
        ...pick({}, {}, { nrSegments: roll() & 0xff }),
        ...pick<object>({}, {}, { indirect: true }, { indirect: true, indirectRefs: [roll(), refs[0]] }),
        ...pick<object>({}, {}, {}, { discard: { sectors: BigInt(roll()) << 32n, flag: roll() & 0xff } }),
      });
    for (let round = 0; round < 20; round++) {
      const batch = Array.from({ length: 64 }, one);
      for (const status of await Promise.all(batch)) assert.ok(status <= 0 && status >= -2);
      await quiet.write(0, new Uint8Array(512));
    }
    const bytes = new Uint8Array(8192).fill(0x3c);
    await disk.write(4096, bytes);
    const back = new Uint8Array(8192);
    await disk.read(4096, back);
    assert.deepEqual(back, bytes);
    assert.ok(machine.log.length < 12, machine.log.join("\n"));
    assert.equal(machine.status()?.state, 4);
  }),
);

/** No more than one connection: a ring and a port for each vbd. */
function checkOne(machine: Machine, vbds: number): void {
  assert.ok(machine.host.hypervisor.portsInUse(0) <= vbds);
  assert.ok(machine.reactor.mappedPages <= vbds);
}

test(
  "ten thousand random states of the frontend (XSA-350)",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    await machine.plug({ path: machine.image() });
    const front = machine.front(guest);
    const keys = await front.ring();
    await front.write(keys);
    const roll = random(7);
    for (let round = 0; round < 200; round++) {
      const batch = Array.from({ length: 50 }, () => front.state(roll() % 9));
      await Promise.all(batch);
      // Every other time long enough for a look in between.
      if (round % 2) await pause(roll() % 4);
      checkOne(machine, 1);
    }
    // Diagnostics, but no storm of them: of each kind one a second.
    assert.ok(machine.log.length < 60, `${machine.log.length} lines`);
    await comesBack(machine, front);
  }),
);

async function comesBack(machine: Machine, front: Front): Promise<void> {
  await front.state(6);
  await machine.untilState(6);
  await machine.untilClean();
  await front.state(1);
  await machine.untilState(2);
  await front.state(3);
  await machine.untilState(4);
}

test(
  "every pair of states (CVE-2010-3699): one connection at most, and it can always be removed",
  LIMIT,
  onMachine(async (machine) => {
    const states = ["0", "1", "2", "3", "4", "5", "6", "7", "x"];
    const guests = new Map<string, Guest>();
    for (const [i, state] of states.entries()) guests.set(state, await machine.guest(i + 1, 4 << 20));
    const path = machine.image();
    const pairs = states.flatMap((theirs) => states.map((ours, i) => ({ theirs, ours, devid: i << 4 })));
    await Promise.all(
      pairs.map(async ({ theirs, ours, devid }) => {
        const guest = guests.get(theirs) as Guest;
        await machine.plug({ path, mode: "r", devid, domid: guest.domid });
        const front = machine.front(guest, devid);
        await front.write(await front.ring());
        await front.state(3);
        await machine.untilState(4, devid, guest.domid);
        await front.state(theirs);
        await machine.xenstore.write(`${backendPath(devid, guest.domid)}/state`, ours);
      }),
    );
    await Promise.all(pairs.map(({ theirs, devid }) => machine.looked(devid, guests.get(theirs)?.domid)));
    checkOne(machine, pairs.length);
    for (const { domid } of guests.values()) {
      await machine.host.destroyGuest(domid);
      await machine.xenstore.remove(`/local/domain/0/backend/vbd/${domid}`);
    }
    await until("all vbds are gone", () => machine.backend.status().length === 0);
    await machine.untilClean();
    assert.deepEqual(await machine.xenstore.directory("/local/domain/0/error/backend/vbd/1"), null);
  }),
);

test(
  "a hundred thousand writes of a watched key cost a bounded number of looks (XSA-349)",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    await machine.plug({ path: machine.image() });
    const front = machine.front(guest);
    await front.write(await front.ring());
    await front.state(3);
    await machine.untilState(4);
    const before = machine.spy.requests;
    for (let round = 0; round < 20; round++) {
      await Promise.all(Array.from({ length: 1000 }, () => front.state(4)));
    }
    // And as a client would that does not merge them.
    const fire = machine.spy.watches.get(`${front.directory}/state`)!;
    for (let i = 0; i < 80_000; i++) fire("");
    await machine.looked();
    const requests = machine.spy.requests - before;
    assert.ok(requests < 10_000, `${requests} requests for 100000 events`);
    assert.equal(machine.status()?.state, 4);
  }),
);
