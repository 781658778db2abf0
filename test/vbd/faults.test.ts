/** Everything that the backend stands on fails once, wherever it can. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type EventChannels, type GrantTable, XenstoreError } from "../../host/platform/ports.js";
import { Result } from "../../host/storage/device.js";
import { testDevices } from "./device.js";
import type { Keys } from "./front.js";
import {
  backendPath,
  DEVID,
  type Guest,
  LIMIT,
  type Machine,
  onMachine,
  openFiles,
  until,
} from "./harness.js";

const CODES = ["EACCES", "ENOSPC", "EAGAIN", "EIO"];
/** More than a vbd needs of xenstore from the first look to state 4, but for most of the keys that it reads at once. */
const REQUESTS = 40;
const ALIKE = /^\/local\/domain\/0\/backend\/.*\/(?!state$|mode$)[^/]*$/;

/** Attaches many vbds, each of which meets its trouble at another request; `act` makes it. */
async function eachInTrouble(
  machine: Machine,
  guest: Guest,
  act: (devid: number, request: number, backend: string) => void | Promise<void>,
): Promise<{ devids: number[]; rings: Keys[]; met: Set<number> }> {
  const path = machine.image();
  const devids = Array.from({ length: REQUESTS }, (_, i) => i << 8);
  const counts = new Map<number, number>();
  const met = new Set<number>();
  machine.spy.hook = async (verb, name) => {
    // A transaction's own verbs name their node; its start is counted for all alike.
    const devid = Number(/\/vbd\/1\/([0-9]+)\//.exec(name)?.[1] ?? Number.NaN) || 0;
    if (verb === "transaction" || (verb === "read" && ALIKE.test(name)) || !devids.includes(devid)) return;
    const count = (counts.get(devid) ?? 0) + 1;
    counts.set(devid, count);
    if (count !== devid >> 8 || met.has(devid)) return;
    met.add(devid);
    await act(devid, count, backendPath(devid));
  };
  const rings = await Promise.all(devids.map((devid) => machine.front(guest, devid).ring()));
  for (const devid of devids) await machine.plug({ path, mode: "r", devid });
  for (const [i, devid] of devids.entries()) await begin(machine, guest, devid, rings[i]);
  return { devids, rings, met };
}

async function begin(machine: Machine, guest: Guest, devid: number, ring: Keys): Promise<void> {
  const front = machine.front(guest, devid);
  await front.write(ring);
  await front.state(3);
}

test(
  "xenstore refuses each request once: the vbd connects all the same",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const { devids, met } = await eachInTrouble(machine, guest, (_, request) => {
      throw new XenstoreError(CODES[request % CODES.length], `request ${request}`);
    });
    for (const devid of devids) await machine.untilState(4, devid);
    assert.ok(met.size > 24, `only ${met.size} requests were there to refuse`);
    // A guest cannot tell: it never saw anything but 2 and 4.
    assert.deepEqual([...new Set(machine.spy.states.map(({ state }) => state))].sort(), [2, 4]);
    await until("no trouble is left", () => machine.backend.status().every(({ error }) => error === null));
    assert.equal(machine.host.hypervisor.portsInUse(0), devids.length);
    assert.equal(machine.reactor.mappedPages, devids.length);
  }),
);

test(
  "the directory goes at each request: nothing is left, and nothing comes back to xenstore",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const gone = new Set<number>();
    const { devids } = await eachInTrouble(machine, guest, async (devid) => {
      gone.add(devid);
      await machine.unplug(devid);
    });
    const settled = async (devid: number) => gone.has(devid) || (await machine.state(devid)) === 4;
    for (const devid of devids) await until(`${devid} is connected or gone`, () => settled(devid));
    await until(
      "only the others are left",
      () => machine.backend.status().length === devids.length - gone.size,
    );
    assert.ok(gone.size > 24);
    assert.deepEqual(
      machine.log.filter((line) => !/^xbd |transaction/.test(line)),
      [],
    );
    assert.equal(await machine.xenstore.directory("/local/domain/0/error"), null);
    const left = (await machine.xenstore.directory("/local/domain/0/backend/vbd/1")) ?? [];
    assert.equal(left.length, devids.length - gone.size);
    assert.equal(machine.host.hypervisor.portsInUse(0), left.length);
    assert.equal(machine.reactor.mappedPages, left.length);
  }),
);

test(
  "the directory goes and comes back at each request: the new one is taken up",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    const other = machine.image("other.img");
    const again = new Set<number>();
    const { devids, rings } = await eachInTrouble(machine, guest, async (devid) => {
      await machine.unplug(devid);
      await machine.plug({ path: other, mode: "r", devid });
      again.add(devid);
    });
    for (const devid of devids) {
      await until(`${devid} is connected`, async () => {
        const state = await machine.state(devid);
        if (state === 2 && again.has(devid)) await begin(machine, guest, devid, rings[devid >> 8]);
        return state === 4;
      });
    }
    for (const devid of again) assert.equal(machine.status(devid)?.device, other);
    assert.equal(machine.host.hypervisor.portsInUse(0), devids.length);
  }),
);

