/**
 * A process of its own, because it has few mappings left (vm.max_map_count) under a backend: see map-count.test.ts. Prints as
 * JSON what became of its guest. Arguments: how many mappings it leaves, and how many pages of guests may be mapped.
 */
import { closeSync, openSync, readFileSync } from "node:fs";
import { allocateMemory, type LinearMemory, PAGE_SIZE } from "../../host/core/memory.js";
import { Op } from "../../host/guest/layout.js";
import { addressOf, mapFixed } from "../../host/platform/libc.js";
import { CappedRingHost } from "../../host/reactor/capped.js";
import type { VbdStatus } from "../../host/vbd/status.js";
import { Machine } from "./harness.js";

const countMappings = (): number => readFileSync("/proc/self/maps", "latin1").split("\n").length;
const limit = Number(readFileSync("/proc/sys/vm/max_map_count", "latin1"));

/** Takes all mappings but so many. */
function exhaust(file: string, spare: number): LinearMemory {
  const memory = allocateMemory(limit * 2 * PAGE_SIZE, addressOf);
  const fd = openSync(file, "r+");
  for (let page = 1; countMappings() < limit - spare; ) {
    // Each is one, and what is between it and the next is another.
    const pages = Math.max(1, Math.floor((limit - spare - countMappings()) / 2));
    for (let i = 0; i < pages; i++, page += 2)
      mapFixed(memory.base + page * PAGE_SIZE, PAGE_SIZE, fd, 0, true);
  }
  closeSync(fd);
  return memory;
}

const [spare, mappable] = process.argv.slice(2).map(Number);
const machine = await Machine.start({
  between: (reactor) => new CappedRingHost(reactor, {}, () => {}, { mappable }),
});
machine.image();
await machine.plug();
const guest = await machine.guest();
const disk = await machine.connect(guest);
const filler = exhaust(machine.image("filler", PAGE_SIZE), spare);

// No two neighbours in the ring's memory are neighbours in the guest's: every page is a mapping.
const PAGES = 1000;
const frame = guest.pages.allocate(2 * PAGES);
const refs = Array.from({ length: PAGES }, (_, i) =>
  guest.pages.grant(0, frame + 2 * ((i * 7) % PAGES), false),
);
const statuses = new Map<number, number>();
for (let round = 0; round < 20; round++) {
  for (let i = 0; i + 10 <= PAGES; i += 10) {
    const segments = refs.slice(i, i + 10).map((ref) => ({ ref, first: 0, last: 7 }));
    const status = await disk.submit({ operation: Op.write, sector: BigInt(i), handle: 0, segments });
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
  }
}
const { counters } = machine.status() as VbdStatus;
const { mappedPages } = machine.reactor;
process.stdout.write(
  `${JSON.stringify({ statuses: [...statuses], mappedPages, copies: counters.copies, filler: filler.u8.length })}\n`,
);
await disk.close();
await machine.untilClean();
await machine.close();
process.exit();
