/** Whether the storage behind a vbd answers. */
import type { BlockDevice, Outage } from "../storage/device.js";
import type { AgedRing } from "./request-ages.js";

export interface StorageStatus {
  /** "none": the vbd has no disk yet; "waiting": what is asked of the disk is not answered. */
  readonly state: "none" | "opening" | "ok" | "waiting";
  /** Since when it is waiting, in milliseconds since 1970; null in other states. */
  readonly since: number | null;
  /** What it is waiting for; null in other states. */
  readonly reason: string | null;
}

/** A request that takes longer than this is said to be stuck, and not just slow. */
const STUCK_SECONDS = 5;

const noted = (state: "none" | "opening" | "ok"): StorageStatus => ({ state, since: null, reason: null });

/**
 * `device` is the one that is open, `opening` what is being opened, `oldestSeconds` the age of the oldest request, `outage`
 * what opening or closing waits for.
 */
export function storageStatus(
  device: BlockDevice | null,
  opening: string | null,
  oldestSeconds: number | null,
  outage: Outage | null = null,
): StorageStatus {
  if (outage) return { state: "waiting", ...outage };
  if (device === null) return noted(opening === null ? "none" : "opening");
  if (device.outage) return { state: "waiting", ...device.outage };
  if (oldestSeconds === null || oldestSeconds < STUCK_SECONDS) return noted("ok");
  const through = device.through === undefined ? "" : ` (${device.through})`;
  const since = Math.round(Date.now() - oldestSeconds * 1000);
  return { state: "waiting", since, reason: `the disk ${device.name}${through} does not answer` };
}

/** The age of the oldest request of all rings, in seconds; null when none is in flight. */
export function oldestOf(rings: readonly AgedRing[]): number | null {
  const ages = rings.flatMap(({ oldestSeconds }) => (oldestSeconds === null ? [] : [oldestSeconds]));
  return ages.length === 0 ? null : Math.max(...ages);
}