test(
  "stop() in the midst of every look lets go of everything and closes no guest's disk",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    let stopped: Promise<void> | null = null;
    let said = 0;
    await eachInTrouble(machine, guest, (devid) => {
      if (devid >> 8 !== 20 || stopped !== null) return;
      said = machine.spy.states.length;
      stopped = machine.backend.stop();
    });
    await until("it stops", () => stopped !== null);
    await stopped;
    assert.equal(machine.reactor.mappedPages, 0);
    assert.equal(machine.host.hypervisor.portsInUse(0), 0);
    // What was under way may have come to its end; no guest was told that its disk is closing.
    assert.ok(machine.spy.states.slice(said).every(({ state }) => state === 2 || state === 4));
    assert.deepEqual(machine.backend.stopping, []);
  }),
);

/** Fails when `failing` says so. */
class FlakyEvents implements EventChannels {
  readonly #events: EventChannels;
  failing = { bind: 0, unbind: 0 };
  constructor(events: EventChannels) {
    this.#events = events;
  }
  get fd(): number {
    return this.#events.fd;
  }
  get inbox(): Uint32Array<ArrayBuffer> {
    return this.#events.inbox;
  }
  async bindInterdomain(domid: number, port: number): Promise<number> {
    if (this.failing.bind > 0 && --this.failing.bind === 0) throw new Error("no port is left");
    return this.#events.bindInterdomain(domid, port);
  }
  async unbind(port: number): Promise<void> {
    await this.#events.unbind(port);
    if (this.failing.unbind > 0 && --this.failing.unbind === 0) throw new Error("unbinding failed");
  }
  allocUnbound = (domid: number) => this.#events.allocUnbound(domid);
  notify = (port: number) => this.#events.notify(port);
  read = (ports: Uint32Array) => this.#events.read(ports);
  received = (result: number, ports: Uint32Array) => this.#events.received(result, ports);
  unmask = (port: number) => this.#events.unmask(port);
  unmaskBy = (write: (fd: number, port: number) => void) => this.#events.unmaskBy(write);
  close = () => this.#events.close();
}

class FlakyGrants implements GrantTable {
  readonly #grants: GrantTable;
  failingMap = 0;
  failingCopies = false;
  constructor(grants: GrantTable) {
    this.#grants = grants;
  }
  get mappedPages(): number {
    return this.#grants.mappedPages;
  }
  map: GrantTable["map"] = (memory, at, domid, refs, writable, status) => {
    this.#grants.map(memory, at, domid, refs, writable, status);
    if (this.failingMap === 0 || --this.failingMap > 0) return;
    this.#grants.unmap(memory, at, refs.length);
    status.fill(-13);
  };
  unmap: GrantTable["unmap"] = (...range) => this.#grants.unmap(...range);
  copy: GrantTable["copy"] = (...table) => {
    if (this.failingCopies) throw new Error("the grant device is gone");
    this.#grants.copy(...table);
  };
  close(): void {
    this.#grants.close();
  }
}

function flaky() {
  const parts: { events?: FlakyEvents; grants?: FlakyGrants } = {};
  return {
    parts,
    events: (events: EventChannels) => (parts.events = new FlakyEvents(events)),
    grants: (grants: GrantTable) => (parts.grants = new FlakyGrants(grants)),
    ...testDevices(),
  };
}

for (const nth of [1, 2, 3, 4]) {
  const { parts, ...options } = flaky();
  test(
    `of four rings, number ${nth} finds no port, then no mapping`,
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      const path = machine.image();
      await machine.plug({ path });
      await (await machine.connect(guest, { queues: 4 })).close();
      await machine.untilState(6);
      const files = openFiles();
      parts.events!.failing.bind = nth;
      await assert.rejects(machine.connect(guest, { queues: 4 }), /is at Clos/);
      assert.match((await machine.error()) ?? "", /no port is left/);
      await machine.untilClean();
      parts.grants!.failingMap = nth;
      await assert.rejects(machine.connect(guest, { queues: 4 }), /is at Clos/);
      assert.match((await machine.error()) ?? "", /noSpace \(-13\)/);
      await machine.untilClean();
      assert.equal(options.devices.get(path)?.closed, true);
      await until("its files are closed", () => openFiles() === files);
      await (await machine.connect(guest, { queues: 4 })).close();
    }, options),
  );
}

