/** Limits of disks that have none of their own: who has which, and what of them is kept. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { NO_LIMITS } from "../../host/reactor/throttle.js";
import { openDisk } from "../../host/storage/disk.js";
import { defaultLimits, parseGuestLimit, parseLimits } from "../../host/vbd/limit-defaults.js";
import { DEVID, DOMID, LIMIT, Machine, type MachineOptions, until } from "./harness.js";

test("limits as they are written, and what is said of others", () => {
  assert.deepEqual(parseLimits("iops=500"), { iops: 500, bps: 0, burst: 1 });
  assert.deepEqual(parseLimits("burst=2.5+bps=50M+iops=7"), { iops: 7, bps: 50 << 20, burst: 2.5 });
  assert.deepEqual(parseLimits("none"), NO_LIMITS);
  assert.deepEqual(parseGuestLimit("a:b:iops=1"), { guest: "a:b", limits: { iops: 1, bps: 0, burst: 1 } });
  for (const [text, complaint] of [
    ["iops=0", /"iops=0" is not a limit: write iops=N\+bps=SIZE\+burst=SECONDS, some of them, or none\.$/],
    ["iops=5,bps=1M", /"iops=5,bps=1M" is not a limit/],
    ["bps=fast", /"bps=fast" is not a limit/],
    ["burst=3601+iops=1", /"burst=3601" is not a limit/],
    ["burst=2", /^It limits nothing: name iops=N or bps=SIZE\.$/],
    ["", /"" is not a limit/],
  ] as const)
    assert.throws(() => parseLimits(text), { message: complaint });
  for (const text of ["iops=5", ":iops=5"])
    assert.throws(() => parseGuestLimit(text), {
      message: /^It is a guest's name, a colon and limits, like /,
    });
  assert.throws(() => parseGuestLimit("web:iops"), { message: /"iops" is not a limit/ });
});

test("a guest's own come first, the last of them; a target with limit: has that alone", () => {
  const settings = { limit: "iops=100", guestLimit: ["web:iops=1", "db:none", "web:bps=1M"] };
  const of = (guest: string | null, target: string | null = "/disk.img") =>
    defaultLimits(settings, guest, target);
  assert.deepEqual(of("web"), { limits: { iops: 0, bps: 1 << 20, burst: 1 }, limitsFrom: "guest-limit" });
  assert.deepEqual(of("db"), { limits: NO_LIMITS, limitsFrom: "guest-limit" });
  for (const guest of ["mail", null])
    assert.deepEqual(of(guest), { limits: { iops: 100, bps: 0, burst: 1 }, limitsFrom: "limit" });
  assert.deepEqual(of("web", "readonly:limit:iops=9:/disk.img"), {
    limits: { iops: 9, bps: 0, burst: 1 },
    limitsFrom: "target",
  });
  assert.deepEqual(of("web", "/limit:iops=9:x").limitsFrom, "guest-limit");
  assert.deepEqual(defaultLimits({ guestLimit: [] }, "web", null), { limits: NO_LIMITS, limitsFrom: null });
});

/** A connected disk of a guest that is called web, where the configuration says so. */
async function world(
  limits: MachineOptions["limits"],
  keys: Record<string, string> = {},
  body: (machine: Machine, key: (name: string) => Promise<string | null>) => Promise<void>,
): Promise<void> {
  const machine = await Machine.start({ limits });
  try {
    const guest = await machine.guest();
    machine.image();
    await machine.xenstore.write(`/local/domain/${DOMID}/name`, "web");
    const backend = await machine.plug({ keys });
    await machine.connect(guest);
    await body(machine, (name) => machine.xenstore.read(`${backend}/${name}`));
  } finally {
    await machine.close();
  }
}

const NAME = `xbdback${DOMID}i${DEVID}`;
const ONE = { iops: 1000, bps: 0, burst: 1 };

