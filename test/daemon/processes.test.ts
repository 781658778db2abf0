/** Backend and guest as processes that can be killed. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { addVbd, removeVbd } from "../../host/toolstack/vbd.js";
import { backendPath, DEVID, DOMID, Machine, pause, until } from "../vbd/harness.js";

const LIMIT = { timeout: 120_000 };
const command = fileURLToPath(new URL("../../../bin/xbdback.mjs", import.meta.url));

function run(...args: string[]): ChildProcess {
  return spawn(process.execPath, [command, ...args, "--exit-with-parent"], {
    stdio: ["pipe", "pipe", "pipe"],
  });
}

/** The first line of a stream that `pattern` fits. */
async function line(stream: NodeJS.ReadableStream, pattern: RegExp): Promise<string> {
  for await (const text of createInterface({ input: stream })) if (pattern.test(text)) return text;
  throw new Error(`the process ended without saying ${pattern}`);
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
}

for (const order of ["domain first", "backend directory first"] as const) {
  test(`a guest that is killed in the midst of I/O; ${order}`, LIMIT, async () => {
    const machine = await Machine.start();
    let guest: ChildProcess | null = null;
    try {
      await machine.host.createGuest(DOMID, 64 << 20);
      const path = machine.image("disk.img", 64 << 20);
      await machine.plug({ path });
      const workload = ["--workload", "1000000000", "--depth", "64", "--queues", "4"];
      guest = run("guest", "--directory", machine.host.directory, "--domid", "1", ...workload);
      await line(guest.stdout!, /connected/);
      await until("I/O is under way", () => (machine.status()?.counters.responses ?? 0) > 500);
      assert.equal(machine.status()?.queues, 4);
      await kill(guest);
      await pause(50);
      assert.ok(machine.reactor.mappedPages > 0, "nobody has told the backend yet");
      const spec = { backendDomid: 0, domid: DOMID, devid: DEVID, path, mode: "w", dev: "xvda" };
      if (order === "domain first") await machine.host.destroyGuest(DOMID);
      const removal = await removeVbd(machine.xenstore, spec, 2000);
      assert.equal(removal, order === "domain first" ? "closed" : "forced");
      if (order !== "domain first") await machine.host.destroyGuest(DOMID);
      await until("the vbd is gone", () => machine.backend.status().length === 0);
      await machine.untilClean();
      assert.equal(machine.host.hypervisor.grantsInUse(), 0);
      // The image is free, and so is the number of the domain.
      const next = await machine.guest();
      await machine.plug({ path });
      await (await machine.connect(next)).flush();
    } finally {
      if (guest) await kill(guest);
      await machine.close();
    }
  });
}

test(
  "a backend that is killed: the guest waits, the toolstack gets a time-out, a new backend goes on",
  LIMIT,
  async () => {
    const machine = await Machine.start();
    await machine.backend.stop();
    const children: ChildProcess[] = [];
    const serve = (): ChildProcess => {
      const child = run("serve", "--directory", machine.host.directory);
      child.stderr!.resume();
      children.push(child);
      return child;
    };
    try {
      const guest = await machine.guest();
      const path = machine.image();
      const spec = { backendDomid: 0, domid: DOMID, devid: DEVID, path, mode: "w", dev: "xvda" };
      const first = serve();
      await addVbd(machine.xenstore, spec);
      const disk = await machine.connect(guest);
      let failed = false;
      disk.onFailure = () => {
        failed = true;
      };
      await disk.write(0, new Uint8Array(512).fill(1));
      await kill(first);
      assert.equal(await machine.state(), 4);

      let ended = false;
      const bytes = new Uint8Array(512);
      const waits = disk.read(0, bytes).finally(() => {
        ended = true;
      });
      await pause(200);
      assert.deepEqual([ended, failed], [false, false]);
      await assert.rejects(addVbd(machine.xenstore, { ...spec, devid: 768 }, 200), /is xbdback running/);

      serve();
      await waits;
      assert.equal(bytes[0], 1);
      assert.equal(failed, false);
      assert.equal(await machine.xenstore.read(`${backendPath()}/state`), "4");
      disk.onFailure = null;
      await disk.close();
      assert.equal(await removeVbd(machine.xenstore, spec), "closed");
    } finally {
      for (const child of children) await kill(child);
      await machine.close();
    }
  },
);
