/** The workload of the demo's guest. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { GuestDisk } from "../../host/guest/disk.js";
import { runWorkload } from "../../host/guest/workload.js";

/** A disk in memory, whose operations end in a later turn. */
function memoryDisk(bytes: number): GuestDisk {
  const content = new Uint8Array(bytes);
  const later = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  return {
    size: bytes,
    sectorSize: 512,
    readOnly: false,
    canDiscard: true,
    async read(position: number, to: Uint8Array) {
      await later();
      to.set(content.subarray(position, position + to.length));
    },
    async write(position: number, from: Uint8Array) {
      await later();
      content.set(from, position);
    },
    async discard(position: number, length: number) {
      await later();
      content.fill(0, position, position + length);
    },
    flush: later,
  } as unknown as GuestDisk;
}

for (const bytes of [512, 64 << 10, 1 << 20]) {
  test(`32 at once on a disk of ${bytes} bytes, which one operation may cover whole`, {
    timeout: 60_000,
  }, async () => {
    for (let seed = 1; seed <= 5; seed++) {
      const { operations } = await runWorkload(memoryDisk(bytes), { operations: 1000, depth: 32, seed });
      assert.equal(operations, 1000);
    }
  });
}
