/** A disk that changes its size, or what it can do, while a guest has it. */
import assert from "node:assert/strict";
import { truncateSync } from "node:fs";
import { test } from "node:test";
import { Op, Rsp } from "../../host/guest/layout.js";
import { Result } from "../../host/storage/device.js";
import { testDevices } from "./device.js";
import { backendPath, IMAGE_BYTES, LIMIT, type Machine, onMachine, pause, until } from "./harness.js";

const NAME = "xbdback1i51712";

async function attached(machine: Machine, queues = 1) {
  const guest = await machine.guest();
  const path = machine.image();
  await machine.plug({ path });
  const disk = await machine.connect(guest, { queues });
  const sizes: number[] = [];
  disk.onResize = (size) => sizes.push(size);
  return { guest, path, disk, sizes };
}

/** Every transaction's writes in the backend directory, as "sectors,state". */
function watchWrites(machine: Machine): string[] {
  const seen: string[] = [];
  machine.spy.hook = (verb, path) => {
    if (verb === "write" || verb === "remove") seen.push(`${verb} ${path.slice(backendPath().length + 1)}`);
    if (verb === "transaction") seen.push("(");
  };
  return seen;
}

test(
  "an image that grows: noticed by itself, told in one transaction, and usable to its new end",
  LIMIT,
  onMachine(async (machine) => {
    const { path, disk, sizes } = await attached(machine, 2);
    const seen = watchWrites(machine);
    truncateSync(path, 2 * IMAGE_BYTES);
    await until("the guest knows", () => sizes.length > 0);
    assert.deepEqual(sizes, [2 * IMAGE_BYTES]);
    assert.ok(seen.join().includes("(,write sectors,write state"), seen.join());
    assert.equal(await machine.xenstore.read(`${backendPath()}/sectors`), "4096");
    assert.equal(await machine.state(), 4);
    const bytes = new Uint8Array(64 << 10).fill(9);
    // Through both rings.
    await Promise.all([0, 1, 2, 3].map((i) => disk.write(2 * IMAGE_BYTES - (i + 1) * bytes.length, bytes)));
    const back = new Uint8Array(4 * bytes.length);
    await disk.read(2 * IMAGE_BYTES - back.length, back);
    assert.ok(back.every((byte) => byte === 9));
    assert.equal(machine.status()?.size, 2 * IMAGE_BYTES);
    assert.ok(
      machine.log.includes(`${NAME}: the disk has grown from ${IMAGE_BYTES} to ${2 * IMAGE_BYTES} bytes`),
    );
  }),
);

test(
  "an image that shrinks: what is beyond its end fails cleanly, the rest goes on",
  LIMIT,
  onMachine(async (machine) => {
    const { guest, path, disk, sizes } = await attached(machine);
    const beyond = { operation: Op.read, sector: 1024n };
    const frame = guest.pages.allocate(1);
    const segments = [{ ref: guest.pages.grant(0, frame, false), first: 0, last: 7 }];
    assert.equal(await disk.submit({ ...beyond, segments }), Rsp.okay);
    truncateSync(path, IMAGE_BYTES / 2);
    assert.equal(await machine.backend.resize(NAME), IMAGE_BYTES / 2);
    await until("the guest knows", () => sizes.length > 0);
    assert.deepEqual(sizes, [IMAGE_BYTES / 2]);
    for (const operation of [Op.read, Op.write]) {
      assert.equal(await disk.submit({ ...beyond, operation, segments }), Rsp.error);
    }
    assert.equal(machine.status()?.counters.badRange, 2);
    assert.equal(machine.status()?.counters.ioErrors, 0, "the core knows the size, too");
    await disk.write(IMAGE_BYTES / 2 - 4096, new Uint8Array(4096).fill(1));
    assert.ok(machine.log.some((line) => line.includes("has shrunk from 1048576 to 524288 bytes")));
  }),
);

test(
  "on request: told even if it is the same; refused with a reason where it cannot be",
  LIMIT,
  onMachine(async (machine) => {
    const { path, disk } = await attached(machine);
    const seen = watchWrites(machine);
    assert.equal(await machine.backend.resize(NAME), IMAGE_BYTES);
    assert.deepEqual(
      seen.filter((line) => line.startsWith("write")),
      ["write sectors", "write state"],
    );
    truncateSync(path, 3 * IMAGE_BYTES + 100);
    assert.equal(await machine.backend.resize(NAME), 3 * IMAGE_BYTES);
    await until("the guest knows", () => disk.size === 3 * IMAGE_BYTES);
    await assert.rejects(machine.backend.resize("xbdback7i1"), /no such vbd: "xbdback7i1"/);
    await disk.close();
    await machine.untilState(6);
    await assert.rejects(machine.backend.resize(NAME), /is not connected; its size is read when it connects/);
  }),
);

