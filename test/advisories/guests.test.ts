/** Advisories about whole connections: states, watches, events, and what is left of a guest that is gone. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Op } from "../../host/guest/layout.js";
import { random } from "../../host/guest/workload.js";
import type { EventChannels, GrantTable } from "../../host/platform/ports.js";
import { testDevices } from "../vbd/device.js";
import { LIMIT, onMachine, pause, until } from "../vbd/harness.js";
import { connected } from "./connected.js";

/** Event channels that a test gets between: what `read` adds, and what happens at `unmask`. */
function spiedEvents() {
  const spy = {
    reads: 0,
    stale: [] as number[],
    bound: [] as number[],
    onUnmask: (_port: number): void => {},
    wrap(events: EventChannels): EventChannels {
      return {
        fd: events.fd,
        inbox: events.inbox,
        bindInterdomain: async (domid, remote) => {
          const port = await events.bindInterdomain(domid, remote);
          spy.bound.push(port);
          return port;
        },
        allocUnbound: (domid) => events.allocUnbound(domid),
        unbind: (port) => events.unbind(port),
        notify: (port) => events.notify(port),
        read: (ports) => {
          spy.reads++;
          let count = events.read(ports);
          for (const port of spy.stale) if (count < ports.length) ports[count++] = port;
          return count;
        },
        received: (result, ports) => events.received(result, ports),
        unmaskBy: (write) => events.unmaskBy(write),
        unmask: (port) => {
          events.unmask(port);
          spy.onUnmask(port);
        },
        close: () => events.close(),
      };
    },
  };
  return spy;
}

// ---- Grants ----

{
  let fail = -1;
  const grants = (real: GrantTable): GrantTable => ({
    get mappedPages() {
      return real.mappedPages;
    },
    map: (memory, at, domid, refs, writable, status) => {
      const wrong = refs.slice();
      if (fail >= 0 && fail < refs.length) wrong[fail] = 0x7fffffff;
      real.map(memory, at, domid, wrong, writable, status);
    },
    unmap: (...range) => real.unmap(...range),
    copy: (...table) => real.copy(...table),
    close: () => real.close(),
  });
  test(
    "XSA-361: of a ring's pages each cannot be mapped once: the guest is refused, and no page stays mapped",
    LIMIT,
    onMachine(
      async (machine) => {
        const guest = await machine.guest();
        await machine.plug({ path: machine.image() });
        for (fail = 0; fail < 4; fail++) {
          await assert.rejects(machine.connect(guest, { ringPageOrder: 2 }), /is at Clos/);
          assert.match((await machine.error()) ?? "", /badGntref/);
          await machine.untilClean();
        }
        fail = -1;
        await (await machine.connect(guest, { ringPageOrder: 2 })).flush();
      },
      { grants },
    ),
  );
}

test(
  "XSA-371: bad grants, then a disconnect: nothing of the guest's is held, and its domain can go",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    await machine.plug({ path: machine.image() });
    for (const persistent of [true, false]) {
      const disk = await machine.connect(guest, { persistent });
      const good = guest.pages.grant(0, guest.pages.allocate(1), false);
      const readOnly = guest.pages.grant(0, guest.pages.allocate(1), true);
      for (let k = 0; k < 11; k++) {
        for (const operation of [Op.read, Op.write]) {
          const segments = Array.from({ length: 11 }, (_, i) => ({
            ref: i === k ? 0x7ffffff0 : good,
            first: 0,
            last: 7,
          }));
          assert.equal(await disk.submit({ operation, segments }), -1);
          assert.equal(await disk.submit({ operation, segments, indirect: true }), -1);
        }
        await disk.submit({ operation: Op.read, segments: [{ ref: readOnly, first: 0, last: 7 }] });
      }
      await disk.close();
      await machine.untilState(6);
      await machine.untilClean();
      assert.equal(machine.host.hypervisor.grantsInUse(), 0);
      assert.ok(guest.pages.endAccess(good) && guest.pages.endAccess(readOnly));
    }
  }),
);

// ---- States ----

{
  const opened = { now: 0, most: 0 };
  const { open, devices } = testDevices();
  test(
    "XSA-350: a frontend that toggles its state during I/O has one connection at a time",
    LIMIT,
    onMachine(
      async (machine) => {
        const { front, keys } = await connected(machine);
        const { memory } = front.guest.pages;
        const roll = random(350);
        let produced = 0;
        let underway = 0;
        // On a busy machine it takes more rounds until flushes are under way.
        for (let round = 0; round < 100 || (underway <= 3 && round < 5000); round++) {
          for (const device of devices.values()) device.holding = roll() % 2 === 0;
          if (produced - front.rspProd < 32) {
            const slot = front.at + 64 + (produced % 32) * 112;
            memory.u8.fill(0, slot, slot + 112);
            memory.u8[slot] = Op.flushDiskcache;
            front.reqProd = ++produced;
          }
          front.kick(keys);
          for (let i = 0; i < 10; i++) void front.state([1, 3, 4, 5, 6][roll() % 5]);
          await pause(roll() % 5);
          for (const device of devices.values()) {
            underway += device.held;
            device.release();
          }
          assert.ok(machine.host.hypervisor.portsInUse(0) <= 1);
          assert.ok(machine.reactor.mappedPages <= 1);
        }
        assert.ok(underway > 3, `${underway} flushes were under way`);
        assert.equal(opened.most, 1);
        await front.state(6);
        await machine.untilState(6);
        await machine.untilClean();
        await until("the store is closed", () => opened.now === 0);
      },
      {
        open: async (path, options) => {
          opened.most = Math.max(opened.most, ++opened.now);
          const device = await open(path, options);
          const close = device.close.bind(device);
          device.close = async () => {
            await close();
            opened.now--;
          };
          return device;
        },
      },
    ),
  );
}

