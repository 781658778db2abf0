import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Blkfront, BlkfrontOptions } from "../../host/guest/blkfront.js";
import type { BackendOptions } from "./backend.js";
import { pattern, withBackend } from "./setup.js";

const limit = { timeout: 120_000 };
const BACKEND = { sectors: 2048, maxOrder: 4, maxQueues: 4, indirect: 256, persistent: true };
const FRONT = "/local/domain/7/device/vbd/51712";

const CASES: { name: string; front: Partial<BlkfrontOptions>; back?: BackendOptions; keys: string }[] = [
  {
    name: "one page, one queue",
    front: {},
    keys: "event-channel=1 feature-persistent=1 protocol=x86_64-abi ring-ref=100",
  },
  {
    name: "order 2, 32 bits, no persistent grants",
    front: { ringPageOrder: 2, abi: "x86_32", persistent: false },
    keys:
      "event-channel=1 feature-persistent=0 protocol=x86_32-abi ring-page-order=2 " +
      "ring-ref0=100 ring-ref1=101 ring-ref2=102 ring-ref3=103",
  },
  {
    name: "two queues, native",
    front: { queues: 2, abi: "native" },
    keys:
      "feature-persistent=1 multi-queue-num-queues=2 queue-0/event-channel=1 queue-0/ring-ref=100 " +
      "queue-1/event-channel=2 queue-1/ring-ref=101",
  },
  {
    name: "two queues of two pages, a protocol of its own",
    front: { queues: 2, ringPageOrder: 1, protocol: "arm-abi" },
    keys:
      "feature-persistent=1 multi-queue-num-queues=2 protocol=arm-abi queue-0/event-channel=1 " +
      "queue-0/ring-ref0=100 queue-0/ring-ref1=101 queue-1/event-channel=2 queue-1/ring-ref0=102 " +
      "queue-1/ring-ref1=103 ring-page-order=1",
  },
  {
    name: "more than a plain backend has",
    front: { queues: 8, ringPageOrder: 4 },
    back: { sectors: 2048 },
    keys: "event-channel=1 feature-persistent=1 protocol=x86_64-abi ring-ref=100",
  },
];

for (const { name, front, back, keys } of CASES) {
  test(`what the frontend writes: ${name}`, limit, async () => {
    await withBackend(back ?? BACKEND, async ({ xenstore, connect }) => {
      await connect(front);
      const mine = xenstore.log.filter((line) => line.startsWith(FRONT) || line.length === 1);
      const from = mine.findIndex((line) => line.startsWith(FRONT));
      const to = mine.indexOf("]", from);
      const published = mine.slice(from, to).map((line) => line.slice(FRONT.length + 1));
      assert.equal(mine[from - 1], "[");
      assert.equal(published.sort().join(" "), keys);
      assert.deepEqual(
        mine.slice(to + 1).filter((line) => line.length > 1),
        [`${FRONT}/state=3`, `${FRONT}/state=4`],
      );
    });
  });
}

test("the keys of an earlier connection are not left beside the new ones", limit, async () => {
  await withBackend(BACKEND, async ({ xenstore, connect }) => {
    for (const key of ["ring-ref0", "ring-page-order", "queue-0/ring-ref", "num-ring-pages"])
      xenstore.nodes.set(`${FRONT}/${key}`, "9");
    xenstore.nodes.set(`${FRONT}/ring-ref`, "");
    await connect();
    const left = [...xenstore.nodes.keys()].filter((key) => key.startsWith(FRONT));
    assert.deepEqual(left.map((key) => key.slice(FRONT.length + 1)).sort(), [
      "backend",
      "backend-id",
      "event-channel",
      "feature-persistent",
      "protocol",
      "ring-ref",
      "state",
    ]);
  });
});

test("effective values are clamped to what the backend offers", limit, async () => {
  const front = { queues: 8, ringPageOrder: 4, indirect: true, persistent: true };
  const back = { sectors: 2048, maxOrder: 1, maxQueues: 3, indirect: 16, persistent: false };
  await withBackend(back, async ({ connect }) => {
    const disk = await connect(front);
    assert.deepEqual(disk.negotiated, {
      abi: "x86_64",
      ringPageOrder: 1,
      ringEntries: 64,
      queues: 3,
      indirectSegments: 16,
      persistent: false,
    });
    assert.equal(disk.preferredTransfer, 65536);
  });
  await withBackend({ ...back, indirect: 11 }, async ({ connect }) => {
    const disk = await connect(front);
    assert.equal(disk.negotiated.indirectSegments, 0);
    assert.equal(disk.preferredTransfer, 45056);
  });
});

