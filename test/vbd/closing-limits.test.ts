/** A vbd that the toolstack closes has no limits: its guest closes when its last requests have ended. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { openDisk } from "../../host/storage/disk.js";
import { removeVbd } from "../../host/toolstack/vbd.js";
import { DEVID, DOMID, LIMIT, type Machine, onMachine, until } from "./harness.js";

const REQUESTS = 32;
const FLUSH = 3;
/** Of x86_64's ring. */
const FIRST_SLOT = 64;
const SLOT_BYTES = 112;

/** A guest that has sent more flushes than its disk carries out soon. */
async function withQueue(machine: Machine, path: string, iops = 0) {
  const guest = await machine.guest();
  await machine.plug({ path });
  const front = machine.front(guest);
  const keys = await front.ring();
  await front.write(keys);
  await front.state(3);
  await machine.untilState(4);
  await front.state(4);
  if (iops > 0)
    await machine.backend.vbd(`xbdback${DOMID}i${DEVID}`).throttle({ limits: { iops, burst: 0 } });
  for (let i = 0; i < REQUESTS; i++) guest.pages.memory.u8[front.at + FIRST_SLOT + i * SLOT_BYTES] = FLUSH;
  front.reqProd = REQUESTS;
  front.kick(keys);
  await until("a request was taken", () => machine.status()?.counters.flush ?? 0);
  assert.ok(front.rspProd < REQUESTS, `${front.rspProd} responses`);
  return front;
}

/** Detaches a disk from a guest that closes it, like Linux, when all its requests are answered. */
async function detaches(machine: Machine, path: string, iops?: number): Promise<void> {
  const front = await withQueue(machine, path, iops);
  const place = { backendDomid: 0, domid: DOMID, devid: DEVID };
  const removal = removeVbd(machine.xenstore, place, 60_000, false);
  await machine.untilState(5);
  await front.state(5);
  // One a second would take twice as long.
  await until("all requests are answered", () => front.rspProd === REQUESTS, 15_000);
  await front.state(6);
  assert.equal(await removal, "closed");
  await machine.untilClean();
}

const options = { open: openDisk };

test(
  "a disk below limit: is detached at once",
  LIMIT,
  onMachine((machine) => detaches(machine, `limit:iops=1:${machine.image()}`), options),
);

test(
  "a disk below delay: is detached at once",
  LIMIT,
  onMachine((machine) => detaches(machine, `delay:600s:${machine.image()}`), options),
);

test(
  "an operator's limit does not hold for a disk that is detached",
  LIMIT,
  onMachine((machine) => detaches(machine, machine.image(), 0.01), options),
);

test(
  "a disk that is removed by force is released at once, whatever waits in it",
  LIMIT,
  onMachine(async (machine) => {
    await withQueue(machine, `delay:600s:${machine.image()}`);
    await machine.unplug();
    await until("the vbd is gone", () => machine.status() === undefined);
    await machine.untilClean();
  }, options),
);
