import assert from "node:assert/strict";
import { test } from "node:test";
import { pattern, withBackend } from "./setup.js";

const limit = { timeout: 120_000 };
const MIB = 1024 * 1024;

test("a transfer is split at 11 segments, or at the indirect maximum", limit, async () => {
  await withBackend({ sectors: 8192, indirect: 256 }, async ({ backend, connect }) => {
    const sizes = () => backend.seen.splice(0).map((r) => r.segments.length);
    const direct = await connect({ indirect: false });
    await direct.write(0, pattern(11 * 4096, 1));
    assert.deepEqual(sizes(), [11]);
    await direct.write(0, pattern(12 * 4096, 2));
    assert.deepEqual(sizes(), [11, 1]);
    await direct.write(0, pattern(MIB, 3));
    assert.deepEqual(sizes(), [...new Array(23).fill(11), 3]);
    assert.deepEqual(backend.disk.slice(0, MIB), pattern(MIB, 3));
    await direct.close();

    const indirect = await connect({ indirect: true });
    await indirect.write(0, pattern(MIB, 4));
    assert.equal(backend.seen[0].operation, 6);
    assert.equal(backend.seen[0].indirectOperation, 1);
    assert.equal(backend.seen[0].handle, 51712);
    assert.deepEqual(sizes(), [256]);
    await indirect.read(0, new Uint8Array(MIB + 4096));
    assert.equal(backend.seen[0].indirectOperation, 0);
    assert.equal(backend.seen[1].operation, 0);
    assert.deepEqual(sizes(), [256, 1]);
    await indirect.write(0, pattern(11 * 4096, 5));
    assert.equal(backend.seen[0].operation, 1, "11 segments need no indirect page");
    await indirect.close();

    const some = await connect({ indirect: 20 });
    backend.seen.length = 0;
    await some.read(0, new Uint8Array(50 * 4096));
    assert.deepEqual(sizes(), [20, 20, 10]);
  });
});

test("more than one indirect page", limit, async () => {
  await withBackend({ sectors: 32768, indirect: 1100 }, async ({ backend, connect }) => {
    const disk = await connect({ indirect: 1100 });
    const data = pattern(1025 * 4096, 9);
    await disk.write(8192, data);
    assert.equal(backend.seen[0].segments.length, 1025);
    assert.deepEqual(backend.disk.slice(8192, 8192 + data.length), data);
    const into = new Uint8Array(data.length);
    await disk.read(8192, into);
    assert.deepEqual(into, data);
  });
});

test("segments start and end where the data lies in its pages", limit, async () => {
  await withBackend({ sectors: 2048 }, async ({ backend, connect }) => {
    const disk = await connect();
    const shape = (i: number) =>
      backend.seen[i].segments.map(({ first, last }) => `${first}-${last}`).join(" ");
    await disk.write(512, pattern(512, 1));
    assert.equal(shape(0), "1-1");
    await disk.write(7 * 512, pattern(1024, 2));
    assert.equal(shape(1), "7-7 0-0");
    await disk.write(3 * 512, pattern(3 * 4096, 3));
    assert.equal(shape(2), "3-7 0-7 0-7 0-2");
    await disk.read(512, new Uint8Array(11 * 4096));
    assert.equal(backend.seen[3].segments.length, 11);
    assert.equal(shape(4), "0-0");
    assert.equal(backend.seen[4].sector, 88n, "the next request starts at a page border");
  });
});