test("what the backend says of the disk", limit, async () => {
  const keys = {
    "physical-sector-size": "4096",
    "feature-discard": "1",
    "discard-secure": "1",
    "discard-granularity": "65536",
    "feature-flush-cache": null,
    "feature-barrier": "1",
  };
  await withBackend({ sectors: 4096, sectorSize: 4096, info: 4, keys }, async ({ connect }) => {
    const disk = await connect();
    assert.equal(disk.size, 4096 * 512);
    assert.equal(disk.sectorSize, 4096);
    assert.equal(disk.physicalSectorSize, 4096);
    assert.equal(disk.readOnly, true);
    assert.equal(disk.canFlush, true);
    assert.equal(disk.canDiscard, true);
    assert.equal(disk.canSecureDiscard, true);
    assert.equal(disk.description.discardGranularity, 65536);
    await assert.rejects(disk.write(0, new Uint8Array(4096)), { code: "EROFS" });
    await assert.rejects(disk.read(512, new Uint8Array(4096)), { code: "EINVAL" });
  });
});

test("a handshake that gets stuck names both states, and takes everything back", limit, async () => {
  await withBackend(BACKEND, async ({ backend, xenstore, pages, events, connect }) => {
    await backend.setState(3);
    const stuck =
      /is at Initialised \(3\), not at InitWait \(2\), .*frontend is at Initialising \(1\), after 50 ms/;
    await assert.rejects(connect({ timeoutMs: 50 }), stuck);
    await backend.setState(2);
    const failing = connect();
    xenstore.nodes.set("/local/domain/0/error/backend/vbd/7/51712/error", "16 the image is in use");
    await backend.xenstore.watch(`${FRONT}/state`, () => {
      if (xenstore.nodes.get(`${FRONT}/state`) === "3") void backend.setState(5);
    });
    await assert.rejects(
      failing,
      /Closing \(5\), not at Connected \(4\).*Initialised \(3\).*16 the image is in use/,
    );
    assert.equal(pages.usedFrames, 0);
    assert.equal(pages.grants.size, 0);
    assert.equal(events.ports.size, 0);
  });
});

test("bad and missing keys are named", limit, async () => {
  const cases: [Record<string, string | null>, RegExp][] = [
    [{ sectors: null }, /sectors does not exist/],
    [{ sectors: "many" }, /sectors is "many": a decimal number/],
    ...["256", "520", "1536", "8192"].map((size): [Record<string, string>, RegExp] => [
      { "sector-size": size },
      new RegExp(`sector-size is ${size}: it can be 512, 1024, 2048, 4096`),
    ]),
    [{ sectors: "2049", "sector-size": "4096" }, /not a whole number of 4096-byte sectors/],
  ];
  for (const [keys, what] of cases) {
    await withBackend({ sectors: 2048, keys }, async ({ pages, connect }) => {
      await assert.rejects(connect(), what);
      assert.equal(pages.grants.size, 0);
      assert.equal(pages.usedFrames, 0);
    });
  }
});

test("a disk that is not attached is named", limit, async () => {
  await withBackend(BACKEND, async ({ xenstore, connect }) => {
    await xenstore.remove(FRONT);
    await assert.rejects(connect(), /domain 7 has no disk 51712/);
  });
});

test("close returns every grant, frame, port and watch", limit, async () => {
  for (const persistent of [false, true]) {
    await withBackend({ ...BACKEND, persistent }, async ({ xenstore, pages, events, connect }) => {
      const watches = xenstore.watches;
      const disk = await connect({ queues: 2, ringPageOrder: 1 });
      await disk.write(0, pattern(300_000 - (300_000 % 512), 1));
      assert.ok(pages.grants.size >= 4);
      const reading = disk.read(0, new Uint8Array(65536));
      const states = xenstore.log.length;
      assert.deepEqual(await disk.close(), { grantsInUse: 0 });
      await reading;
      assert.equal(pages.grants.size, 0);
      assert.equal(pages.usedFrames, 0);
      assert.equal(events.ports.size, 0);
      assert.equal(xenstore.watches, watches);
      const written = xenstore.log.slice(states).filter((line) => line.includes("/state="));
      assert.deepEqual(
        written.map((line) => `${line.includes("backend") ? "back" : "front"} ${line.at(-1)}`),
        ["front 5", "back 5", "front 6", "back 6"],
      );
      await assert.rejects(disk.read(0, new Uint8Array(512)), { code: "EIO", message: /closed/ });
      assert.deepEqual(await disk.close(), { grantsInUse: 0 });
    });
  }
});

