import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { gate, MemoryDisk } from "./memory-disk.js";
import { CMD, infoData, OPTION, RawClient, request, u32 } from "./raw-client.js";
import { eventually, serve } from "./serve.js";

const limit = { timeout: 120_000 };
const MIB = 1 << 20;

/** The server still serves, whatever was done to it. */
async function stillServes(path: string): Promise<void> {
  const client = await RawClient.ready(path);
  client.say(request(CMD.read, 1, 0, 512));
  assert.equal((await client.reply()).error, 0);
  client.close();
}

test("bytes that are not NBD end the connection", limit, () =>
  serve(new MemoryDisk(), async ({ path, server }) => {
    const unknownFlags = await RawClient.connect(path);
    unknownFlags.say(u32(0x80000003));
    await unknownFlags.rest();

    const badOption = await RawClient.greet(path);
    badOption.say(Buffer.from("GET / HTTP/1.1\r\n\r\n"));
    assert.equal((await badOption.rest()).byteLength, 0);

    const badRequest = await RawClient.ready(path);
    badRequest.say(Buffer.alloc(28, 0x55));
    assert.equal((await badRequest.rest()).byteLength, 0);

    const hugeOption = await RawClient.greet(path);
    hugeOption.say(Buffer.from("IHAVEOPT"), u32(OPTION.go), u32(0xffffffff));
    assert.equal((await hugeOption.rest()).byteLength, 0);

    await eventually(() => server.connections === 0, "all connections are gone");
    await stillServes(path);
  }),
);

test("a client may leave in the middle of anything", limit, () => {
  const disk = new MemoryDisk();
  return serve(disk, async ({ path, server }) => {
    const session = Buffer.concat([
      u32(3),
      ...[Buffer.from("IHAVEOPT"), u32(OPTION.go), u32(6), infoData("")],
      request(CMD.write, 1, 0, 512),
      Buffer.alloc(512),
    ]);
    for (let cut = 0; cut < session.byteLength; cut += cut < 70 ? 3 : 97) {
      const client = await RawClient.connect(path);
      client.socket.write(session.subarray(0, cut), () => client.close());
    }
    await eventually(() => server.connections === 0, "all connections are gone");
    assert.deepEqual(disk.log, [], "half a write is no write");
    await stillServes(path);
  });
});

test("random bytes in any phase do no harm", limit, () =>
  serve(new MemoryDisk(), async ({ path, server }) => {
    const starts = [RawClient.connect, RawClient.greet, RawClient.ready];
    for (let round = 0; round < 60; round++) {
      const client = await starts[round % starts.length](path);
      const noise = randomBytes(1 + ((round * 37) % 500));
      if (round % 2) request(CMD.read, 1, 0, 512).copy(noise, 0, 0, Math.min(6, noise.byteLength));
      client.socket.end(noise);
      client.socket.resume();
    }
    await eventually(() => server.connections === 0, "all connections are gone");
    await stillServes(path);
  }),
);

test("a client that leaves with requests under way takes nothing along", limit, () => {
  const disk = new MemoryDisk();
  const slow = gate();
  disk.before = () => slow.wait;
  return serve(disk, async ({ path, server }) => {
    const client = await RawClient.ready(path);
    client.say(request(CMD.read, 1, 0, 4096), request(CMD.write, 2, 0, 4096), Buffer.alloc(4096, 1));
    await eventually(() => disk.underWay === 2, "both are under way");
    client.close();
    await new Promise((resolve) => setTimeout(resolve, 30));
    assert.equal(server.connections, 1, "the disk still has operations of this client");
    slow.open();
    await eventually(() => server.connections === 0, "the connection is gone");
    assert.equal(disk.content[4095], 1);
    await stillServes(path);
  });
});

test("a client that never reads is not read either, and does not disturb others", limit, () => {
  const disk = new MemoryDisk({ size: 8 * MIB });
  disk.logging = false;
  let reads = 0;
  disk.before = () => {
    reads++;
  };
  const body = async ({ path, server }: { path: string; server: { connections: number } }) => {
    const client = await RawClient.ready(path);
    client.socket.pause();
    for (let i = 0; i < 5000; i++) client.say(request(CMD.read, i, 0, MIB));
    await new Promise((resolve) => setTimeout(resolve, 200));
    const before = reads;
    assert.ok(before <= 16, `${before} reads of 1 MiB for a client that takes none`);
    await stillServes(path);
    assert.equal(reads, before + 1);
    client.close();
    await eventually(() => server.connections === 0, "the connection is gone");
  };
  return serve(disk, body, { maximumBytes: 4 * MIB });
});

test("a flood of options that nobody reads the answers to is held up", limit, () =>
  serve(
    new MemoryDisk(),
    async ({ path, server }) => {
      const client = await RawClient.greet(path);
      client.socket.pause();
      const option = Buffer.concat([Buffer.from("IHAVEOPT"), u32(OPTION.list), u32(0)]);
      const before = process.memoryUsage().rss;
      client.say(Buffer.concat(Array(200000).fill(option)));
      await new Promise((resolve) => setTimeout(resolve, 200));
      assert.ok(client.socket.writableLength > 0, "the server stopped reading");
      assert.ok(process.memoryUsage().rss - before < 64 * MIB);
      client.close();
      await eventually(() => server.connections === 0, "the connection is gone");
    },
    { description: "d".repeat(1000) },
  ),
);

test("connections beyond the most are closed at once", limit, () =>
  serve(
    new MemoryDisk(),
    async ({ path }) => {
      const first = await RawClient.ready(path);
      const second = await RawClient.connect(path);
      assert.equal((await second.rest()).byteLength, 0);
      first.close();
    },
    { maximumConnections: 1 },
  ),
);

test("close answers what is under way and refuses newcomers", limit, () => {
  const disk = new MemoryDisk();
  const slow = gate();
  disk.before = () => slow.wait;
  return serve(disk, async ({ path, server }) => {
    const idle = await RawClient.ready(path);
    const haggling = await RawClient.greet(path);
    const busy = await RawClient.ready(path);
    busy.say(request(CMD.read, 1, 0, 512), request(CMD.write, 2, 0, 512), Buffer.alloc(100));
    await eventually(() => disk.underWay === 1, "the read is under way");
    const closed = server.close();
    await Promise.all([idle.rest(), haggling.rest()]);
    await assert.rejects(RawClient.connect(path));
    slow.open();
    assert.equal((await busy.reply()).cookie, 1n);
    await busy.rest();
    await closed;
    assert.equal(server.connections, 0);
  });
});

test("close does not wait for ever", limit, () => {
  const disk = new MemoryDisk();
  disk.before = () => new Promise(() => {});
  return serve(
    disk,
    async ({ path, server }) => {
      const client = await RawClient.ready(path);
      client.say(request(CMD.read, 1, 0, 512));
      await eventually(() => disk.underWay === 1, "the read is under way");
      await server.close();
      assert.equal(disk.underWay, 1);
      await client.rest();
    },
    { drainTimeout: 50 },
  );
});

test("long zeroing stops when its client is gone", limit, () => {
  const disk = new MemoryDisk({ size: 64 * MIB });
  disk.before = () => new Promise((resolve) => setTimeout(resolve, 2));
  return serve(disk, async ({ path, server }) => {
    const client = await RawClient.ready(path);
    client.say(request(CMD.zeroes, 1, 0, 64 * MIB));
    await eventually(() => disk.log.length > 2, "zeroing is under way");
    client.close();
    await eventually(() => server.connections === 0, "the connection is gone");
    assert.ok(disk.log.length < 64, `${disk.log.length} pieces`);
  });
});