{
  const { parts, ...options } = flaky();
  test(
    "a port that cannot be unbound does not keep the other rings",
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      const path = machine.image();
      await machine.plug({ path });
      const disk = await machine.connect(guest, { queues: 4 });
      parts.events!.failing.unbind = 2;
      assert.deepEqual(await disk.close(), { grantsInUse: 0 });
      await machine.untilState(6);
      await machine.untilClean();
      assert.equal(options.devices.get(path)?.closed, true);
      assert.ok(machine.log.some((line) => line.includes("unbinding failed")));
    }, options),
  );
}

{
  const { parts, ...options } = flaky();
  test(
    "what breaks one ring leaves the others, and the vbd can close",
    LIMIT,
    onMachine(async (machine) => {
      const guest = await machine.guest();
      const other = await machine.guest(2);
      await machine.plug({ path: machine.image() });
      await machine.plug({ path: machine.image("other.img"), domid: 2 });
      const disk = await machine.connect(guest, { persistent: false, timeoutMs: 300 });
      const quiet = await machine.connect(other);
      parts.grants!.failingCopies = true;
      const lost = disk.read(0, new Uint8Array(512)).catch(() => {});
      await until("it is told", () =>
        machine.log.some((line) => /i51712: the ring failed: the grant device is gone/.test(line)),
      );
      parts.grants!.failingCopies = false;
      await quiet.write(0, new Uint8Array(4096));
      await disk.close();
      await machine.untilState(6);
      await lost;
      await (await machine.connect(guest)).read(0, new Uint8Array(512));
    }, options),
  );
}

{
  const { devices, open } = testDevices();
  test(
    "an I/O that fails fails alone",
    LIMIT,
    onMachine(
      async (machine) => {
        const guest = await machine.guest();
        const path = machine.image();
        await machine.plug({ path });
        const disk = await machine.connect(guest);
        devices.get(path)!.fault = (_, position) => (position === 16384 ? Result.Failure : null);
        const at = Array.from({ length: 16 }, (_, i) => i * 16384);
        for (let round = 0; round < 10; round++) {
          const outcomes = await Promise.all(
            at.map((position) =>
              disk.write(position, new Uint8Array(4096)).then(
                () => "ok",
                (error: Error) => error.message,
              ),
            ),
          );
          assert.match(outcomes[1], /status -1/);
          assert.deepEqual(new Set(outcomes.filter((_, i) => i !== 1)), new Set(["ok"]));
        }
        const lines = (): string[] => machine.log.filter((line) => line.includes("failed"));
        await until("a second line sums up the rest", () => lines().length > 1);
        assert.deepEqual(lines(), [
          "xbdback1i51712: write failed: no luck at 16384",
          "xbdback1i51712: write failed: no luck at 16384 (8 similar messages suppressed)",
        ]);
        assert.equal(machine.status()?.counters.ioErrors, 10);
      },
      { open },
    ),
  );
}

{
  const { devices, open } = testDevices();
  test(
    "a store that does not answer stops nobody else",
    LIMIT,
    onMachine(
      async (machine) => {
        const guest = await machine.guest();
        const other = await machine.guest(2);
        const path = machine.image();
        await machine.plug({ path });
        await machine.plug({ path: machine.image("other.img"), domid: 2 });
        const disk = await machine.connect(guest);
        const quiet = await machine.connect(other);
        const device = devices.get(path)!;
        device.holding = true;
        const waits = disk.write(0, new Uint8Array(4096));
        await until("it is in the store", () => device.held === 1);
        for (let i = 0; i < 20; i++) await quiet.write(0, new Uint8Array(4096));
        await quiet.close();
        await machine.untilState(6, DEVID, 2);
        await machine.connect(other);
        device.release();
        await waits;
      },
      { open },
    ),
  );
}

for (const persistent of [false, true]) {
  const { devices, open } = testDevices();
  test(
    `completions that come when the guest is long gone; persistent grants: ${persistent}`,
    LIMIT,
    onMachine(
      async (machine) => {
        const guest = await machine.guest();
        const path = machine.image();
        await machine.plug({ path });
        const disk = await machine.connect(guest, { persistent, timeoutMs: 300 });
        const device = devices.get(path)!;
        device.holding = true;
        const lost = [0, 1, 2, 3].map((i) => disk.read(i * 8192, new Uint8Array(4096)).catch(() => {}));
        await until("they are in the store", () => device.held > 0);
        await machine.host.destroyGuest(1);
        await machine.xenstore.remove(backendPath());
        await machine.turns();
        assert.equal(machine.backend.status().length, 1, "it must wait for what is in flight");
        assert.equal(device.closed, false);
        device.release();
        await until("the vbd is gone", () => machine.backend.status().length === 0);
        await machine.untilClean();
        assert.equal(device.closed, true);
        void lost;
        // Its successor, with the same number, gets a disk of its own.
        const next = await machine.guest();
        await machine.plug({ path });
        await (await machine.connect(next)).read(0, new Uint8Array(4096));
      },
      { open },
    ),
  );
}
