/** The memory of a guest that has copied much and is idle now, as the kernel counts it. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { MEMORY_BYTES, SRING } from "../../assembly/abi.js";
import { LIMIT, Machine, until } from "../vbd/harness.js";

const MIB = 1 << 20;
const REQUESTS = 128;

/** Resident bytes of this process's mappings that are as large as a ring's memory but for what is mapped into it. */
function residentInRings(): number {
  let [total, counts] = [0, false];
  for (const line of readFileSync("/proc/self/smaps", "latin1").split("\n")) {
    const [, start, end] = /^([0-9a-f]+)-([0-9a-f]+) rw-p /.exec(line) ?? [];
    const bytes = Number.parseInt(end, 16) - Number.parseInt(start, 16);
    if (/^[0-9a-f]+-/.test(line)) counts = bytes > SRING - MIB && bytes < MEMORY_BYTES + MIB;
    const [, kib] = /^Rss:\s+([0-9]+) kB$/.exec(line) ?? [];
    if (counts && kib) total += Number(kib) * 1024;
  }
  return total;
}

for (const engine of ["io_uring", "libuv"] as const) {
  test(
    `${engine}: after bursts of 1 MiB copies over four queues, an idle disk's memory is back`,
    LIMIT,
    async (t) => {
      const machine = await Machine.start({
        threads: { reactors: 2, engine },
        features: { persistent: false },
      });
      try {
        const guest = await machine.guest(1, 512 * MIB);
        const path = machine.image("disk.img", REQUESTS * MIB);
        await machine.plug({ path });
        const disk = await machine.connect(guest, { queues: 4, inFlightBytes: REQUESTS * MIB });
        const before = residentInRings();
        const bytes = Buffer.alloc(MIB, 7);
        for (let burst = 0; burst < 20 && residentInRings() < 64 * MIB; burst++) {
          await Promise.all(Array.from({ length: REQUESTS }, (_, i) => disk.write(i * MIB, bytes)));
        }
        const touched = residentInRings();
        t.diagnostic(`${before >> 10} KiB before, ${touched >> 10} KiB after the bursts`);
        assert.ok(touched > 32 * MIB);
        await until("the memory is back", () => residentInRings() < before + MIB);
        const read = new Uint8Array(MIB);
        await disk.read(5 * MIB, read);
        assert.ok(read.every((byte) => byte === 7));
        await disk.write(6 * MIB, bytes.fill(9));
        assert.ok(
          readFileSync(path)
            .subarray(6 * MIB, 7 * MIB)
            .every((byte) => byte === 9),
        );
        await disk.close();
        await machine.untilClean();
      } finally {
        await machine.close();
      }
    },
  );
}
