/** What hotplug scripts publish, and what is made of it. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { addVbd, removeVbd } from "../../host/toolstack/vbd.js";
import { backendPath, DEVID, DOMID, LIMIT, type Machine, onMachine, until } from "./harness.js";

/** A vbd whose script has not run, and a frontend that is ready. */
async function waiting(machine: Machine, keys: Record<string, string | null> = {}) {
  const guest = await machine.guest();
  const path = machine.image();
  await machine.plug({ path, noHotplug: true, keys });
  const front = machine.front(guest);
  await front.write(await front.ring());
  await front.state(3);
  await machine.untilState(2);
  await until("the vbd waits", () => machine.status()?.frontendState === 3);
  return { path, guest, front };
}

function publish(machine: Machine, keys: Record<string, string>): Promise<void> {
  return machine.xenstore.transaction(async (t) => {
    for (const [key, value] of Object.entries(keys)) await t.write(`${backendPath()}/${key}`, value);
  });
}

for (const [name, keys] of Object.entries({
  "hotplug-status=connected, as tapback waits for": () => ({ "hotplug-status": "connected" }),
  "physical-device-path, as FreeBSD waits for": (path: string) => ({ "physical-device-path": path }),
  "both, as block-common.sh writes them": (path: string) => ({
    "physical-device": "7:0",
    "physical-device-path": path,
    "hotplug-status": "connected",
  }),
})) {
  test(
    `published: ${name}`,
    LIMIT,
    onMachine(async (machine) => {
      const { path } = await waiting(machine);
      assert.equal(machine.status()?.waitsFor, "the hotplug script (hotplug-status is not there)");
      await machine.looked();
      assert.equal(await machine.state(), 2);
      await publish(machine, keys(path));
      await machine.untilState(4);
      assert.equal(machine.status()?.device, path);
      assert.equal(machine.status()?.waitsFor, null);
    }),
  );
}

test("published: physical-device alone, as xen-blkback waits for", LIMIT, async (t) => {
  // Of any block device that is there: what is seen is that its name is found, whether or not it may be opened.
  const [number] = readdirSync("/sys/dev/block").filter((name) => {
    return Number(name.split(":")[1]) > 9 || Number(name.split(":")[0]) > 9;
  });
  if (!number) return t.skip("no block device here has a number whose hexadecimal form is another");
  const name = /^DEVNAME=(.*)$/m.exec(readFileSync(`/sys/dev/block/${number}/uevent`, "utf8"))?.[1];
  const hex = number.split(":").map((part) => Number(part).toString(16));
  let opened = "";
  const open = (path: string) => {
    opened = path;
    return Promise.reject(new Error("not today"));
  };
  await onMachine(
    async (machine) => {
      await waiting(machine);
      await publish(machine, { "physical-device": hex.join(":") });
      await machine.untilState(6);
      assert.equal(opened, `/dev/${name}`);
    },
    { open },
  )();
});

for (const value of ["7", "x:y", "7:0:1", "-7:0", "fffff:fffff"]) {
  test(
    `physical-device ${value} is refused`,
    LIMIT,
    onMachine(async (machine) => {
      await waiting(machine);
      await publish(machine, { "physical-device": value });
      await machine.untilState(6);
      assert.match(
        (await machine.error()) ?? "",
        /^22 physical-device is "?.*(not MAJOR:MINOR|no block device)/,
      );
    }),
  );
}

for (const status of ["error", "busy"]) {
  test(
    `hotplug-status=${status}: state 2 stays, the reason is said once, and the toolstack can remove or repair`,
    LIMIT,
    onMachine(async (machine) => {
      const { path } = await waiting(machine);
      const why = "Device /dev/loop0 is mounted in a guest domain";
      await publish(machine, {
        "physical-device-path": path,
        "hotplug-error": why,
        "hotplug-status": status,
      });
      await until("it is seen", () => machine.status()?.hotplugStatus === status);
      await machine.xenstore.write(`${backendPath()}/bootable`, "1");
      await machine.looked();
      assert.equal(await machine.state(), 2);
      const line = `waits for the hotplug script, which reported ${status}: ${why}`;
      assert.equal(`waits for ${machine.status()?.waitsFor}`, line);
      assert.deepEqual(machine.log, [`xbdback1i51712: ${line}`]);
      await publish(machine, { "hotplug-status": "connected" });
      await machine.untilState(4);
    }),
  );

  test(
    `hotplug-status=${status}, and libxl takes the disk away`,
    LIMIT,
    onMachine(async (machine) => {
      const { path } = await waiting(machine);
      await publish(machine, { "hotplug-status": status });
      const spec = { backendDomid: 0, domid: DOMID, devid: DEVID, path, mode: "w", dev: "xvda" };
      assert.equal(await removeVbd(machine.xenstore, spec), "closed");
    }),
  );
}

