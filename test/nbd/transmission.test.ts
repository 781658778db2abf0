import assert from "node:assert/strict";
import { test } from "node:test";
import { errorWithCode, gate, MemoryDisk } from "./memory-disk.js";
import { CMD, ERR, FLAG, RawClient, type Reply, request } from "./raw-client.js";
import { eventually, serve } from "./serve.js";

const limit = { timeout: 120_000 };
const MIB = 1 << 20;

function pattern(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i++) bytes[i] = (i * 7 + seed * 131 + (i >> 8)) & 0xff;
  return bytes;
}

/** Runs `body` with a client in transmission, first with structured replies, then without. */
async function eitherWay(
  makeDisk: () => MemoryDisk,
  body: (client: RawClient, disk: MemoryDisk, structured: boolean) => Promise<void>,
): Promise<void> {
  for (const structured of [true, false]) {
    const disk = makeDisk();
    await serve(disk, async ({ path }) => {
      const client = await RawClient.ready(path, structured);
      await body(client, disk, structured);
      client.close();
    });
  }
}

/** The bytes of a read's reply: a structured one has its offset in front. */
function readData(reply: Reply, position: number): Buffer {
  if (!reply.structured) return reply.data;
  assert.equal(reply.type, 1);
  assert.equal(reply.data.readBigUInt64BE(0), BigInt(position));
  return reply.data.subarray(8);
}

test("what is written is read, with the client's cookie", limit, () =>
  eitherWay(
    () => new MemoryDisk(),
    async (client, disk, structured) => {
      const data = pattern(4096);
      client.say(request(CMD.write, 0xfedcba9876543210n, 8192, 4096), data);
      const written = await client.reply();
      assert.deepEqual([written.error, written.cookie], [0, 0xfedcba9876543210n]);
      assert.deepEqual(disk.content.subarray(8192, 12288), data);
      client.say(request(CMD.read, 2, 8192, 4096, structured ? FLAG.df : 0));
      const reply = await client.reply(4096);
      assert.equal(reply.structured, structured);
      assert.deepEqual(readData(reply, 8192), data);
    },
  ),
);

