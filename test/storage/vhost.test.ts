/** Requests to a vhost-user-blk server: what is agreed, what goes over the virtqueue, and in which parts. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { type TestContext, test } from "node:test";
import { type BlockDevice, Result } from "../../host/storage/device.js";
import { openDisk } from "../../host/storage/disk.js";
import { bit, Feature, Protocol, Request } from "../../host/storage/vhost-user/abi.js";
import { CONTROL_BYTES, Control, mapArea, sliceAt } from "../../host/storage/vhost-user/area.js";
import { openVhostUser, type VhostOptions } from "../../host/storage/vhost-user/open.js";
import { QueueState } from "../../host/storage/vhost-user/store.js";
import { until } from "../vbd/harness.js";
import { discard, fill, flush, gather, LIMIT, pattern, read, scatter, write } from "./helpers.js";
import { FEATURES, PROTOCOL, type Script, type Served, vhostServer } from "./vhost-server.js";

const MIB = 1 << 20;

async function open(
  t: TestContext,
  script: Script,
  options: Partial<VhostOptions> = {},
): Promise<Served & { device: BlockDevice; lines: string[] }> {
  const lines: string[] = [];
  let device: BlockDevice | null = null;
  // While its server is there.
  t.after(() => device?.close());
  const served = await vhostServer(t, script);
  const warn = (line: string): void => void lines.push(line);
  device = await openVhostUser(served.target, served.path, { readOnly: false, warn, ...options });
  return { ...served, device, lines };
}

for (const [name, features] of [
  ["all that qemu offers", FEATURES],
  ["no indirect descriptors", FEATURES & ~bit(Feature.indirect)],
  ["no event index", FEATURES & ~bit(Feature.eventIndex)],
] as const) {
  test(`reads, writes, flushes and discards: ${name}`, LIMIT, async (t) => {
    const disk = Buffer.alloc(8 * MIB);
    const { device, servers } = await open(t, { disk, features });
    assert.equal(device.size, disk.length);
    const data = pattern(MIB + 4096 + 512);
    const lengths = [4096, 512, 512 * 1024, 4096, 512 * 1024 - 4096];
    assert.equal((await write(device, 3584, fill(scatter(...lengths), data))).result, Result.Success);
    assert.deepEqual(disk.subarray(3584, 3584 + data.length), data);
    const back = scatter(...lengths.toReversed());
    assert.equal((await read(device, 3584, back)).result, Result.Success);
    assert.deepEqual(gather(back), data);
    assert.equal((await flush(device)).result, Result.Success);
    assert.equal((await discard(device, 0, 8192)).result, Result.Success);
    assert.ok(disk.subarray(0, 8192).every((byte) => byte === 0));
    assert.deepEqual(disk.subarray(8192, 12288), data.subarray(8192 - 3584, 12288 - 3584));
    assert.deepEqual(
      servers[0].requests.filter(({ type }) => type === Request.flush || type === Request.discard).length,
      2,
    );
  });
}

test("a queue that was in use before begins anew, before the server hears of it", LIMIT, async (t) => {
  const { device, servers } = await open(t, { disk: Buffer.alloc(MIB) });
  for (let i = 0; i < 3; i++) {
    const lease = (await device.takeQueue?.(1)) ?? assert.fail("no queue");
    const { index, state } = lease.store;
    const { memoryFd } = new QueueState(state);
    await until("the server has the queue", () => (servers[0].queues.get(index)?.callFd ?? -1) >= 0);
    assert.equal(servers[0].queues.get(index)?.answered, 0);
    const control = mapArea(memoryFd, sliceAt(index), CONTROL_BYTES);
    new Uint16Array(control.bytes)[(Control.used + 2) >> 1] = 531;
    control.close();
    await lease.release();
  }
});

test("more operations than the ring holds are under way at once, answered in any order", LIMIT, async (t) => {
  const waiting: (() => void)[] = [];
  const { device } = await open(t, {
    disk: Buffer.from(Array.from({ length: MIB / 512 }, (_, i) => Array(512).fill(i & 0xff)).flat()),
    serves(asked, server) {
      waiting.push(() => server.answer(asked));
      if (waiting.length === 200) for (const answer of waiting.splice(0).toReversed()) answer();
      return true;
    },
  });
  const vectors = Array.from({ length: 600 }, () => scatter(512));
  const outcomes = await Promise.all(vectors.map((to, i) => read(device, i * 512, to)));
  assert.ok(outcomes.every(({ result }) => result === Result.Success));
  for (const [i, to] of vectors.entries()) assert.ok(gather(to).every((byte) => byte === (i & 0xff)));
});

test("the server's sectors and limits are kept to", LIMIT, async (t) => {
  const disk = Buffer.alloc(MIB);
  const config = { blockSize: 4096, segMax: 8, sizeMax: 10_000, maxDiscard: 20 };
  const { device, servers, lines } = await open(t, { disk, config });
  assert.equal(device.sectorSize, 4096);
  assert.match(lines[0], /sectors of 4096 bytes; not every guest can boot from them/);
  const data = pattern(96 * 1024);
  assert.equal((await write(device, 8192, fill(scatter(data.length), data))).result, Result.Success);
  assert.deepEqual(disk.subarray(8192, 8192 + data.length), data);
  // 8 segments of 8192 bytes.
  assert.deepEqual(
    servers[0].requests.map(({ sector, lengths }) => [sector, lengths]),
    [
      [16, Array(8).fill(8192)],
      [144, Array(4).fill(8192)],
    ],
  );
  assert.equal((await discard(device, 0, 40 * 1024)).result, Result.Success);
  // Discards of 16 sectors, as 20 are not whole sectors of the disk.
  assert.equal(servers[0].requests.length, 2 + 5);
});

test(
  "WRITE_ZEROES discards where there is no DISCARD, and nothing where it frees no space",
  LIMIT,
  async (t) => {
    const features = FEATURES & ~bit(Feature.discard);
    const { device, servers } = await open(t, { features, disk: Buffer.alloc(MIB, 1) });
    assert.equal(device.canDiscard, true);
    assert.equal((await discard(device, 4096, 4096)).result, Result.Success);
    assert.deepEqual(servers[0].requests, [{ type: Request.writeZeroes, sector: 0, lengths: [16] }]);
    const { device: other } = await open(t, { features, config: { mayUnmap: false } });
    assert.equal(other.canDiscard, false);
    assert.equal((await discard(other, 0, 4096)).result, Result.Unsupported);
  },
);

test("a server without flush is told of, and flushes cost nothing", LIMIT, async (t) => {
  const { device, lines, servers } = await open(t, { features: FEATURES & ~bit(Feature.flush) });
  assert.match(lines.join(), /the server has no flush/);
  assert.equal((await flush(device)).result, Result.Success);
  assert.equal(servers[0].requests.length, 0);
});

test("a read-only server is refused to who wants to write", LIMIT, async (t) => {
  const features = FEATURES | bit(Feature.readOnly);
  const { target } = await vhostServer(t, { features });
  await assert.rejects(openDisk(target, { readOnly: false }), /read-only; attach it read-only/);
  const device = await openDisk(target, { readOnly: true });
  t.after(() => device.close());
  assert.equal((await write(device, 0, scatter(512))).result, Result.ReadOnly);
  assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
});

test("a disk that grows is seen to, when the server says so and when it is asked", LIMIT, async (t) => {
  const { device, servers } = await open(t, { disk: Buffer.alloc(2 * MIB), config: { bytes: MIB } });
  assert.equal(await device.refreshSize(), false);
  servers[0].resize(2 * MIB);
  await until("the device knows of it", () => device.refreshSize());
  assert.equal(device.size, 2 * MIB);
  assert.equal((await read(device, MIB, scatter(MIB))).result, Result.Success);
  // One that cannot say so is asked.
  const protocol = PROTOCOL & ~bit(Protocol.backendRequest);
  const { device: other, servers: others } = await open(t, { protocol, config: { bytes: MIB } });
  others[0].config = { ...others[0].config, bytes: MIB + 512 };
  assert.equal(await other.refreshSize(), true);
  assert.equal(other.size, MIB + 512);
});

for (const [why, script, wanted] of [
  ["no VIRTIO 1", { features: FEATURES & ~bit(Feature.version1) }, /does not offer VIRTIO 1/],
  ["no CONFIG", { protocol: PROTOCOL & ~bit(Protocol.config) }, /is it a vhost-user-blk server\?/],
  ["no queue", { queues: 0 }, /offers 0 queues/],
  ["odd sectors", { config: { blockSize: 768 } }, /sectors of 768 bytes; only 512 to 4096/],
  ["large sectors", { config: { blockSize: 8192 } }, /sectors of 8192 bytes; only 512 to 4096/],
  ["no segments", { config: { segMax: 0 } }, /limits, 0 segments/],
  ["short segments", { config: { sizeMax: 100 } }, /segments of 100 bytes, do not allow/],
  ["an empty disk", { config: { bytes: 0 } }, /disk is empty/],
  ["an endless disk", { config: { bytes: 2 ** 62 } }, /less than 8 PiB/],
] as const) {
  test(`a server is refused in one line: ${why}`, LIMIT, async (t) => {
    const { target } = await vhostServer(t, script);
    await assert.rejects(openDisk(target, { readOnly: false }), (error: Error) => {
      assert.ok(error.message.startsWith(`${target}: `), error.message);
      assert.match(error.message, wanted);
      return true;
    });
  });
}

test("no socket, nobody listening, a file, a server that says nothing", LIMIT, async (t) => {
  const { target, path } = await vhostServer(t, { hears: () => true });
  const open = (options = {}) => openVhostUser(target, path, { readOnly: false, ...options });
  await assert.rejects(
    open({ dialMs: 50 }),
    /does not answer message 1 within 0.05 s; .* is there another one\?/,
  );
  await assert.rejects(openDisk(`${target}.not`, { readOnly: false }), /no such file/);
  // Somebody else's would be refused before.
  writeFileSync(`${path}.file`, "");
  await assert.rejects(openDisk(`${target}.file`, { readOnly: false }), /no server listens/);
});
