/** Which disks are waited for, how long, and what is said. */
import assert from "node:assert/strict";
import { constants } from "node:os";
import { test } from "node:test";
import { Incoming } from "../../host/daemon/incoming.js";
import { DeviceError } from "../../host/storage/open.js";

const VBD = { domid: 2, devid: 51712 };
const IN_USE = "in use by process 7 (qemu); stop it";
const busy = (): DeviceError => new DeviceError(constants.errno.EBUSY, "/a", IN_USE, 7);

/** Opens that fail so many times. */
function disk(times: number, error: () => Error = busy) {
  let tries = 0;
  return {
    get tries() {
      return tries;
    },
    async open(): Promise<string> {
      if (++tries <= times) throw error();
      return "open";
    },
  };
}

test("the disk of a guest that comes is waited for, and one line says so", async () => {
  const incoming = new Incoming(async () => "web--incoming", 60_000);
  const said: string[] = [];
  const reasons = new Set<string | undefined>();
  const { open } = disk(3);
  const watched = async (): Promise<string> => {
    reasons.add(incoming.outageOf(VBD)?.reason);
    return open();
  };
  assert.equal(await incoming.open(VBD, watched, (line) => void said.push(line)), "open");
  const line = `/a: ${IN_USE}; its guest migrates to this host, which waits up to 60 s for the disk`;
  assert.deepEqual(said, [line]);
  assert.deepEqual([...reasons], [undefined, line]);
  assert.equal(incoming.outageOf(VBD), null);
});

test("all other disks are refused at once", async () => {
  for (const name of ["web", "web--incoming2", null]) {
    const incoming = new Incoming(async () => name, 60_000);
    const { open } = disk(1);
    await assert.rejects(incoming.open(VBD, open, assert.fail), { message: `/a: ${IN_USE}` });
  }
  const incoming = new Incoming(async () => "web--incoming", 60_000);
  const missing = disk(1, () => new DeviceError(constants.errno.ENOENT, "/a", "no such file"));
  await assert.rejects(incoming.open(VBD, missing.open, assert.fail), /no such file/);
});

test("the wait has an end, and can be given up", async () => {
  const late = new Incoming(async () => "web--incoming", 1);
  const error = { errno: constants.errno.EBUSY, holder: 7, path: "/a" };
  await assert.rejects(
    late.open(VBD, disk(Number.POSITIVE_INFINITY).open, () => {}),
    { ...error, message: `/a: ${IN_USE}; waited 0.001 s for the host that the guest comes from` },
  );
  const incoming = new Incoming(async () => "web--incoming", 60_000);
  const never = disk(Number.POSITIVE_INFINITY);
  const wait = incoming.open(VBD, never.open, () => incoming.giveUp(VBD));
  await assert.rejects(wait, { ...error, message: `/a: ${IN_USE}` });
  assert.equal(never.tries, 2);
});