test(
  "a script that says error after the guest has connected disturbs nobody",
  LIMIT,
  onMachine(async (machine) => {
    const guest = await machine.guest();
    await machine.plug({ path: machine.image() });
    const disk = await machine.connect(guest);
    await publish(machine, { "hotplug-status": "error" });
    await disk.write(0, new Uint8Array(4096));
    assert.equal(await machine.state(), 4);
  }),
);

test(
  "a script that names no store",
  LIMIT,
  onMachine(async (machine) => {
    await waiting(machine, { params: "target=/somewhere" });
    await publish(machine, { "hotplug-status": "connected" });
    await until("it is seen", () => machine.status()?.hotplugStatus === "connected");
    await machine.looked();
    assert.equal(await machine.state(), 2);
    assert.match(machine.status()?.waitsFor ?? "", /reported connected but wrote no physical-device-path/);
  }),
);

const KINDS = ["vbd", "vbd3", "tap", "qdisk", "our-own"];
for (const kind of KINDS) {
  test(
    `kind ${kind}: what libxl does for it, from adding to removing`,
    LIMIT,
    onMachine(
      async (machine) => {
        const guest = await machine.guest();
        const path = machine.image();
        const spec = { backendDomid: 0, domid: DOMID, devid: DEVID, path, mode: "w", dev: "xvda", kind };
        await addVbd(machine.xenstore, spec);
        const backend = backendPath().replace("/vbd/", `/${kind}/`);
        const formatted = kind !== "vbd" && kind !== "our-own";
        assert.equal(await machine.xenstore.read(`${backend}/params`), formatted ? `raw:${path}` : path);
        const script = await machine.xenstore.read(`${backend}/hotplug-status`);
        assert.equal(script, kind === "qdisk" ? null : "connected");
        const disk = await machine.connect(guest);
        disk.onFailure = () => void disk.close();
        await disk.write(0, new Uint8Array(4096).fill(1));
        assert.equal(readFileSync(path)[4095], 1);
        assert.equal(machine.status()?.kind, kind);
        assert.equal(await removeVbd(machine.xenstore, spec), "closed");
        await until("the vbd is gone", () => machine.status() === undefined);
      },
      { kind },
    ),
  );
}

for (const kind of ["qdisk", "vbd3"]) {
  for (const params of ["dmg:/images/disk.dmg", "qcow2:disk.qcow2", "qcow2", "RAW:/x"]) {
    test(
      `kind ${kind} refuses params ${params} at once, whatever a script says`,
      LIMIT,
      onMachine(
        async (machine) => {
          const path = machine.image();
          await machine.guest();
          const backend = backendPath().replace("/vbd/", `/${kind}/`);
          const front = `/local/domain/1/device/vbd/${DEVID}`;
          await machine.xenstore.transaction(async (t) => {
            const keys = { frontend: front, "frontend-id": "1", params, online: "1", mode: "w", state: "1" };
            for (const [key, value] of Object.entries(keys)) await t.write(`${backend}/${key}`, value);
            await t.write(`${backend}/physical-device-path`, path);
            await t.write(`${backend}/hotplug-status`, "connected");
            await t.write(`${front}/state`, "3");
          });
          await until("it is closed", async () => (await machine.xenstore.read(`${backend}/state`)) === "6");
          assert.ok(machine.spy.states.every(({ state }) => state !== 2 && state !== 4));
          const error = await machine.xenstore.read(`/local/domain/0/error/backend/${kind}/1/${DEVID}/error`);
          const name = JSON.stringify(params).replace(/[.]/g, "\\.");
          const words = `^22 params is ${name}: that format is not served; convert it with`;
          assert.match(error ?? "", new RegExp(words));
          assert.deepEqual(machine.log, [`xbdback1i51712: ${error?.slice(3)}`]);
        },
        { kind },
      ),
    );
  }
}

test("a whole loop device by its number alone", LIMIT, async (t) => {
  await onMachine(async (machine) => {
    const path = machine.image();
    const loop = spawnSync("losetup", ["--find", "--show", path], { encoding: "utf8" });
    if (loop.status !== 0) return t.skip(`no loop devices here: ${loop.error ?? loop.stderr.trim()}`);
    const device = loop.stdout.trim();
    try {
      const number = spawnSync("stat", ["-c", "%t:%T", device], { encoding: "utf8" }).stdout.trim();
      const guest = await machine.guest();
      await machine.plug({ path: "file:///nonsense", noHotplug: true });
      await publish(machine, { "physical-device": number });
      const disk = await machine.connect(guest);
      await disk.write(0, new Uint8Array(4096).fill(7));
      await disk.flush();
      await disk.close();
      assert.equal(readFileSync(path)[0], 7);
    } finally {
      await machine.backend.stop();
      spawnSync("losetup", ["-d", device]);
    }
  })();
});