test("calls beyond a full ring wait in line; one notification serves a tick", limit, async () => {
  await withBackend({ sectors: 4096 }, async ({ backend, events, connect }) => {
    const disk = await connect();
    backend.silent = true;
    await new Promise((resolve) => setImmediate(resolve));
    const before = events.notified;
    const writes = Array.from({ length: 200 }, (_, i) => disk.write(i * 4096, pattern(4096, i)));
    assert.equal(disk.pending, 200);
    assert.equal(disk.counters.requests, 32);
    assert.equal(events.notified, before + 1, "a full ring is pushed at once");
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(events.notified, before + 1);
    backend.silent = false;
    for (const ring of backend.rings) backend.serve(ring);
    await Promise.all(writes);
    for (let i = 0; i < 200; i++)
      assert.deepEqual(backend.disk.slice(i * 4096, i * 4096 + 4096), pattern(4096, i));
    const { requests, responses, segments, notificationsSent, notificationsReceived } = disk.counters;
    assert.deepEqual([requests, responses, segments], [200, 200, 200]);
    assert.ok(notificationsSent <= 10 && notificationsReceived <= 10, JSON.stringify(disk.counters));
    assert.equal(events.notified, notificationsSent);
  });
});

test("calls that follow from answers of one tick are pushed together", limit, async () => {
  await withBackend({ sectors: 4096 }, async ({ connect }) => {
    const disk = await connect();
    await Promise.all(
      Array.from({ length: 16 }, async (_, i) => {
        for (let n = 0; n < 10; n++) await disk.read(i * 4096, new Uint8Array(4096));
      }),
    );
    assert.equal(disk.counters.requests, 160);
    assert.ok(disk.counters.notificationsSent <= 20, `${disk.counters.notificationsSent} notifications`);
  });
});

test("calls without promises start the next ones from their answers", limit, async () => {
  const WORKERS = 48;
  const ROUNDS = 20;
  await withBackend({ sectors: 4096, shuffle: 7 }, async ({ backend, connect }) => {
    const disk = await connect();
    await new Promise<void>((resolve, reject) => {
      let running = WORKERS;
      for (let i = 0; i < WORKERS; i++) {
        const data = new Uint8Array(4096);
        const at = (round: number) => ((i + WORKERS * round) % 512) * 4096;
        const write = (round: number): void => {
          data.set(pattern(4096, at(round) + 1));
          disk.start("write", at(round), data, () => read(round), reject);
        };
        const read = (round: number): void =>
          disk.start("read", at(round), data.fill(0), () => check(round), reject);
        const check = (round: number): void => {
          if (Buffer.compare(data, pattern(4096, at(round) + 1)) !== 0) reject(new Error(`round ${round}`));
          else if (round < ROUNDS) write(round + 1);
          else if (--running === 0) resolve();
        };
        write(0);
      }
    });
    assert.equal(disk.pending, 0);
    assert.equal(backend.seen.length, 2 * WORKERS * (ROUNDS + 1));
  });
});

test("calls without promises fail once each, and those that they start", limit, async () => {
  await withBackend({ sectors: 4096 }, async ({ backend, connect }) => {
    const disk = await connect();
    backend.tamper = (answer) => ({ ...answer, id: 64n });
    const failures: string[] = [];
    await new Promise<void>((resolve) => {
      const data = new Uint8Array(4096);
      const start = (left: number): void =>
        disk.start("read", 0, data, assert.fail, (error) => {
          failures.push(error.message);
          if (left > 0) start(left - 1);
          else if (failures.length === 60) resolve();
        });
      for (let i = 0; i < 20; i++) start(2);
    });
    for (const message of failures) assert.match(message, /out of range .*disk is disabled/);
    assert.equal(disk.pending, 0);
  });
});

test("memory in flight is bounded, and a small guest does with less", limit, async () => {
  for (const persistent of [false, true]) {
    const back = { sectors: 8192, indirect: 64, persistent };
    await withBackend(
      back,
      async ({ backend, pages, connect }) => {
        const disk = await connect({ indirect: 64, persistent });
        backend.silent = true;
        const data = pattern(4 * MIB, 7);
        const writing = disk.write(0, data);
        assert.ok(pages.usedFrames <= 300);
        assert.ok(disk.counters.requests < 10);
        backend.silent = false;
        for (const ring of backend.rings) backend.serve(ring);
        await writing;
        assert.deepEqual(backend.disk.slice(), data);
      },
      300,
    );
  }
});

