/** QEMU's own programs beside a served raw image: none opens what it must not, and an HVM guest's device model does. */
import assert from "node:assert/strict";
import { type SpawnSyncReturns, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, statSync } from "node:fs";
import { type TestContext, test } from "node:test";
import { openDevice } from "../../host/storage/open.js";
import { absent } from "../support/programs.js";
import { EBUSY, image } from "./helpers.js";

const WITH_TOOLS = { timeout: 120_000, skip: absent("qemu-img", "qemu-io") };

function qemuIo(path: string, ...options: string[]): SpawnSyncReturns<string> {
  return spawnSync("qemu-io", ["-f", "raw", ...options, path], { encoding: "utf8" });
}

const writes = (path: string): SpawnSyncReturns<string> => qemuIo(path, "-c", "write 0 512");
/** As programs that want an image that does not change meanwhile. */
const reads = (path: string): SpawnSyncReturns<string> =>
  spawnSync("qemu-img", ["convert", "-f", "raw", path, `${path}.copy`], { encoding: "utf8" });

test(
  "what we write QEMU's programs neither write nor read; what we read they do not write",
  WITH_TOOLS,
  async (t) => {
    const path = image(t, 65536);
    const writer = await openDevice(path, { readOnly: false });
    assert.match(writes(path).stderr, /Failed to get "write" lock/);
    assert.match(reads(path).stderr, /Failed to get shared "write" lock/);
    assert.notEqual(spawnSync("qemu-img", ["resize", "-f", "raw", path, "128k"]).status, 0);
    await writer.close();
    const reader = await openDevice(path, { readOnly: true });
    const other = await openDevice(path, { readOnly: true });
    assert.match(writes(path).stderr, /Failed to get "write" lock/);
    assert.equal(reads(path).status, 0);
    await reader.close();
    await other.close();
    assert.equal(writes(path).status, 0);
  },
);

/** A QEMU that has an emulated disk on the image, and does not run. */
async function deviceModel(t: TestContext, path: string): Promise<void> {
  const machine = ["-S", "-machine", "pc,accel=tcg", "-nodefaults", "-display", "none"];
  const qemu = spawn("qemu-system-x86_64", [...machine, "-drive", `file=${path},if=ide,format=raw`], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  const ended = once(qemu, "exit");
  t.after(async () => {
    qemu.kill("SIGKILL");
    await ended;
  });
  // Byte 201 is only QEMU's: see proc_locks(5).
  const locked = new RegExp(`^.* OFDLCK .*:${statSync(path).ino} 201 `, "m");
  while (!locked.test(readFileSync("/proc/locks", "latin1"))) {
    assert.equal(qemu.exitCode, null);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test("an HVM guest's device model opens the disk beside us, and the next daemon beside the device model", {
  timeout: 120_000,
  skip: absent("qemu-system-x86_64", "qemu-io"),
}, async (t) => {
  const path = image(t, 65536);
  const first = await openDevice(path, { readOnly: false, deviceModel: true });
  await deviceModel(t, path);
  await first.close();
  const next = await openDevice(path, { readOnly: false, deviceModel: true, again: true });
  await next.close();
  for (const options of [{ deviceModel: true }, { again: true }, {}]) {
    await assert.rejects(openDevice(path, { readOnly: false, ...options }), { errno: EBUSY });
  }
});
