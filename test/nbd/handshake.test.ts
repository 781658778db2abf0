import assert from "node:assert/strict";
import { mkdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { NbdServer } from "../../host/guest/nbd/server.js";
import { MemoryDisk } from "./memory-disk.js";
import { CMD, infoData, OPTION, RawClient, request, u16, u32 } from "./raw-client.js";
import { serve, withDirectory } from "./serve.js";

const limit = { timeout: 120_000 };
const ACK = 1;
const ERR_UNSUP = 0x80000001;
const ERR_INVALID = 0x80000003;
const ERR_UNKNOWN = 0x80000006;
const FLAGS = { has: 1, readOnly: 2, flush: 4, fua: 8, trim: 32, zeroes: 64, df: 128, multi: 256 };

async function flagsOf(path: string, structured: boolean): Promise<number> {
  const client = await RawClient.greet(path);
  if (structured) await client.option(OPTION.structured);
  const replies = await client.option(OPTION.info, infoData(""));
  client.close();
  return replies[0].data.readUInt16BE(10);
}

test("the greeting is fixed newstyle without zeroes", limit, () =>
  serve(new MemoryDisk(), async ({ path }) => {
    const client = await RawClient.connect(path);
    const greeting = await client.take(18);
    assert.equal(greeting.toString("latin1", 0, 16), "NBDMAGICIHAVEOPT");
    assert.equal(greeting.readUInt16BE(16), 3);
    client.close();
  }),
);

test("EXPORT_NAME answers size and flags, padded unless NO_ZEROES was agreed on", limit, () =>
  serve(new MemoryDisk({ size: 3 << 20 }), async ({ path }) => {
    for (const [clientFlags, padding] of [
      [3, 0],
      [1, 124],
    ]) {
      const client = await RawClient.greet(path, clientFlags);
      client.sayOption(OPTION.exportName);
      const answer = await client.take(10 + padding);
      assert.equal(answer.readBigUInt64BE(0), 3n << 20n);
      assert.equal(answer.readUInt16BE(8), 1 | 4 | 8 | 32 | 64 | 256);
      assert.ok(answer.subarray(10).every((byte) => byte === 0));
      client.say(request(CMD.read, 7, 0, 512));
      assert.equal((await client.reply(512)).cookie, 7n);
      client.close();
    }
  }),
);

test("EXPORT_NAME of another export ends the connection", limit, () =>
  serve(new MemoryDisk(), async ({ path }) => {
    const client = await RawClient.greet(path);
    client.sayOption(OPTION.exportName, Buffer.from("other"));
    assert.equal((await client.rest()).byteLength, 0);
  }),
);

test("INFO tells export, block sizes, and name and description when asked", limit, () =>
  serve(
    new MemoryDisk({ sectorSize: 512, physicalSectorSize: 16384 }),
    async ({ path }) => {
      const client = await RawClient.greet(path);
      const plain = await client.option(OPTION.info, infoData(""));
      assert.deepEqual(
        plain.map(({ type, data }) => [type, type === 3 ? data.readUInt16BE(0) : -1]),
        [
          [3, 0],
          [3, 3],
          [ACK, -1],
        ],
      );
      assert.deepEqual(plain[0].data.subarray(2, 10), Buffer.from("0000000000100000", "hex"));
      const sizes = plain[1].data;
      assert.deepEqual(
        [2, 6, 10].map((at) => sizes.readUInt32BE(at)),
        [512, 16384, 32 << 20],
      );
      const asked = await client.option(OPTION.info, infoData("", 1, 2, 3, 99));
      const texts = asked.filter(({ data }) => data.byteLength && [1, 2].includes(data.readUInt16BE(0)));
      assert.deepEqual(
        texts.map(({ data }) => data.toString("utf8", 2)),
        ["", "a disk"],
      );
      client.close();
    },
    { description: "a disk" },
  ),
);

test("flags say what the disk can do", limit, async () => {
  const base = FLAGS.has | FLAGS.multi;
  const all = base | FLAGS.flush | FLAGS.fua | FLAGS.trim | FLAGS.zeroes;
  await serve(new MemoryDisk(), async ({ path }) => {
    assert.equal(await flagsOf(path, false), all);
    assert.equal(await flagsOf(path, true), all | FLAGS.df);
  });
  await serve(new MemoryDisk({ canFlush: false, canDiscard: false }), async ({ path }) =>
    assert.equal(await flagsOf(path, false), base | FLAGS.zeroes),
  );
  await serve(new MemoryDisk({ readOnly: true }), async ({ path }) =>
    assert.equal(await flagsOf(path, false), base | FLAGS.readOnly | FLAGS.flush | FLAGS.fua),
  );
});

test("LIST shows the default export; ABORT is acknowledged and ends", limit, () =>
  serve(
    new MemoryDisk(),
    async ({ path }) => {
      const client = await RawClient.greet(path);
      const [entry, ack] = await client.option(OPTION.list);
      assert.equal(entry.type, 2);
      assert.deepEqual(entry.data, Buffer.from("\0\0\0\0a disk"));
      assert.equal(ack.type, ACK);
      assert.deepEqual(
        (await client.option(OPTION.abort)).map((reply) => reply.type),
        [ACK],
      );
      await client.rest();
    },
    { description: "a disk" },
  ),
);

test("what is unknown, malformed or out of turn is refused, and haggling goes on", limit, () =>
  serve(new MemoryDisk(), async ({ path }) => {
    const client = await RawClient.greet(path);
    const meta = (name: string, ...queries: string[]) =>
      Buffer.concat([
        u32(name.length),
        Buffer.from(name),
        u32(queries.length),
        ...queries.flatMap((query) => [u32(query.length), Buffer.from(query)]),
      ]);
    const expect = async (type: number, option: number, data?: Uint8Array) =>
      assert.equal((await client.option(option, data)).at(-1)?.type, type, `option ${option}`);
    await expect(ERR_UNSUP, OPTION.startTls);
    await expect(ERR_UNSUP, 12);
    await expect(ERR_UNSUP, 0xffffffff, Buffer.alloc(100));
    await expect(ERR_INVALID, OPTION.list, u32(1));
    await expect(ERR_INVALID, OPTION.structured, u32(1));
    await expect(ERR_INVALID, OPTION.go);
    await expect(ERR_INVALID, OPTION.go, Buffer.concat([u32(0xffffffff), u16(0)]));
    await expect(ERR_INVALID, OPTION.go, Buffer.concat([u32(0), u16(9), u16(3)]));
    await expect(ERR_UNKNOWN, OPTION.go, infoData("other"));
    await expect(ERR_UNKNOWN, OPTION.info, infoData("other"));
    await expect(ERR_INVALID, 10, meta(""));
    await expect(ACK, OPTION.structured);
    await expect(ACK, 10, meta(""));
    await expect(ACK, 11, meta("", "base:allocation", "x-a:b"));
    await expect(ERR_UNKNOWN, 11, meta("other", "base:allocation"));
    await expect(ERR_INVALID, 11, Buffer.concat([u32(0), u32(0xffffffff)]));
    await expect(ERR_INVALID, 11, u32(0));
    await expect(ACK, OPTION.go, infoData(""));
    client.say(request(CMD.status, 1, 0, 512));
    assert.equal((await client.reply()).error, 22);
    client.close();
  }),
);

test("the socket is private, its URI escaped, and it is gone after close", limit, () =>
  withDirectory(async (directory) => {
    const odd = join(directory, "a b&c=d%");
    await mkdir(odd);
    const path = join(odd, "s.sock");
    const server = await NbdServer.listen(new MemoryDisk(), path);
    assert.equal((await stat(path)).mode & 0o777, 0o600);
    assert.equal(server.uri, `nbd+unix:///?socket=${directory}/a%20b%26c%3Dd%25/s.sock`);
    assert.equal(new URL(server.uri).searchParams.get("socket"), path);
    await server.close();
    await server.close();
    await assert.rejects(stat(path), { code: "ENOENT" });
  }),
);

test("a dead server's socket is replaced; a live one's and other files are not", limit, () =>
  withDirectory(async (directory) => {
    const path = join(directory, "s.sock");
    const first = await NbdServer.listen(new MemoryDisk(), path);
    await assert.rejects(NbdServer.listen(new MemoryDisk(), path), { code: "EADDRINUSE" });
    await first.close();

    const other = createServer().listen(join(directory, "other"));
    await new Promise((resolve) => other.once("listening", resolve));
    await rename(join(directory, "other"), path);
    await new Promise((resolve) => other.close(resolve));
    const second = await NbdServer.listen(new MemoryDisk(), path);
    (await RawClient.ready(path)).close();
    await second.close();

    await writeFile(path, "precious");
    await assert.rejects(NbdServer.listen(new MemoryDisk(), path), { code: "EADDRINUSE" });
    assert.equal(await readFile(path, "utf8"), "precious");
    await assert.rejects(
      NbdServer.listen(new MemoryDisk(), join(directory, "x".repeat(120))),
      /shorter path/,
    );
  }),
);
