/** Stores that take their time to open, as on a file server that hangs. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { BlockDevice } from "../../host/storage/device.js";
import { openDevice } from "../../host/storage/open.js";
import { removeVbd } from "../../host/toolstack/vbd.js";
import { backendPath, DEVID, DOMID, LIMIT, type Machine, onMachine, openFiles, until } from "./harness.js";

/** Stores that open when the test lets them. */
function slowly() {
  const waiting: (() => void)[] = [];
  const paths: string[] = [];
  return {
    waiting,
    paths,
    proceed: () => {
      for (const go of waiting.splice(0)) go();
    },
    open: async (path: string, options: Parameters<typeof openDevice>[1]): Promise<BlockDevice> => {
      paths.push(path);
      await new Promise<void>((resolve) => waiting.push(resolve));
      return openDevice(path, options);
    },
  };
}

async function opening(machine: Machine, slow: ReturnType<typeof slowly>) {
  const guest = await machine.guest();
  const path = machine.image();
  await machine.plug({ path });
  const front = machine.front(guest);
  await front.write(await front.ring());
  await front.state(3);
  await until("it opens", () => slow.waiting.length === 1);
  return { guest, path, front };
}

const SPEC = { backendDomid: 0, domid: DOMID, devid: DEVID, path: "", mode: "w", dev: "xvda" };

{
  const slow = slowly();
  test(
    "it waits, says for what, and connects in the end",
    LIMIT,
    onMachine(async (machine) => {
      const { path } = await opening(machine, slow);
      await machine.looked();
      assert.equal(await machine.state(), 2);
      assert.equal(machine.status()?.waitsFor, `${path} to be opened`);
      slow.proceed();
      await machine.untilState(4);
      assert.deepEqual(slow.paths, [path]);
    }, slow),
  );
}

{
  const slow = slowly();
  test(
    "the toolstack takes the disk away meanwhile and gives another of the same number",
    LIMIT,
    onMachine(async (machine) => {
      const { guest } = await opening(machine, slow);
      assert.equal(await removeVbd(machine.xenstore, SPEC), "closed");
      const other = machine.image("other.img");
      await machine.plug({ path: other });
      const front = machine.front(guest);
      await front.write(await front.ring());
      await front.state(3);
      await machine.untilState(2);
      // One store at a time, or the second might find its own image in use by the first.
      await machine.looked();
      assert.equal(slow.paths.length, 1);
      slow.proceed();
      await until("the second one opens", () => slow.paths.length === 2);
      slow.proceed();
      await machine.untilState(4);
      assert.equal(machine.status()?.device, other);
    }, slow),
  );
}

{
  const slow = slowly();
  test(
    "a frontend that leaves and comes back, again and again, has one store open",
    LIMIT,
    onMachine(async (machine) => {
      const { front } = await opening(machine, slow);
      const files = openFiles();
      for (let round = 0; round < 5; round++) {
        await front.state(6);
        await machine.untilState(6);
        await front.state(1);
        await machine.untilState(2);
        await front.state(3);
      }
      await machine.looked();
      assert.equal(slow.paths.length, 1);
      const letGo = setInterval(slow.proceed, 5);
      await machine.untilState(4);
      clearInterval(letGo);
      await until("no other is open", () => openFiles() <= files + 8);
      assert.ok(slow.paths.length <= 3, `${slow.paths.length} were opened`);
    }, slow),
  );
}

{
  const slow = slowly();
  test(
    "the directory goes meanwhile: the vbd is forgotten when the store is closed",
    LIMIT,
    onMachine(async (machine) => {
      const { path } = await opening(machine, slow);
      await machine.unplug();
      await until("it is let go", () => machine.status()?.waitsFor === "the disk to be released");
      slow.proceed();
      await until("the vbd is gone", () => machine.status() === undefined);
      // Nobody has the image.
      await (await openDevice(path, { readOnly: false })).close();
    }, slow),
  );
}

{
  const slow = slowly();
  test(
    "another path, or another mode, is published meanwhile: that one counts",
    LIMIT,
    onMachine(async (machine) => {
      await opening(machine, slow);
      const other = machine.image("other.img");
      await machine.xenstore.transaction(async (t) => {
        await t.write(`${backendPath()}/physical-device-path`, other);
        await t.write(`${backendPath()}/mode`, "r");
      });
      const letGo = setInterval(slow.proceed, 5);
      await machine.untilState(4);
      clearInterval(letGo);
      assert.equal(machine.status()?.device, other);
      assert.equal(await machine.xenstore.read(`${backendPath()}/info`), "4");
    }, slow),
  );
}

{
  const slow = slowly();
  test(
    "a daemon that stops does not wait for it for long",
    LIMIT,
    onMachine(async (machine) => {
      await opening(machine, slow);
      await machine.backend.stop();
      assert.equal(slow.waiting.length, 1, "it still opens");
      slow.proceed();
    }, slow),
  );
}
