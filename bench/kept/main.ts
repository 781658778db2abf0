/**
 * `npm run bench:kept`: what it costs to keep a write until it is flushed (docs/restart.md): CPU time of this process for each
 * write, in a file on tmpfs as the daemon has it, and in memory that would end with the process, in turn; and the memory of
 * the file. A disk whose writes are not kept has none of this.
 */
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { KeptWrites, MOST_UNFLUSHED_BYTES } from "../../host/storage/kept-writes.js";
import { median } from "../statistics.js";

const REPEATS = 9;
const BYTES = 256 << 20;
/** A guest's flushes, in bytes. */
const FLUSHED_EACH = 4 << 20;

const directory = mkdtempSync("/dev/shm/xbdback-bench-");
const path = join(directory, "kept");
const file = (): KeptWrites => KeptWrites.create({ path, identity: "", again: false }, () => {});

/** Microseconds of CPU time for each write. */
function measure(kept: KeptWrites, size: number): number {
  const data = [Buffer.alloc(size, 1)];
  const count = BYTES / size;
  const before = process.cpuUsage();
  for (let i = 0; i < count; i++) {
    kept.add(i * size, data, size);
    if ((i * size) % FLUSHED_EACH === 0) kept.forget(kept.mark());
  }
  const { user, system } = process.cpuUsage(before);
  kept.close();
  return (user + system) / count;
}

function memory(): string {
  const kept = file();
  const kib = (): number => statSync(path).blocks / 2;
  const sizes = [kib()];
  while (kept.add(0, [Buffer.alloc(4096)], 4096));
  sizes.push(kib());
  kept.forget(kept.mark());
  kept.tidy();
  kept.tidy();
  sizes.push(kib());
  kept.close();
  const [empty, full, idle] = sizes;
  return `memory of a disk: ${empty} KiB when it is opened, at the most ${full} KiB (of ${MOST_UNFLUSHED_BYTES >> 10}), ${idle} KiB when idle again`;
}

try {
  for (const size of [4096, 16384, 131072]) {
    const times: [number[], number[]] = [[], []];
    for (let i = 0; i < REPEATS; i++) {
      times[0].push(measure(file(), size));
      times[1].push(measure(KeptWrites.make(), size));
    }
    const [kept, volatile] = times.map((all) => median(all).toFixed(2));
    console.log(
      `write of ${size >> 10} KiB: ${kept} us of CPU time in a file, ${volatile} us in memory alone`,
    );
  }
  console.log(memory());
} finally {
  rmSync(directory, { recursive: true });
}
