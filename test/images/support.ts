/** What the tests of disks of all kinds share: other people's programs, and guests at work. */
import { readFileSync } from "node:fs";
import { type TestContext, test } from "node:test";
import type { World } from "../cli/world.js";
import type { Running } from "../e2e/harness.js";
import { absent, type Program } from "../support/programs.js";

export const MIB = 1 << 20;
export const SIZE = 32 * MIB;

/** A test that needs programs of others, and is skipped where one is absent. */
export function withPrograms(
  programs: readonly Program[],
  title: string,
  body: (t: TestContext) => Promise<void>,
): void {
  test(title, { timeout: 180_000, skip: absent(...programs) }, body);
}

/** What a guest's workload says at its end: the hash of the disk that it expects, and has read. */
export async function verified(guest: Running): Promise<string> {
  const outcome = (await guest.outcome(150)).expect(0);
  return outcome.expectMatch(/"event":"verified".*"sha256":"([0-9a-f]{64})"/)[1];
}

export function work(world: World, operations: number): Running {
  return world.start("guest", "--domid", "1", "--workload", String(operations), "--depth", "32");
}

/** Resolves when a workload has done so many operations. */
export async function progress(guest: Running, operations: number): Promise<void> {
  const done = (): number => Number(guest.stdout.match(/.*"done":([0-9]+)/s)?.[1] ?? 0);
  for (let seen = 0; seen < operations; seen = done()) {
    const length = guest.stdout.length;
    await guest.until(new RegExp(`^[^]{${length}}[^]*"done":[0-9]+`));
  }
}

/** The helper's process, which `show` names. */
export async function helperOf(world: World): Promise<number> {
  const { vbd } = await world.json<{ vbd: { through: string } }>("show", "1/xvda");
  return Number(/, process ([0-9]+)/.exec(vbd.through)?.[1]);
}

/** Whether a process is there, and is not one that nobody has waited for. */
export function lives(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}