test(
  "a disk without limits of its own has those of its guest, until it gets some, and again",
  LIMIT,
  async () => {
    const asked: (string | null)[][] = [];
    const limits: MachineOptions["limits"] = (guest, target) => {
      asked.push([guest, target]);
      return { limits: ONE, limitsFrom: "guest-limit" };
    };
    await world(limits, {}, async (machine, key) => {
      const now = () => {
        const { limits, limitsFrom } = machine.status()!;
        return [limits.iops, limits.bps, limitsFrom];
      };
      const vbd = machine.backend.vbd(NAME);
      assert.deepEqual(asked.at(-1)?.[0], "web");
      assert.match(asked.at(-1)?.[1] ?? "", /disk\.img$/);
      assert.deepEqual(now(), [1000, 0, "guest-limit"]);
      // To look at them, or to pause, does not make them its own.
      await vbd.throttle({ limits: {} });
      await vbd.throttle({ paused: true });
      await vbd.throttle({ paused: false });
      assert.deepEqual([now(), await key("limit-iops")], [[1000, 0, "guest-limit"], null]);
      await vbd.throttle({ limits: { bps: 5000 } });
      assert.deepEqual([now(), await key("limit-iops")], [[1000, 5000, "disk"], "1000"]);
      await vbd.throttle({ limits: NO_LIMITS });
      assert.deepEqual([now(), await key("limit-iops")], [[0, 0, "disk"], "0"]);
      await vbd.throttle({ limits: null });
      assert.deepEqual([now(), await key("limit-iops")], [[1000, 0, "guest-limit"], null]);
    });
  },
);

test("a target's limit holds until the disk gets another, and again", LIMIT, async () => {
  const machine = await Machine.start({ open: openDisk });
  try {
    const guest = await machine.guest();
    await machine.plug({ path: `readonly:limit:iops=7+bps=1M:${machine.image()}` });
    await machine.connect(guest);
    const vbd = machine.backend.vbd(NAME);
    const now = () => {
      const { limits, limitsFrom } = machine.status()!;
      return [limits.iops, limits.bps, limitsFrom];
    };
    assert.deepEqual(now(), [7, 1 << 20, "target"]);
    await vbd.throttle({ limits: NO_LIMITS });
    assert.deepEqual(now(), [0, 0, "disk"]);
    await vbd.throttle({ limits: null });
    assert.deepEqual(now(), [7, 1 << 20, "target"]);
    assert.equal(machine.status()!.through, null, "it is served as if it stood alone");
  } finally {
    await machine.close();
  }
});

test("what the toolstack wrote for a disk counts, and none is a limit of its own, too", LIMIT, async () => {
  const limits = () => ({ limits: ONE, limitsFrom: "limit" }) as const;
  for (const [keys, expected] of [
    [{ "limit-bps": "4096" }, { iops: 0, bps: 4096, burst: 1 }],
    [{ "limit-iops": "0" }, NO_LIMITS],
  ] as const)
    await world(limits, keys, async (machine) => {
      const { limits, limitsFrom } = machine.status()!;
      assert.deepEqual([limits, limitsFrom], [expected, "disk"]);
    });
  await world(limits, { "limit-iops": "many" }, async (machine) => {
    assert.equal(machine.status()!.limitsFrom, "limit", "a mistake is as if it were not there");
  });
});

test("a connection keeps the limits with which it began; the next one has the new ones", LIMIT, async () => {
  let iops = 50;
  const limits = () => ({ limits: { iops, bps: 0, burst: 0 }, limitsFrom: "limit" }) as const;
  await world(limits, {}, async (machine) => {
    iops = 70;
    // When it has seen the second name, all of the look that saw the first is over.
    for (const name of ["other", "third"]) {
      await machine.xenstore.write(`/local/domain/${DOMID}/name`, name);
      machine.backend.vbd(NAME).look();
      await until("it has looked", () => machine.status()!.domainName === name);
    }
    assert.equal(machine.status()!.limits.iops, 50);
    const [disk] = machine.disks;
    const start = performance.now();
    for (let i = 0; i < 10; i++) await disk.read(i * 512, new Uint8Array(512));
    assert.ok(performance.now() - start > 150, "it is held to them");
    await disk.close();
    await until("it has the new ones", () => machine.status()!.limits.iops === 70);
  });
});
