/** The server of a vhost-user disk is lost: what is kept, what is sent again, and when that is given up. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type BlockDevice, Result } from "../../host/storage/device.js";
import { FLUSHED_FOR_BYTES, MOST_UNFLUSHED_BYTES } from "../../host/storage/kept-writes.js";
import type { Patience } from "../../host/storage/patience.js";
import { Message, Request } from "../../host/storage/vhost-user/abi.js";
import { openVhostUser } from "../../host/storage/vhost-user/open.js";
import { until } from "../vbd/harness.js";
import { discard, fill, flush, gather, LIMIT, pattern, read, scatter, write } from "./helpers.js";
import { type Script, vhostServer } from "./vhost-server.js";
import { VolatileServer } from "./vhost-volatile.js";

const MIB = 1 << 20;

async function open(t: TestContext, script: Script, patience: Partial<Patience> = {}) {
  const lines: string[] = [];
  let device: BlockDevice | null = null;
  // While its server is there.
  t.after(() => device?.close());
  const { target, path, servers } = await vhostServer(t, script);
  const warn = (line: string): void => void lines.push(line.replace(`${target}: `, ""));
  device = await openVhostUser(target, path, { readOnly: false, warn, patience });
  return { device, lines, servers };
}

test(
  "what was acknowledged is written again in its order, before what was not answered",
  LIMIT,
  async (t) => {
    const server = new VolatileServer(MIB);
    const { device, lines, servers } = await open(t, server.script);
    const data = (seed: number) => fill(scatter(4096), pattern(4096, seed));
    // Nothing is known of what such a server does for a client that is dead.
    assert.equal(device.fenced, false);
    assert.equal((await write(device, 0, data(1))).result, Result.Success);
    assert.equal((await flush(device)).result, Result.Success);
    for (const [at, seed] of [
      [8192, 2],
      [4096, 3],
      [8192, 4],
    ])
      assert.equal((await write(device, at, data(seed))).result, Result.Success);
    server.dies = () => "before";
    const last = write(device, 8192, data(5));
    await until("it is killed", () => server.kills === 1);
    server.dies = () => null;
    assert.equal((await last).result, Result.Success);
    const sectors = servers.at(-1)!.requests.map(({ type, sector }) => [type, sector]);
    assert.deepEqual(
      sectors,
      [16, 8, 16, 16].map((sector) => [Request.out, sector]),
    );
    assert.equal((await flush(device)).result, Result.Success);
    const stable = Buffer.concat([pattern(4096, 1), pattern(4096, 3), pattern(4096, 5)]);
    assert.deepEqual(server.stable.subarray(0, 12288), stable);
    assert.deepEqual(lines, [
      "the server has closed its connection; 1 requests wait for another connection",
      "connected again; 1 requests are sent again",
    ]);
  },
);

for (const [what, change, says] of [
  [
    "another size",
    { bytes: 2 * MIB },
    /different disk: 2097152 bytes in sectors of 512, not 1048576 bytes in/,
  ],
  [
    "other sectors",
    { blockSize: 4096 },
    /different disk: 1048576 bytes in sectors of 4096, not 1048576 bytes/,
  ],
  ["other limits", { segMax: 3 }, /the server offers its disk with other limits than before/],
] as const) {
  test(`a server that comes back with ${what} is not written to`, LIMIT, async (t) => {
    const server = new VolatileServer(MIB);
    const { device, lines, servers } = await open(t, server.script);
    assert.equal((await write(device, 0, scatter(4096))).result, Result.Success);
    Object.assign(server.script, { config: change });
    server.kill(servers[0]);
    const { result, error } = await read(device, 0, scatter(512));
    assert.equal(result, Result.Failure);
    assert.match(error?.message ?? "", /EIO: the server is lost$/);
    assert.match(lines.at(-1) ?? "", says);
    assert.match(lines.at(-1) ?? "", /; all I\/O fails until the disk is attached again$/);
    assert.match(device.through ?? "", says);
    assert.deepEqual(servers.at(-1)?.requests, []);
    assert.equal((await write(device, 0, scatter(512))).result, Result.Failure);
    assert.ok(device.flushErrno);
  });
}

test(
  "a server that does not come back costs errors in time, and reads succeed when it does",
  LIMIT,
  async (t) => {
    const server = new VolatileServer(MIB);
    const { device, lines, servers } = await open(t, server.script, { reconnectMs: 200 });
    const data = fill(scatter(4096), pattern(4096, 7));
    assert.equal((await write(device, 0, data)).result, Result.Success);
    server.away = true;
    server.kill(servers[0]);
    const began = performance.now();
    const outcomes = await Promise.all([read(device, 0, scatter(512)), write(device, 8192, scatter(512))]);
    assert.ok(performance.now() - began > 150);
    for (const { result, error } of outcomes) {
      assert.equal(result, Result.Failure);
      assert.match(error?.message ?? "", /EIO: no connection to the server within 0.2 s after it was lost$/);
    }
    assert.match(
      device.outage?.reason ?? "",
      /^a vhost-user server is away, connecting again since [0-9:]{8} \(the/,
    );
    assert.match(
      lines.at(-1) ?? "",
      /^no connection within 0.2 s \(the server has closed its connection\); I\/O fails until the server is there/,
    );
    assert.equal((await read(device, 0, scatter(512))).result, Result.Failure);
    server.away = false;
    const back = scatter(4096);
    await until("it reads again", async () => (await read(device, 0, back)).result === Result.Success);
    assert.deepEqual(gather(back), pattern(4096, 7));
    assert.equal((await flush(device)).result, Result.Success);
  },
);

test(
  "a queue that is taken, or given back, while there is no server is no obstacle to the next one",
  LIMIT,
  async (t) => {
    const server = new VolatileServer(MIB);
    const { device, servers } = await open(t, server.script);
    const before = await device.takeQueue!(2);
    server.away = true;
    server.kill(servers[0]);
    await until("it is seen", () => device.outage !== null);
    const meanwhile = await device.takeQueue!(2);
    assert.ok(before && meanwhile && before.store.index !== meanwhile.store.index);
    await before.release();
    server.away = false;
    await meanwhile.release();
    assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
  },
);

test("a flush that failed has failed for good, whatever server comes next", LIMIT, async (t) => {
  let fails = true;
  const { device, servers, lines } = await open(t, {
    disk: Buffer.alloc(MIB),
    serves(asked, server) {
      if (asked.type !== Request.flush || !fails) return false;
      fails = false;
      server.answer(asked, 1);
      return true;
    },
  });
  assert.equal((await write(device, 0, scatter(512))).result, Result.Success);
  assert.equal((await flush(device)).result, Result.Failure);
  servers[0].close();
  assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
  assert.match(lines.at(-1) ?? "", /^connected again/);
  for (const { result, error } of [
    await flush(device),
    await write(device, 0, scatter(512)),
    await discard(device, 0, 512),
  ]) {
    assert.equal(result, Result.Failure);
    assert.match(error?.message ?? "", /written data may be lost; nothing more is written/);
  }
});

test("when a kept write cannot be repeated, nothing more is written", LIMIT, async (t) => {
  let refuses = false;
  const { device, servers, lines } = await open(t, {
    disk: Buffer.alloc(MIB),
    serves(asked, server) {
      if (asked.type !== Request.out || !refuses) return false;
      server.answer(asked, 1);
      return true;
    },
  });
  assert.equal((await write(device, 0, scatter(512))).result, Result.Success);
  refuses = true;
  servers[0].close();
  assert.equal((await flush(device)).result, Result.Failure);
  assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
  assert.equal((await write(device, 0, scatter(512))).result, Result.Failure);
  assert.ok(
    lines.some((line) => /^a write that was acknowledged cannot be repeated; nothing more/.test(line)),
  );
});

test("a guest that never flushes is flushed for, and waits when no more can be kept", LIMIT, async (t) => {
  const held: (() => void)[] = [];
  const server = new VolatileServer(64 * MIB);
  const { serves } = server.script;
  let flushes = 0;
  const { device, servers } = await open(t, {
    ...server.script,
    serves(asked, one) {
      if (asked.type !== Request.flush || ++flushes > 1) return serves!(asked, one);
      held.push(() => serves!(asked, one));
      return true;
    },
  });
  const mib = scatter(MIB);
  const writeTo = async (bytes: number): Promise<void> => {
    for (let at = 0; at < bytes; at += MIB)
      assert.equal((await write(device, at, mib)).result, Result.Success);
  };
  await writeTo(FLUSHED_FOR_BYTES - MIB);
  assert.equal(flushes, 0);
  await writeTo(MIB);
  await until("it is flushed for", () => flushes === 1);
  // What describes them takes some of the memory, too.
  await writeTo(MOST_UNFLUSHED_BYTES - FLUSHED_FOR_BYTES - MIB);
  let done = false;
  const last = write(device, 40 * MIB, fill(scatter(MIB), pattern(MIB, 3))).then(() => (done = true));
  await until(
    "the server has it",
    () => servers[0].requests.at(-1)?.sector === (41 * MIB - 128 * 1024) / 512,
  );
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(done, false);
  // It is neither kept nor done: the next server gets it again.
  server.kill(servers[0]);
  await last;
  assert.equal((await flush(device)).result, Result.Success);
  assert.deepEqual(server.stable.subarray(40 * MIB, 41 * MIB), pattern(MIB, 3));
});

test(
  "what is not flushed when the disk is closed is flushed, also over another connection",
  LIMIT,
  async (t) => {
    const server = new VolatileServer(MIB);
    const { device, servers } = await open(t, server.script);
    assert.equal((await write(device, 0, fill(scatter(512), pattern(512, 9)))).result, Result.Success);
    server.kill(servers[0]);
    await device.close();
    assert.deepEqual(server.stable.subarray(0, 512), pattern(512, 9));
  },
);

test("a request that every server dies of fails, and others are done", LIMIT, async (t) => {
  const server = new VolatileServer(MIB);
  server.dies = ({ sector }) => (sector === 64 ? "before" : null);
  // Long enough for two of them, also where this process waits for a CPU.
  const { device } = await open(t, server.script, { reconnectMs: 2000 });
  const [good, bad] = await Promise.all([
    write(device, 0, fill(scatter(512), pattern(512, 2))),
    read(device, 64 * 512, scatter(512)),
  ]);
  assert.equal(bad.result, Result.Failure);
  assert.equal(good.result, Result.Success);
  assert.ok(server.kills >= 2);
  const reads = async (): Promise<boolean> => (await read(device, 0, scatter(512))).result === Result.Success;
  await until("it reads again", reads);
  assert.equal((await flush(device)).result, Result.Success);
  assert.deepEqual(server.stable.subarray(0, 512), pattern(512, 2));
});

test(
  "a server that does not answer while writes are repeated is lost, and the next one is asked",
  LIMIT,
  async (t) => {
    const server = new VolatileServer(MIB);
    const { serves } = server.script;
    let silent = false;
    const { device, servers } = await open(
      t,
      { ...server.script, serves: (asked, one) => (silent ? true : serves!(asked, one)) },
      { reconnectMs: 3000 },
    );
    assert.equal((await write(device, 0, fill(scatter(512), pattern(512, 4)))).result, Result.Success);
    silent = true;
    server.kill(servers[0]);
    await until("it is asked in vain", () => servers[1]?.requests.length === 1);
    await until("it is given up", () => servers[1].closed);
    silent = false;
    await until("there is another one", () => device.outage === null);
    assert.equal((await flush(device)).result, Result.Success);
    assert.deepEqual(server.stable.subarray(0, 512), pattern(512, 4));
    assert.ok(servers.every(({ messages }) => messages.includes(Message.setMemTable)));
  },
);