test("close tells of grants that the backend keeps", limit, async () => {
  await withBackend({ sectors: 2048, persistent: true }, async ({ backend, pages, connect }) => {
    const disk = await connect();
    await disk.write(0, new Uint8Array(4096));
    const [ref] = [...pages.grants.keys()].slice(-1);
    pages.map(ref, true);
    assert.deepEqual(await disk.close(), { grantsInUse: 1 });
    assert.ok(pages.usedFrames > 0, "a page that the backend can write is not used again");
    assert.equal(backend.rings.length, 0);
  });
});

test("close gives up on a backend that does not follow", limit, async () => {
  await withBackend({ sectors: 2048 }, async ({ backend, connect }) => {
    const disk = await connect({ timeoutMs: 50 });
    await backend.setState(7);
    const late = /Reconfiguring \(7\), not at Closing \(5\) or Closed \(6\).*\(1 grants still in use\)/;
    await assert.rejects(disk.close(), late);
  });
});

test("reconnect, and connecting over what an earlier kernel left", limit, async () => {
  await withBackend(BACKEND, async ({ xenstore, connect, backend }) => {
    const disk = await connect({ queues: 2 });
    const data = pattern(8192, 3);
    await disk.write(4096, data);
    for (let i = 0; i < 5; i++) {
      assert.deepEqual(await disk.reconnect(), { grantsInUse: 0 });
      const into = new Uint8Array(8192);
      await disk.read(4096, into);
      assert.deepEqual(into, data);
    }
    await disk.close();
    assert.equal(xenstore.nodes.get(`${FRONT}/state`), "6");
    const next = await connect();
    assert.equal(xenstore.nodes.get(`${FRONT}/state`), "4");
    await next.flush();
    assert.equal(backend.rings.length, 1);
  });
});

test("a new size is seen when the backend writes Connected again", limit, async () => {
  await withBackend({ sectors: 2048 }, async ({ backend, xenstore, connect }) => {
    const disk = await connect();
    await assert.rejects(disk.read(2048 * 512, new Uint8Array(512)), { code: "EINVAL" });
    const resized = new Promise((resolve) => (disk.onResize = resolve));
    xenstore.nodes.set(`${backend.back}/sectors`, "4096");
    await backend.setState(4);
    assert.equal(await resized, 4096 * 512);
    assert.equal(disk.size, 4096 * 512);
  });
});

const ENDS: [
  name: string,
  end: (disk: Blkfront, b: { setState(n: number): Promise<void> }) => Promise<void>,
][] = [
  ["Closing", (_, b) => b.setState(5)],
  ["Closed", (_, b) => b.setState(6)],
];
for (const [name, end] of ENDS) {
  test(`a backend that goes to ${name} fails pending and later calls`, limit, async () => {
    await withBackend({ sectors: 2048 }, async ({ backend, connect }) => {
      const disk = await connect({ timeoutMs: 300 });
      backend.silent = true;
      let failures = 0;
      disk.onFailure = () => failures++;
      const calls = Array.from({ length: 100 }, (_, i) => disk.read(i * 4096, new Uint8Array(4096)));
      const outcome = Promise.allSettled(calls);
      await end(disk, backend);
      const gone = new RegExp(`went to ${name}`);
      for (const result of await outcome) {
        assert.equal(result.status, "rejected");
        assert.match(result.reason.message, gone);
        assert.equal(result.reason.code, "EIO");
      }
      await assert.rejects(disk.flush(), gone);
      assert.equal(disk.pending, 0);
      assert.equal(failures, 1);
      assert.equal(disk.broken, null);
    });
  });
}

test("a backend whose node is removed fails pending calls", limit, async () => {
  await withBackend({ sectors: 2048 }, async ({ backend, xenstore, connect }) => {
    const disk = await connect({ timeoutMs: 300 });
    backend.silent = true;
    const reading = disk.read(0, new Uint8Array(512));
    await xenstore.remove(backend.back);
    await assert.rejects(reading, /went to Unknown \(0\)/);
  });
});

test("a backend that is silent for a while only delays", limit, async () => {
  await withBackend({ sectors: 2048 }, async ({ backend, connect }) => {
    const disk = await connect();
    backend.silent = true;
    const data = pattern(4096, 5);
    const writing = disk.write(0, data);
    assert.equal(await Promise.race([writing, sleep(100, "silent")]), "silent");
    backend.silent = false;
    for (const ring of backend.rings) backend.serve(ring);
    await writing;
    assert.deepEqual(backend.disk.slice(0, 4096), data);
  });
});
