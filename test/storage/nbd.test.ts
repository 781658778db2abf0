/** Requests to an NBD server: what goes over the wire, in parts, out of order, with errors. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type BlockDevice, Result } from "../../host/storage/device.js";
import { FLUSHED_FOR_BYTES, MOST_UNFLUSHED_BYTES } from "../../host/storage/kept-writes.js";
import type { NbdDevice } from "../../host/storage/nbd/device.js";
import { type NbdOptions, openNbd } from "../../host/storage/nbd/open.js";
import { u32, u64 } from "../nbd/raw-client.js";
import { until } from "../vbd/harness.js";
import {
  discard,
  fill,
  flush,
  gather,
  LIMIT,
  type Outcome,
  pattern,
  read,
  scatter,
  write,
} from "./helpers.js";
import {
  ALL,
  type Asked,
  CMD,
  honest,
  type Offer,
  type Peer,
  type Script,
  SEND,
  scripted,
} from "./nbd-server.js";

const MIB = 1 << 20;
const SIZE = 8 * MIB;
const FUA = 1;

export async function open(
  t: TestContext,
  script: Script,
  options: Partial<NbdOptions> = {},
): Promise<{ device: NbdDevice; lines: string[] }> {
  const lines: string[] = [];
  let device: NbdDevice | null = null;
  // While its server is there.
  t.after(() => device?.close());
  const { uri } = await scripted(t, script);
  const warn = (line: string): void => void lines.push(line);
  device = await openNbd(uri, { readOnly: false, warn, ...options });
  return { device, lines };
}

/** A server that answers requests as the test does. */
const answering =
  (answer: (peer: Peer, asked: Asked) => boolean, offer: Partial<Offer> = {}): Script =>
  async (peer) => {
    await peer.handshake({ size: SIZE, ...offer });
    await honest(peer, Buffer.alloc(SIZE), (asked) => answer(peer, asked));
  };

for (const structured of [true, false]) {
  test(`reads, writes and trims, ${structured ? "structured" : "simple"} replies`, LIMIT, async (t) => {
    const disk = Buffer.alloc(SIZE);
    const { device } = await open(t, async (peer) => {
      await peer.handshake({ size: SIZE, structured });
      await honest(peer, disk, ({ command, cookie, position, length }) => {
        if (structured || command !== CMD.read) return false;
        peer.simple(cookie, 0, disk.subarray(position, position + length));
        return true;
      });
    });
    const data = pattern(MIB + 4096 + 512);
    const lengths = [4096, 512, 512 * 1024, 4096, 512 * 1024 - 4096];
    assert.equal((await write(device, 3584, fill(scatter(...lengths), data))).result, Result.Success);
    assert.deepEqual(disk.subarray(3584, 3584 + data.length), data);
    const back = scatter(...lengths.toReversed());
    assert.equal((await read(device, 3584, back)).result, Result.Success);
    assert.deepEqual(gather(back), data);
    assert.equal((await discard(device, 0, 8192)).result, Result.Success);
    assert.ok(disk.subarray(0, 8192).every((byte) => byte === 0));
    assert.deepEqual(disk.subarray(8192, 12288), data.subarray(8192 - 3584, 12288 - 3584));
    assert.equal((await flush(device)).result, Result.Success);
  });
}

test("many requests are under way at once, and are answered in any order", LIMIT, async (t) => {
  const waiting: Asked[] = [];
  const { device } = await open(
    t,
    answering((peer, asked) => {
      if (asked.command !== CMD.read) return false;
      if (waiting.push(asked) < 64) return true;
      for (const { cookie, position, length } of waiting.splice(0).toReversed()) {
        peer.chunk(cookie, 1, 1, u64(position), Buffer.alloc(length, position / 512));
      }
      return true;
    }),
  );
  const vectors = Array.from({ length: 64 }, () => scatter(512));
  const outcomes = await Promise.all(vectors.map((to, i) => read(device, i * 512, to)));
  assert.ok(outcomes.every(({ result }) => result === Result.Success));
  for (const [i, to] of vectors.entries()) assert.ok(gather(to).every((byte) => byte === i));
});

