import assert from "node:assert/strict";
import { test } from "node:test";
import type { Answer, BackendOptions, ReferenceBackend } from "./backend.js";
import { withBackend } from "./setup.js";

const CASES: [
  name: string,
  what: RegExp,
  act: (b: ReferenceBackend) => void,
  options?: Partial<BackendOptions>,
][] = [
  ["an id out of range", /out of range \(0x40\)/, (b) => (b.tamper = (a) => ({ ...a, id: 64n }))],
  [
    "the lower half of the id only",
    /no pending request/,
    (b) => (b.tamper = (a) => ({ ...a, id: a.id & 0xffffffffn })),
  ],
  [
    "a request that is not pending",
    /no pending request/,
    (b) => (b.tamper = (a) => ({ ...a, id: a.id ^ 31n })),
  ],
  [
    "another operation",
    /wrong operation \(3 instead of 0\)/,
    (b) => (b.tamper = (a) => ({ ...a, operation: 3 })),
  ],
  ["the same response twice", /no pending request/, (b) => (b.tamper = twice())],
  ["too many responses", /illegal number of responses/, (b) => (b.tamper = (a) => tooMany(b, a))],
  ["a grant in use", /still has its grant \d+ in use/, () => {}, { holdGrants: true }],
];

function twice(): (answer: Answer) => Answer {
  let first: Answer | null = null;
  return (answer) => (first ??= answer);
}

function tooMany(backend: ReferenceBackend, answer: Answer): Answer {
  const [ring] = backend.rings;
  ring.rspProdPvt = (ring.rspProdPvt + ring.entries) >>> 0;
  return answer;
}

for (const [name, what, act, options] of CASES) {
  test(`the disk is disabled after ${name}`, { timeout: 120_000 }, async () => {
    await withBackend({ sectors: 2048, ...options }, async ({ backend, connect }) => {
      const disk = await connect({ persistent: false, timeoutMs: 300 });
      act(backend);
      let told: Error | null = null;
      disk.onFailure = (error) => (told = error);
      const reads = Array.from({ length: 50 }, () => disk.read(0, new Uint8Array(4096)));
      const results = await Promise.allSettled(reads);
      const failed = results.filter((r) => r.status === "rejected");
      assert.ok(failed.length > 0);
      for (const { reason } of failed) {
        assert.equal(reason.code, "EIO");
        assert.match(reason.message, what);
        assert.match(reason.message, /disk is disabled/);
      }
      assert.match(disk.broken!.message, what);
      assert.equal(told, failed[0].reason);
      await assert.rejects(disk.read(0, new Uint8Array(512)), what);
      await assert.rejects(disk.flush(), what);
      assert.equal(disk.pending, 0);
    });
  });
}

test("an indirect request must be answered with its inner operation", { timeout: 120_000 }, async () => {
  await withBackend({ sectors: 2048, indirect: 64 }, async ({ backend, connect }) => {
    const disk = await connect({ timeoutMs: 300 });
    await disk.read(0, new Uint8Array(65536));
    assert.equal(disk.broken, null);
    backend.tamper = (answer) => ({ ...answer, operation: 6 });
    await assert.rejects(disk.read(0, new Uint8Array(65536)), /wrong operation \(6 instead of 0\)/);
  });
});

test("a disk that was disabled works again after reconnect", { timeout: 120_000 }, async () => {
  await withBackend({ sectors: 2048 }, async ({ backend, pages, connect }) => {
    const disk = await connect();
    backend.tamper = (answer) => ({ ...answer, operation: 9 });
    await assert.rejects(disk.read(0, new Uint8Array(4096)));
    backend.tamper = null;
    assert.deepEqual(await disk.reconnect(), { grantsInUse: 0 });
    await disk.read(0, new Uint8Array(4096));
    assert.equal(disk.broken, null);
    assert.equal(pages.grants.size, 1);
  });
});