test("requests are spread over the queues", limit, async () => {
  await withBackend({ sectors: 4096, maxQueues: 3 }, async ({ backend, connect }) => {
    const disk = await connect({ queues: 3 });
    await Promise.all(Array.from({ length: 30 }, (_, i) => disk.read(i * 4096, new Uint8Array(4096))));
    for (const queue of [0, 1, 2]) assert.equal(backend.seen.filter((r) => r.queue === queue).length, 10);
  });
});

test("discards, flushes and barriers", limit, async () => {
  const keys = { "feature-discard": "1", "discard-secure": "1", "feature-barrier": "1" };
  await withBackend({ sectors: 4096, keys }, async ({ backend, connect }) => {
    const disk = await connect({ abi: "x86_32" });
    await disk.write(0, pattern(65536, 1));
    await disk.discard(4096, 8192);
    await disk.discard(0, 512, true);
    await disk.flush();
    await disk.barrier();
    await disk.barrier(65536, pattern(1024, 2));
    const expected = pattern(65536, 1);
    expected.fill(0, 4096, 12288).fill(0, 0, 512);
    assert.deepEqual(backend.disk.slice(0, 65536), expected);
    assert.deepEqual(backend.disk.slice(65536, 66560), pattern(1024, 2));
    assert.deepEqual(
      backend.seen.slice(-5).map((r) => r.operation),
      [5, 5, 3, 2, 2],
    );
    await assert.rejects(disk.barrier(0, new Uint8Array(12 * 4096)), { code: "EINVAL" });
  });
});

test(
  "without flush a barrier does; without either, and without discard, calls are refused",
  limit,
  async () => {
    const keys = { "feature-flush-cache": "0", "feature-barrier": "1" };
    await withBackend({ sectors: 4096, keys }, async ({ backend, connect }) => {
      const disk = await connect();
      await disk.flush();
      assert.equal(backend.seen[0].operation, 2);
      await assert.rejects(disk.discard(0, 512), { code: "EOPNOTSUPP" });
    });
    await withBackend({ sectors: 4096, keys: { "feature-flush-cache": null } }, async ({ connect }) => {
      const disk = await connect();
      assert.equal(disk.canFlush, false);
      await assert.rejects(disk.flush(), { code: "EOPNOTSUPP" });
      await assert.rejects(disk.barrier(), { code: "EOPNOTSUPP" });
    });
  },
);

test("statuses become errors, and what is not supported is not asked for again", limit, async () => {
  await withBackend({ sectors: 8192, keys: { "feature-discard": "1" } }, async ({ backend, connect }) => {
    const disk = await connect({ indirect: false });
    backend.statuses.set(0, -1).set(3, -2).set(5, -2);
    await assert.rejects(disk.read(4096, new Uint8Array(512)), {
      code: "EIO",
      message: "read of 512 bytes at 4096: the backend answered status -1",
    });
    // One failed part fails the whole; what is in line behind it goes on.
    const long = disk.read(0, new Uint8Array(4 * MIB));
    const behind = disk.write(0, pattern(512, 1));
    await assert.rejects(long, { code: "EIO" });
    await behind;
    assert.ok(backend.seen.length < 60, "the rest was not issued");
    await assert.rejects(disk.flush(), { code: "EOPNOTSUPP" });
    await assert.rejects(disk.discard(0, 512), { code: "EOPNOTSUPP" });
    assert.deepEqual([disk.canFlush, disk.canDiscard], [false, false]);
    const asked = backend.seen.length;
    await assert.rejects(disk.flush(), { code: "EOPNOTSUPP" });
    assert.equal(backend.seen.length, asked);
    assert.equal(disk.pending, 0);
  });
});

test("bad arguments are refused, empty ones are done", limit, async () => {
  await withBackend({ sectors: 2048 }, async ({ backend, connect }) => {
    const disk = await connect();
    for (const [at, length] of [
      [1, 512],
      [0, 511],
      [-512, 512],
      [2048 * 512, 512],
      [2047 * 512, 1024],
      [Number.NaN, 512],
    ])
      await assert.rejects(disk.read(at, new Uint8Array(length)), { code: "EINVAL" });
    await disk.read(0, new Uint8Array(0));
    assert.equal(backend.seen.length, 0);
  });
});