test("an operation goes in as many requests as the server's maximum asks for", LIMIT, async (t) => {
  const disk = Buffer.alloc(SIZE);
  const seen: [number, number, number][] = [];
  const { device } = await open(t, async (peer) => {
    await peer.handshake({ size: SIZE, blocks: [512, 4096, 10_000] });
    await honest(peer, disk, ({ command, position, length }) => {
      if (command !== CMD.disc) seen.push([command, position, length]);
      return false;
    });
  });
  const data = pattern(24 * 1024);
  assert.equal((await write(device, 512, fill(scatter(8192, 8192, 8192), data))).result, Result.Success);
  const parts = [
    [512, 9728],
    [10240, 9728],
    [19968, 5120],
  ];
  assert.deepEqual(
    seen,
    parts.map((part) => [CMD.write, ...part]),
  );
  assert.deepEqual(disk.subarray(512, 512 + data.length), data);
  const back = scatter(512, 24 * 1024 - 512);
  assert.equal((await read(device, 512, back)).result, Result.Success);
  assert.deepEqual(gather(back), data);
});

test("a read's data come in pieces, in any order, and as holes", LIMIT, async (t) => {
  const data = pattern(4096);
  const { device } = await open(
    t,
    answering((peer, { command, cookie, position }) => {
      if (command !== CMD.read) return false;
      peer.chunk(cookie, 0, 1, u64(position + 3072), data.subarray(3072));
      peer.chunk(cookie, 0, 2, u64(position + 512), u32(1536));
      peer.chunk(cookie, 0, 1, u64(position), data.subarray(0, 512));
      peer.chunk(cookie, 0, 1, u64(position + 2048), data.subarray(2048, 3072));
      peer.chunk(cookie, 1, 0);
      return true;
    }),
  );
  const to = fill(scatter(512, 1024, 2560), Buffer.alloc(4096, 0xee));
  assert.equal((await read(device, 4096, to)).result, Result.Success);
  assert.deepEqual(
    gather(to),
    Buffer.concat([data.subarray(0, 512), Buffer.alloc(1536), data.subarray(2048)]),
  );
});

test("FUA where the server has it, a flush behind the write where not", LIMIT, async (t) => {
  for (const flags of [ALL, ALL & ~SEND.fua]) {
    const seen: [number, number][] = [];
    const { device } = await open(
      t,
      answering(
        (_, { command, flags }) => {
          seen.push([command, flags]);
          return false;
        },
        { flags },
      ),
    );
    const { result } = await new Promise<Outcome>((resolve) =>
      device.writeThrough(0, scatter(512), (result, error) => resolve({ result, error })),
    );
    assert.equal(result, Result.Success);
    const wanted =
      flags & SEND.fua
        ? [[CMD.write, FUA]]
        : [
            [CMD.write, 0],
            [CMD.flush, 0],
          ];
    assert.deepEqual(seen, wanted);
  }
});

test("a server without flush or trim is not asked for them", LIMIT, async (t) => {
  const seen: number[] = [];
  const { device } = await open(
    t,
    answering(
      (_, { command }) => {
        seen.push(command);
        return false;
      },
      { flags: 1 },
    ),
  );
  assert.equal((await write(device, 0, scatter(512))).result, Result.Success);
  assert.equal((await flush(device)).result, Result.Success);
  assert.equal((await discard(device, 0, 512)).result, Result.Unsupported);
  assert.deepEqual(seen, [CMD.write]);
});