test(
  "xapi's resize-device",
  LIMIT,
  onMachine(async (machine) => {
    const { path, sizes } = await attached(machine);
    truncateSync(path, 4 * IMAGE_BYTES);
    await machine.xenstore.write(`${backendPath()}/resize-device`, "1");
    await until("the guest knows", () => sizes.length > 0);
    await until("the key is gone", async () => {
      return (await machine.xenstore.read(`${backendPath()}/resize-device`)) === null;
    });
    assert.deepEqual(sizes, [4 * IMAGE_BYTES]);
    // What xapi writes into `sectors` itself is put right.
    await machine.xenstore.write(`${backendPath()}/sectors`, "1");
    await machine.xenstore.write(`${backendPath()}/resize-device`, "1");
    await until("it is right", async () => {
      return (await machine.xenstore.read(`${backendPath()}/sectors`)) === String((4 * IMAGE_BYTES) / 512);
    });
  }),
);

test(
  "a size that changes while the disk closes is not told: the state stays the toolstack's",
  LIMIT,
  onMachine(async (machine) => {
    const { path } = await attached(machine);
    const front = `/local/domain/1/device/vbd/51712/state`;
    await machine.xenstore.write(front, "5");
    await machine.untilState(5);
    truncateSync(path, 2 * IMAGE_BYTES);
    await machine.backend.resize(NAME);
    assert.equal(await machine.state(), 5);
    assert.equal(await machine.xenstore.read(`${backendPath()}/sectors`), "2048");
    assert.equal(machine.status()?.size, 2 * IMAGE_BYTES);
  }),
);

test(
  "a change that xenstore refuses at first is told later",
  LIMIT,
  onMachine(async (machine) => {
    const { path, sizes } = await attached(machine);
    let refused = 0;
    machine.spy.hook = (verb, name) => {
      if (verb !== "write" || !name.endsWith("/sectors") || refused++ > 1) return;
      throw Object.assign(new Error("xenstore: write: ENOSPC"), { code: "ENOSPC" });
    };
    truncateSync(path, 2 * IMAGE_BYTES);
    await until("the guest knows", () => sizes.length > 0);
    assert.ok(refused > 1);
    await until("no trouble is left", () => machine.status()?.error === null);
  }),
);

for (const itself of [true, false]) {
  const { devices, open } = testDevices();
  test(
    `a store that turns out not to know discard (${itself ? "and says so itself" : "in a thread of its own"}): ` +
      "EOPNOTSUPP once, and the key says 0 from then on",
    LIMIT,
    onMachine(
      async (machine) => {
        const { guest, path, disk, sizes } = await attached(machine);
        assert.equal(await machine.xenstore.read(`${backendPath()}/feature-discard`), "1");
        const device = devices.get(path)!;
        device.fault = (operation) => {
          if (operation !== "discard") return null;
          device.canDiscard = !itself;
          return Result.Unsupported;
        };
        await assert.rejects(disk.discard(0, 4096), { code: "EOPNOTSUPP" });
        assert.equal(disk.canDiscard, false);
        await until("the key is rewritten", async () => {
          return (await machine.xenstore.read(`${backendPath()}/feature-discard`)) === "0";
        });
        assert.equal(await machine.state(), 4);
        assert.deepEqual(sizes, []);
        await disk.write(0, new Uint8Array(512));
        await disk.close();
        // The next frontend is told what the store says then.
        await machine.connect(guest);
        assert.equal(await machine.xenstore.read(`${backendPath()}/feature-discard`), "1");
      },
      { open },
    ),
  );
}

{
  const { devices, open } = testDevices();
  test(
    "a store that does not tell its size keeps nobody: not the toolstack, and not twice",
    LIMIT,
    onMachine(
      async (machine) => {
        const { path, disk } = await attached(machine);
        const device = devices.get(path)!;
        let asked = 0;
        let tell: (changed: boolean) => void = () => {};
        device.refreshSize = () => {
          asked++;
          return new Promise((resolve) => {
            tell = resolve;
          });
        };
        await until("it is asked", () => asked > 0);
        const resized = machine.backend.resize(NAME);
        await machine.xenstore.write(`${backendPath()}/resize-device`, "1");
        await pause(1500);
        assert.equal(asked, 1);
        await disk.write(0, new Uint8Array(512));
        await disk.close();
        await machine.untilState(6);
        await until("the next one was asked", () => {
          tell(false);
          return asked > 1;
        });
        tell(false);
        await resized.catch(() => {});
      },
      { open },
    ),
  );
}
