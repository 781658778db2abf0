/** The server of a vhost-user disk is lost under rings in reactor threads: their guest sees a pause, and every byte it wrote. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { random, runWorkload } from "../../host/guest/workload.js";
import type { Patience } from "../../host/storage/patience.js";
import { Request } from "../../host/storage/vhost-user/abi.js";
import { openVhostUser } from "../../host/storage/vhost-user/open.js";
import { type Script, vhostServer } from "../storage/vhost-server.js";
import { VolatileServer } from "../storage/vhost-volatile.js";
import { LIMIT, Machine, until } from "../vbd/harness.js";

const MIB = 1 << 20;

async function start(t: Parameters<typeof vhostServer>[0], script: Script, patience: Partial<Patience> = {}) {
  let machine: Machine | null = null;
  // While its server is there.
  t.after(() => machine?.close());
  const served = await vhostServer(t, script);
  const log: string[] = [];
  const warn = (line: string): void => void log.push(line.replace(`${served.target}: `, ""));
  machine = await Machine.start({
    threads: { reactors: 2, engine: "io_uring" },
    open: (_, options) => openVhostUser(served.target, served.path, { ...options, patience, warn }),
  });
  await machine.plug({ path: served.target });
  return { ...served, machine, log, guest: await machine.guest() };
}

for (const queues of [1, 4]) {
  test(`a server with a volatile cache is killed again and again: ${queues} queues`, LIMIT, async (t) => {
    const server = new VolatileServer(4 * MIB);
    const { machine, guest, log } = await start(t, server.script);
    const front = await machine.connect(guest, { queues });
    const next = random(Number(process.env["XBDBACK_SEED"] ?? 1));
    let left = 50;
    let fruitless = 0;
    server.dies = ({ type }) => {
      if (type === Request.flush) fruitless = 0;
      if (--left > 0) return null;
      // One that always died before all was written again that was not flushed would have the guest wait for ever.
      left = 20 + (next() % 150) + 100 * fruitless++;
      return (["before", "served", "answered"] as const)[next() % 3];
    };
    const chunks: Buffer[] = [];
    await runWorkload(front, { operations: 1500, depth: 32, seed: 1 }, (data) =>
      chunks.push(Buffer.from(data)),
    );
    assert.ok(server.kills > 8, `${server.kills} kills`);
    server.dies = () => null;
    await front.flush();
    assert.deepEqual(server.stable, Buffer.concat(chunks));
    // Some die while what was kept is written again.
    const again = log.filter((line) => /^connected again; [0-9]+ requests are sent again$/.test(line)).length;
    assert.ok(again > 8 && again <= server.kills, `${again} connections after ${server.kills} kills`);
    assert.equal(machine.status()?.lastError ?? null, null);
    await front.close();
    await machine.untilClean();
  });
}

test("while there is no server its guest waits, and the status says for what", LIMIT, async (t) => {
  const server = new VolatileServer(MIB);
  const { machine, guest, servers } = await start(t, server.script);
  const front = await machine.connect(guest, { queues: 2 });
  server.away = true;
  server.kill(servers[0]);
  let written = false;
  const write = front.write(0, Buffer.alloc(4096, 5)).then(() => (written = true));
  await until(
    "it waits",
    () => machine.status()?.inflight === 1 && machine.status()?.storage.state === "waiting",
  );
  assert.match(
    machine.status()?.storage.reason ?? "",
    /^a vhost-user server is away, connecting again since [0-9:]{8} \(/,
  );
  assert.equal(written, false);
  server.away = false;
  await write;
  assert.equal(machine.status()?.storage.state, "ok");
  await front.flush();
  assert.ok(server.stable.subarray(0, 4096).every((byte) => byte === 5));
});