test("a message may come in any pieces", limit, () =>
  serve(new MemoryDisk(), async ({ path }) => {
    const client = await RawClient.ready(path);
    const data = pattern(512);
    client.socket.setNoDelay(true);
    const bytes = Buffer.concat([request(CMD.write, 1, 512, 512), data, request(CMD.read, 2, 512, 512)]);
    for (let at = 0; at < bytes.byteLength; at += 13) {
      client.say(bytes.subarray(at, at + 13));
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.equal((await client.reply()).error, 0);
    assert.deepEqual(readData(await client.reply(), 512), data);
    client.close();
  }),
);

test("zeroes are written, also beyond one piece and over a discarded range", limit, () =>
  eitherWay(
    () => new MemoryDisk({ size: 4 * MIB }),
    async (client, disk) => {
      disk.content.fill(0xff);
      client.say(request(CMD.trim, 1, 0, 4 * MIB));
      assert.equal((await client.reply()).error, 0);
      client.say(request(CMD.zeroes, 2, 512, 3 * MIB, FLAG.noHole));
      assert.equal((await client.reply()).error, 0);
      assert.ok(disk.content.subarray(512, 512 + 3 * MIB).every((byte) => byte === 0));
      assert.equal(disk.content[511], 0xdd);
      assert.equal(disk.content[512 + 3 * MIB], 0xdd);
      client.say(request(CMD.zeroes, 3, 0, 512, FLAG.fastZero));
      assert.equal((await client.reply()).error, ERR.ENOTSUP);
    },
  ),
);

test("FUA flushes after the operation, and FLUSH flushes", limit, () =>
  eitherWay(
    () => new MemoryDisk(),
    async (client, disk) => {
      client.say(request(CMD.write, 1, 0, 512, FLAG.fua), pattern(512));
      await client.reply();
      client.say(request(CMD.trim, 2, 512, 512, FLAG.fua));
      await client.reply();
      client.say(request(CMD.zeroes, 3, 1024, 512, FLAG.fua));
      await client.reply();
      client.say(request(CMD.flush, 4, 0, 0));
      await client.reply();
      client.say(request(CMD.read, 5, 0, 512, FLAG.fua));
      await client.reply(512);
      assert.deepEqual(disk.log, [
        "write 0+512",
        "flush",
        "discard 512+512",
        "flush",
        "write 1024+512",
        "flush",
        "flush",
        "read 0+512",
      ]);
    },
  ),
);

test("what cannot be done is refused without a touch of the disk, and the stream stays in step", limit, () =>
  eitherWay(
    () => new MemoryDisk(),
    async (client, disk, structured) => {
      const expect = async (error: number, bytes: Buffer, data?: Buffer) => {
        client.say(bytes, data ?? Buffer.alloc(0));
        const reply = await client.reply();
        assert.equal(reply.error, error, `command ${bytes.readUInt16BE(6)}: ${reply.message}`);
        assert.equal(reply.structured, structured);
      };
      await expect(ERR.EINVAL, request(CMD.read, 1, MIB, 512));
      await expect(ERR.EINVAL, request(CMD.read, 1, 2n ** 64n - 512n, 512));
      await expect(ERR.EINVAL, request(CMD.read, 1, 0, 0xffffffff));
      await expect(ERR.EINVAL, request(CMD.trim, 1, MIB - 512, 1024));
      await expect(ERR.ENOSPC, request(CMD.write, 1, MIB - 512, 1024), pattern(1024));
      await expect(ERR.ENOSPC, request(CMD.write, 1, 2n ** 64n - 512n, 512), pattern(512));
      await expect(ERR.ENOSPC, request(CMD.zeroes, 1, MIB, 512));
      await expect(ERR.EINVAL, request(CMD.write, 1, 1, 512), pattern(512));
      await expect(ERR.EINVAL, request(CMD.write, 1, 0, 100), pattern(100));
      await expect(ERR.EINVAL, request(CMD.trim, 1, 1, 512));
      await expect(ERR.EINVAL, request(CMD.zeroes, 1, 0, 100));
      await expect(ERR.EINVAL, request(CMD.cache, 1, 0, 512));
      await expect(ERR.EINVAL, request(CMD.status, 1, 0, 512));
      await expect(ERR.EINVAL, request(999, 1, 0, 512));
      await expect(ERR.EINVAL, request(CMD.read, 1, 0, 512, 0x8000));
      if (!structured) await expect(ERR.EINVAL, request(CMD.read, 1, 0, 512, FLAG.df));
      assert.deepEqual(disk.log, []);
      client.say(request(CMD.read, 2, 0, 512));
      assert.equal((await client.reply(512)).error, 0);
    },
  ),
);

test("requests longer than 32 MiB are refused, and their data are skipped", limit, () =>
  serve(new MemoryDisk({ size: 64 * MIB }), async ({ path }) => {
    const client = await RawClient.ready(path);
    client.say(request(CMD.read, 1, 0, 32 * MIB + 512));
    assert.equal((await client.reply()).error, ERR.EINVAL);
    client.say(request(CMD.write, 2, 0, 32 * MIB + 512), Buffer.alloc(32 * MIB + 512));
    assert.equal((await client.reply()).error, ERR.EINVAL);
    client.say(request(CMD.zeroes, 3, 0, 64 * MIB));
    assert.equal((await client.reply()).error, 0);
    client.close();
  }),
);

test("requests of no length succeed and do nothing", limit, () =>
  eitherWay(
    () => new MemoryDisk(),
    async (client, disk) => {
      for (const command of [CMD.read, CMD.write, CMD.trim, CMD.zeroes]) {
        client.say(request(command, 1, 512, 0));
        const reply = await client.reply();
        assert.deepEqual([reply.error, reply.type, reply.data.byteLength], [0, 0, 0]);
      }
      assert.deepEqual(disk.log, []);
    },
  ),
);

test("a read that cuts sectors is widened; a write that does is refused", limit, () =>
  eitherWay(
    () => new MemoryDisk({ sectorSize: 4096 }),
    async (client, disk) => {
      pattern(16384).copy(disk.content);
      for (const [position, length] of [
        [1, 1],
        [4000, 200],
        [512, 8192],
        [4096, 100],
      ]) {
        client.say(request(CMD.read, 1, position, length));
        const data = readData(await client.reply(length), position);
        assert.deepEqual(data, disk.content.subarray(position, position + length));
      }
      assert.equal(disk.log[2], "read 0+12288");
      client.say(request(CMD.write, 2, 512, 512), pattern(512));
      assert.equal((await client.reply()).error, ERR.EINVAL);
    },
  ),
);

test(
  "read-only refuses changes, no flush refuses FLUSH and FUA, no discard refuses TRIM",
  limit,
  async () => {
    await eitherWay(
      () => new MemoryDisk({ readOnly: true }),
      async (client, disk) => {
        for (const command of [CMD.write, CMD.trim, CMD.zeroes]) {
          client.say(request(command, 1, 0, 512), Buffer.alloc(command === CMD.write ? 512 : 0));
          assert.equal((await client.reply()).error, ERR.EPERM);
        }
        assert.deepEqual(disk.log, []);
      },
    );
    await eitherWay(
      () => new MemoryDisk({ canFlush: false, canDiscard: false }),
      async (client) => {
        client.say(request(CMD.flush, 1, 0, 0));
        assert.equal((await client.reply()).error, ERR.EINVAL);
        client.say(request(CMD.write, 2, 0, 512, FLAG.fua), pattern(512));
        assert.equal((await client.reply()).error, ERR.EINVAL);
        client.say(request(CMD.trim, 3, 0, 512));
        assert.equal((await client.reply()).error, ERR.EINVAL);
      },
    );
  },
);

test("a disk's errors keep their meaning and say why", limit, () =>
  eitherWay(
    () => new MemoryDisk(),
    async (client, disk, structured) => {
      for (const [code, expected] of [
        ["EIO", ERR.EIO],
        ["EROFS", ERR.EPERM],
        ["ENOSPC", ERR.ENOSPC],
        ["EOPNOTSUPP", ERR.ENOTSUP],
        ["ENODEV", ERR.EIO],
        ["constructor", ERR.EIO],
      ] as const) {
        disk.before = () => {
          throw errorWithCode(code);
        };
        client.say(request(CMD.read, 1, 0, 512));
        const reply = await client.reply();
        assert.equal(reply.error, expected, code);
        assert.equal(reply.message, structured ? `injected ${code}` : "");
      }
      disk.before = (operation) => {
        if (operation === "flush") throw errorWithCode("EIO");
      };
      client.say(request(CMD.write, 2, 0, 512, FLAG.fua), pattern(512));
      assert.equal((await client.reply()).error, ERR.EIO);
    },
  ),
);

test("replies come in the order in which the disk is done", limit, () => {
  const disk = new MemoryDisk();
  const slow = gate();
  disk.before = (_, position) => (position === 0 ? slow.wait : undefined);
  return serve(disk, async ({ path }) => {
    const client = await RawClient.ready(path);
    client.say(request(CMD.read, 1, 0, 512), request(CMD.read, 2, 512, 512), request(CMD.flush, 3, 0, 0));
    // A flush is at position 0 for the disk: only request 2 passes.
    assert.equal((await client.reply()).cookie, 2n);
    slow.open();
    assert.deepEqual(
      new Set([(await client.reply()).cookie, (await client.reply()).cookie]),
      new Set([1n, 3n]),
    );
    client.close();
  });
});

test("no more than the limits is under way, and everything is answered", limit, () => {
  const disk = new MemoryDisk({ size: 4 * MIB });
  disk.before = () => new Promise((resolve) => setTimeout(resolve, 1));
  const body = async ({ path }: { path: string }) => {
    const client = await RawClient.ready(path);
    const many = 300;
    for (let i = 0; i < many; i++) client.say(request(CMD.read, i, (i % 64) * 4096, 4096));
    const seen = new Set<bigint>();
    for (let i = 0; i < many; i++) seen.add((await client.reply()).cookie);
    assert.equal(seen.size, many);
    assert.ok(disk.mostUnderWay <= 16 && disk.mostUnderWay > 8, `${disk.mostUnderWay} under way`);

    disk.mostBytes = 0;
    for (let i = 0; i < 40; i++) client.say(request(CMD.write, i, 0, 65536), pattern(65536, i));
    for (let i = 0; i < 40; i++) assert.equal((await client.reply()).error, 0);
    assert.ok(disk.mostBytes <= 256 << 10, `${disk.mostBytes} bytes under way`);

    client.say(request(CMD.read, 1, 0, MIB), request(CMD.read, 2, 0, 4096));
    assert.equal((await client.reply()).cookie, 1n, "a long one goes alone");
    assert.equal((await client.reply()).cookie, 2n);
    client.close();
  };
  return serve(disk, body, { maximumRequests: 16, maximumBytes: 256 << 10 });
});

test("DISC lets what is under way be answered, then the server closes", limit, () => {
  const disk = new MemoryDisk();
  const slow = gate();
  disk.before = () => slow.wait;
  return serve(disk, async ({ path, server }) => {
    const client = await RawClient.ready(path);
    client.say(request(CMD.read, 1, 0, 512), request(CMD.disc, 2, 0, 0), request(CMD.read, 3, 0, 512));
    await eventually(() => disk.underWay === 1, "the read is under way");
    slow.open();
    assert.equal((await client.reply()).cookie, 1n);
    assert.equal((await client.rest()).byteLength, 0);
    await eventually(() => server.connections === 0, "the connection is gone");
  });
});

test("a client that closes its sending side gets all its answers", limit, () =>
  serve(
    new MemoryDisk(),
    async ({ path }) => {
      const client = await RawClient.ready(path);
      client.socket.end(Buffer.concat([...Array(20).keys()].map((i) => request(CMD.read, i, 0, 512))));
      for (let i = 0; i < 20; i++) await client.reply();
      await client.rest();
    },
    { maximumRequests: 4 },
  ),
);

test("a flush on one connection covers writes that were answered on another", limit, () => {
  const disk = new MemoryDisk();
  return serve(disk, async ({ path }) => {
    const [a, b] = [await RawClient.ready(path), await RawClient.ready(path)];
    a.say(request(CMD.write, 1, 0, 512), pattern(512));
    await a.reply();
    b.say(request(CMD.flush, 2, 0, 0));
    await b.reply();
    assert.deepEqual(disk.log, ["write 0+512", "flush"]);
    a.close();
    b.close();
  });
});
