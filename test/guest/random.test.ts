/** Random calls, many at once, against an array that remembers what the disk must hold. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Abi, Blkfront } from "../../host/guest/blkfront.js";
import { pattern, withBackend } from "./setup.js";

const SECTORS = 4096;
/** Calls of one batch run at once, so each keeps to a lane of its own. */
const LANES = 8;
const LANE_SECTORS = SECTORS / LANES;

const call = fc.record({
  kind: fc.constantFrom("read", "write", "write", "flush", "discard"),
  sector: fc.nat(LANE_SECTORS - 1),
  sectors: fc.oneof(fc.nat(16), fc.nat(LANE_SECTORS)),
  seed: fc.nat(),
});

const setting = fc.record({
  abi: fc.constantFrom<Abi>("x86_64", "x86_32", "native"),
  persistent: fc.boolean(),
  backPersistent: fc.boolean(),
  indirect: fc.constantFrom<boolean | number>(false, true, 12, 64),
  order: fc.nat(4),
  queues: fc.integer({ min: 1, max: 3 }),
  sectorSize: fc.constantFrom(512, 1024, 2048, 4096),
  shuffle: fc.option(fc.nat(), { nil: undefined }),
  firstIndex: fc.constantFrom(0, 0xfffffff0, 0x7ffffffc),
  inFlightBytes: fc.constantFrom(65536, 8 * 1024 * 1024),
  batches: fc.array(fc.array(call, { minLength: 1, maxLength: LANES }), { minLength: 1, maxLength: 6 }),
});

async function perform(
  disk: Blkfront,
  model: Uint8Array,
  lane: number,
  { kind, sector, sectors, seed }: { kind: string; sector: number; sectors: number; seed: number },
): Promise<void> {
  const align = disk.sectorSize / 512;
  const from = sector - (sector % align);
  const count = Math.min(sectors - (sectors % align), LANE_SECTORS - from);
  const at = (lane * LANE_SECTORS + from) * 512;
  const length = count * 512;
  if (kind === "flush") await disk.flush();
  else if (kind === "discard") {
    model.fill(0, at, at + length);
    await disk.discard(at, length);
  } else if (kind === "write") {
    const data = pattern(length, seed);
    model.set(data, at);
    await disk.write(at, data);
  } else {
    const into = new Uint8Array(length);
    await disk.read(at, into);
    assert.ok(Buffer.compare(into, model.subarray(at, at + length)) === 0, `read at ${at}`);
  }
}

test("a disk holds what was written to it", { timeout: 60_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(setting, async (s) => {
      const back = {
        sectors: SECTORS,
        sectorSize: s.sectorSize,
        maxOrder: 4,
        maxQueues: 3,
        indirect: 256,
        persistent: s.backPersistent,
        keys: { "feature-discard": "1" },
        ...(s.shuffle === undefined ? {} : { shuffle: s.shuffle }),
      };
      await withBackend(back, async ({ backend, pages, connect }) => {
        const { abi, persistent, indirect, queues, firstIndex, inFlightBytes } = s;
        const options = { abi, persistent, indirect, queues, firstIndex, inFlightBytes };
        const disk = await connect({ ...options, ringPageOrder: s.order });
        const model = new Uint8Array(SECTORS * 512);
        for (const batch of s.batches)
          await Promise.all(batch.map((c, lane) => perform(disk, model, lane, c)));
        assert.equal(disk.broken, null);
        assert.equal(disk.counters.requests, disk.counters.responses);
        assert.ok(Buffer.compare(backend.disk, model) === 0, "the disk is not as the model");
        const held = [...pages.grants.values()].length - queues * 2 ** s.order;
        if (!(persistent && s.backPersistent)) assert.equal(held, 0, "grants left over");
        assert.deepEqual(await disk.close(), { grantsInUse: 0 });
        assert.equal(pages.grants.size + pages.usedFrames, 0);
      });
    }),
    { numRuns: 60, interruptAfterTimeLimit: 40_000 },
  );
});