test(
  "XSA-349: a million events of a watched path cost a bounded number of looks, and no memory",
  LIMIT,
  onMachine(async (machine) => {
    const { front } = await connected(machine);
    const fire = machine.spy.watches.get(`${front.directory}/state`)!;
    const before = machine.spy.requests;
    const heap = process.memoryUsage().heapUsed;
    for (let round = 0; round < 100; round++) {
      for (let i = 0; i < 10_000; i++) fire("");
      await pause(0);
    }
    await machine.looked();
    assert.ok(machine.spy.requests - before < 10_000, `${machine.spy.requests - before} requests`);
    assert.ok(process.memoryUsage().heapUsed - heap < 32 << 20);
    assert.equal(machine.status()?.state, 4);
  }),
);

for (const state of [0, 1, 2, 3, 5, 6, 7, 8, "x"]) {
  test(
    `CVE-2010-3699: a frontend that goes from 4 to ${state}, and then away, leaves nothing`,
    LIMIT,
    onMachine(async (machine) => {
      const { front } = await connected(machine);
      await front.state(state);
      await machine.looked();
      await machine.host.destroyGuest(1);
      await machine.unplug();
      await until("the vbd is gone", () => machine.backend.status().length === 0);
      await machine.untilClean();
    }),
  );
}

// ---- Events ----

{
  const events = spiedEvents();
  test(
    "XSA-332: events without work, again as soon as they are re-armed: another guest's disk goes on",
    LIMIT,
    onMachine(
      async (machine) => {
        const { front, keys } = await connected(machine);
        const [port] = events.bound;
        const other = await machine.guest(2);
        await machine.plug({ path: machine.image("other.img"), domid: 2 });
        const disk = await machine.connect(other);
        const reads = events.reads;
        const began = performance.now();
        let storm = 0;
        events.onUnmask = (unmasked) => {
          if (unmasked !== port) return;
          storm++;
          front.kick(keys);
        };
        front.kick(keys);
        for (let i = 0; i < 200; i++) await disk.write(0, new Uint8Array(4096).fill(i));
        events.onUnmask = () => {};
        // The first are let through at once; then the channel stays masked for longer and longer.
        assert.ok(storm >= 16, `a storm of ${storm} events`);
        const seconds = (performance.now() - began) / 1000;
        assert.ok(storm <= 32 + seconds * 50, `${storm} events in ${seconds} s`);
        // One pass of the storming ring at most between two of everybody else's.
        assert.ok(storm <= events.reads - reads, `${storm} events in ${events.reads - reads} reads`);
        assert.equal(machine.status()?.counters.responses, 0);
      },
      { events: (real) => events.wrap(real) },
    ),
  );

  test(
    "XSA-332: a million kicks without work are a few events, and no line for the operator",
    LIMIT,
    onMachine(
      async (machine) => {
        const { front, keys } = await connected(machine);
        const lines = machine.log.length;
        const reads = events.reads;
        for (let round = 0; round < 100; round++) {
          for (let i = 0; i < 10_000; i++) front.kick(keys);
          await pause(0);
        }
        assert.ok(events.reads - reads <= 1000, `${events.reads - reads} reads`);
        assert.equal(machine.log.length, lines);
      },
      { events: (real) => events.wrap(real) },
    ),
  );
}

{
  const events = spiedEvents();
  test(
    "XSA-331: events during a disconnect, and on a port that is closed, are ignored",
    LIMIT,
    onMachine(
      async (machine) => {
        const { front, keys } = await connected(machine);
        const [port] = events.bound;
        const storm = setInterval(() => front.kick(keys), 0);
        await front.state(6);
        await machine.untilState(6);
        clearInterval(storm);
        await machine.untilClean();
        // An event that was read in the same go as the channel was closed.
        events.stale.push(port);
        await front.write(await front.ring());
        await front.state(1);
        await machine.untilState(2);
        await front.state(3);
        await machine.untilState(4);
        events.stale.push(4000);
        for (const at of [-1, 0]) events.stale.push(events.bound.at(at)!);
        await front.state(6);
        await machine.untilState(6);
        events.stale.length = 0;
        await machine.untilClean();
        assert.deepEqual(
          machine.log.filter((line) => !line.startsWith("xbd ")),
          [],
        );
      },
      { events: (real) => events.wrap(real) },
    ),
  );
}