test("the server's errors are the guest's, with the server's words", LIMIT, async (t) => {
  const errors = new Map([
    [0, 5],
    [512, 1],
    [1024, 95],
    [1536, 28],
    [2048, 4711],
  ]);
  const { device } = await open(
    t,
    answering((peer, { command, cookie, position }) => {
      if (command === CMD.disc) return false;
      if (command === CMD.read) peer.fail(cookie, errors.get(position) ?? 5, "it burns");
      else peer.simple(cookie, errors.get(position) ?? 5);
      return true;
    }),
  );
  const results = async (run: (device: BlockDevice, position: number) => Promise<Outcome>) =>
    Promise.all([...errors.keys()].map((position) => run(device, position)));
  const reads = await results((device, position) => read(device, position, scatter(512)));
  const wanted = [Result.Failure, Result.ReadOnly, Result.Unsupported, Result.Failure, Result.Failure];
  assert.deepEqual(
    reads.map(({ result }) => result),
    wanted,
  );
  assert.match(reads[0].error?.message ?? "", /^read 512 bytes at 0 of nbd\+unix:.*: EIO: it burns$/);
  const writes = await results((device, position) => write(device, position, scatter(512)));
  assert.deepEqual(
    writes.map(({ result }) => result),
    wanted,
  );
  assert.match(writes[3].error?.message ?? "", /^write 512 bytes at 1536 of .*: ENOSPC$/);
  assert.equal((await discard(device, 0, 512)).result, Result.Failure);
});

test("an error after some of the data is an error", LIMIT, async (t) => {
  const { device } = await open(
    t,
    answering((peer, { command, cookie, position }) => {
      if (command !== CMD.read) return false;
      peer.chunk(cookie, 0, 1, u64(position), Buffer.alloc(512));
      peer.chunk(cookie, 0, 0x8002, u32(5), Buffer.from([0, 3]), Buffer.from("bad"), u64(position + 512));
      peer.chunk(cookie, 1, 0);
      return true;
    }),
  );
  const { result, error } = await read(device, 0, scatter(1024));
  assert.equal(result, Result.Failure);
  assert.match(error?.message ?? "", /EIO: bad$/);
});

test("a flush that fails has failed for good", LIMIT, async (t) => {
  let flushes = 0;
  const { device } = await open(
    t,
    answering((peer, { command, cookie }) => {
      if (command !== CMD.flush) return false;
      peer.simple(cookie, flushes++ === 0 ? 5 : 0);
      return true;
    }),
  );
  assert.equal((await flush(device)).result, Result.Failure);
  for (const outcome of [
    await flush(device),
    await write(device, 0, scatter(512)),
    await discard(device, 0, 512),
  ]) {
    assert.equal(outcome.result, Result.Failure);
    assert.match(outcome.error?.message ?? "", /written data may be lost; nothing more is written/);
  }
  assert.equal((await read(device, 0, scatter(512))).result, Result.Success);
  assert.equal(flushes, 1);
  assert.equal(device.flushErrno, 5);
});

test(
  "a guest that never flushes is flushed for while it goes on, and in the end waits for it",
  LIMIT,
  async (t) => {
    let flushes = 0;
    let answer = (): void => {};
    const { device } = await open(
      t,
      answering((peer, { command, cookie }) => {
        if (command !== CMD.flush || ++flushes > 1) return false;
        answer = () => void peer.simple(cookie, 0);
        return true;
      }),
    );
    const from = scatter(MIB);
    const writeMany = async (bytes: number): Promise<void> => {
      for (let at = 0; at < bytes; at += MIB)
        assert.equal((await write(device, at % SIZE, from)).result, Result.Success);
    };
    await writeMany(FLUSHED_FOR_BYTES - MIB);
    assert.equal(flushes, 0);
    await writeMany(MIB);
    await until("it is flushed for", () => flushes === 1);
    // What describes them takes some of the memory, too.
    await writeMany(MOST_UNFLUSHED_BYTES - FLUSHED_FOR_BYTES - MIB);
    let done = false;
    const last = write(device, 0, from).then(() => (done = true));
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.deepEqual({ done, flushes }, { done: false, flushes: 1 });
    answer();
    await last;
    // What was written beside the first flush is not flushed by it.
    await writeMany(MIB);
    await until("it is flushed for again", () => flushes === 2);
  },
);

test("it says goodbye when it is closed", LIMIT, async (t) => {
  let goodbyes = 0;
  const { device } = await open(t, async (peer) => {
    await peer.handshake({ size: SIZE });
    await honest(peer, Buffer.alloc(SIZE));
    goodbyes++;
  });
  await write(device, 0, scatter(512));
  await device.close();
  await until("the server hears the goodbye", () => goodbyes === 1);
});
