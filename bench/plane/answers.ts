/** How long a guest's creation waits for a disk: from the hotplug script's question to the daemon's answer. */
import { execFileSync } from "node:child_process";
import { rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Measured, summary } from "../statistics.js";
import { Machine } from "./xbdback.js";

/** "overlay" exists already; "new-overlay" is created. */
const KINDS = ["raw", "qcow2", "overlay", "new-overlay"] as const;
type Kind = (typeof KINDS)[number];

export interface AnswerRow {
  readonly name: string;
  readonly kind: Kind;
  readonly quick: boolean;
}

export interface AnswerResult {
  readonly name: string;
  readonly kind: Kind;
  /** Milliseconds. */
  readonly answer: Measured;
}

/** What an image may have: ext4 has no files of 16 TiB. */
const DISK_BYTES = 16e12;
const GUEST_MEMORY = 16 << 20;
const QUESTIONS_A_REPEAT = 4;

export function answerRows(): AnswerRow[] {
  return KINDS.map((kind) => ({ name: `answer/${kind}`, kind, quick: true }));
}

/** Rejects with an Error of one line. */
export async function measureAnswers(
  { name, kind }: AnswerRow,
  { scratch, repeats, serveOptions }: AnswerPlan,
): Promise<AnswerResult> {
  const disk = makeDisk(kind, scratch);
  const machine = await Machine.start("writeback", serveOptions);
  try {
    await machine.createGuest(1, GUEST_MEMORY);
    // The first one loads and compiles what the others use.
    await machine.answer(1, disk.target);
    const times: number[] = [];
    for (let i = 0; i < repeats * QUESTIONS_A_REPEAT; i++) {
      if (kind === "new-overlay") rmSync(disk.overlay);
      times.push(await machine.answer(1, disk.target));
    }
    return { name, kind, answer: summary(times)! };
  } finally {
    await machine.stop();
    for (const file of [disk.image, disk.overlay]) rmSync(file, { force: true });
  }
}

interface AnswerPlan {
  readonly scratch: string;
  readonly repeats: number;
  readonly serveOptions: readonly string[];
}

function makeDisk(kind: Kind, scratch: string): { image: string; overlay: string; target: string } {
  const image = join(scratch, "large.img");
  const overlay = join(scratch, "overlay.qcow2");
  if (kind === "qcow2") {
    execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", image, String(DISK_BYTES)]);
    return { image, overlay, target: `qcow2:${image}` };
  }
  writeFileSync(image, "");
  truncateSync(image, DISK_BYTES);
  return { image, overlay, target: kind === "raw" ? image : `cow:${overlay}:${image}` };
}