test("a full grant table fails the call that needs it, and no other", limit, async () => {
  await withBackend({ sectors: 2048 }, async ({ pages, connect }) => {
    const disk = await connect();
    pages.maxGrants = pages.grants.size + 4;
    await assert.rejects(disk.write(0, new Uint8Array(5 * 4096)), { code: "ENOMEM" });
    await disk.write(0, new Uint8Array(4 * 4096));
    // Calls that are under way give theirs back.
    await Promise.all([0, 1, 2, 3].map((i) => disk.write(i * 12288, new Uint8Array(12288))));
    assert.equal(disk.pending, 0);
    assert.equal(pages.grants.size, 1, "only the ring is granted");
  });
});

test("requests word for word", limit, async () => {
  await withBackend({ sectors: 2048, indirect: 600 }, async ({ backend, pages, connect }) => {
    const disk = await connect();
    const frame = pages.allocate(1);
    const ref = pages.grant(0, frame, false);
    pages.memory.u8.set(pattern(4096, 8), frame * 4096);
    const segments = [{ ref, first: 2, last: 5 }];
    assert.equal(await disk.submit({ operation: 1, sector: 5n, segments, handle: 99 }), 0);
    assert.deepEqual(backend.disk.slice(2560, 2560 + 2048), pattern(4096, 8).slice(1024, 3072));
    assert.equal(backend.seen[0].handle, 99);
    const many = new Array(600).fill({ ref, first: 0, last: 0 });
    assert.equal(await disk.submit({ operation: 0, indirect: true, segments: many }), 0);
    assert.equal(backend.seen[1].segments.length, 600);
    assert.equal(await disk.submit({ operation: 1, sector: 1n << 40n, segments }), -1);
    assert.equal(await disk.submit({ operation: 5, sector: 0n, discard: { sectors: 8n, flag: 0 } }), 0);
    backend.statuses.set(77, -2);
    assert.equal(await disk.submit({ operation: 77 }), -2);
    await assert.rejects(disk.submit({ operation: 0, segments: new Array(4097).fill(many[0]) }), {
      code: "EINVAL",
    });
    assert.equal(pages.endAccess(ref), true);
    pages.free(frame, 1);
  });
});

test("a page is granted for one request, only for reading where that is enough", limit, async () => {
  await withBackend(
    { sectors: 8192, indirect: 64, persistent: false },
    async ({ backend, pages, connect }) => {
      const disk = await connect();
      backend.silent = true;
      const kinds = () => [...pages.grants.values()].slice(1).map((grant) => (grant.readOnly ? "r" : "w"));
      const calls = [disk.write(0, pattern(8192, 1))];
      assert.deepEqual(kinds(), ["r", "r"]);
      calls.push(disk.read(0, new Uint8Array(4096)));
      assert.deepEqual(kinds(), ["r", "r", "w"]);
      calls.push(disk.read(0, new Uint8Array(12 * 4096)));
      assert.deepEqual(kinds().slice(3), [..."wwwwwwwwwwww", "r"]);
      backend.silent = false;
      for (const ring of backend.rings) backend.serve(ring);
      await Promise.all(calls);
      assert.equal(pages.grants.size, 1);
    },
  );
});

test("persistent pages are granted once, read-write, and no more than are needed", limit, async () => {
  await withBackend({ sectors: 8192, indirect: 64, persistent: true }, async ({ pages, connect }) => {
    const disk = await connect();
    for (let i = 0; i < 20; i++) {
      await disk.write(i * 65536, pattern(65536, i));
      await disk.read(i * 65536, new Uint8Array(65536));
    }
    assert.equal(pages.granted, 1 + 16 + 1, "the ring, 16 pages of data, one indirect page");
    assert.ok([...pages.grants.values()].every((grant) => !grant.readOnly && grant.mapped === 1));
  });
});
