/** qcow2 images that xbdback starts helpers for: what an idle one costs. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { qemuImg } from "./backing.js";
import type { Plan } from "./measure.js";
import { memoryUse } from "./processes.js";
import { Machine } from "./xbdback.js";

export interface IdleRow {
  readonly name: string;
  /** The images are overlays on one of this size; null where they have no base. */
  readonly base: string | null;
  readonly quick: boolean;
}

export interface IdleResult {
  readonly name: string;
  /** Bytes (PSS): growth of the daemon, and a helper. */
  readonly memoryPerVbd: { readonly daemon: number; readonly helper: number };
}

export const idleRows = (): IdleRow[] => [
  { name: "images/idle/qcow2", base: null, quick: true },
  { name: "images/idle/overlay", base: "16T", quick: false },
];

const VBDS = 8;
const GUEST_MEMORY = 64 << 20;
const IN_FLIGHT = 2 << 20;
const SETTLE_MS = 1000;

export async function measureIdle(
  { name, base }: IdleRow,
  { scratch, serveOptions }: Plan,
): Promise<IdleResult> {
  const files = base === null ? [] : [join(scratch, "idle-base.qcow2")];
  const images = Array.from({ length: VBDS }, (_, i) => join(scratch, `idle-${i}.qcow2`));
  const machine = await Machine.start("writeback", serveOptions);
  try {
    for (const file of files) qemuImg("create", "-q", "-f", "qcow2", file, base!);
    const how = base === null ? [] : ["-b", files[0], "-F", "qcow2"];
    for (const image of images)
      qemuImg("create", "-q", "-f", "qcow2", ...how, image, ...(base === null ? ["1G"] : []));
    for (let i = 0; i < VBDS; i++) await machine.createGuest(i + 1, GUEST_MEMORY);
    await sleep(SETTLE_MS);
    const before = memoryUse(machine.backendPid).pss;
    for (const [i, image] of images.entries())
      await machine.attach(i + 1, `qcow2:${image}`, { ringPageOrder: 2, inFlightBytes: IN_FLIGHT });
    await sleep(SETTLE_MS);
    const daemon = (memoryUse(machine.backendPid).pss - before) / VBDS;
    let helpers = 0;
    for (let i = 0; i < VBDS; i++) helpers += memoryUse((await machine.helperPid(i + 1))!).pss;
    return { name, memoryPerVbd: { daemon, helper: helpers / VBDS } };
  } finally {
    await machine.stop();
    for (const file of [...images, ...files]) rmSync(file, { force: true });
  }
}
