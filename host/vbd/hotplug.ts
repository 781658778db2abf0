/** What the toolstack's hotplug script has published: the store, or that it refuses it, or nothing yet. */
import { readFileSync } from "node:fs";
import { isType } from "../storage/calls/file-stats.js";
import { Place } from "../storage/calls/place.js";
import { major, minor } from "../storage/geometry.js";
import type { BackendKeys } from "./backend-keys.js";
import { printable, quote } from "./diagnostics.js";
import { imageOf, type Kind } from "./kind.js";

export type Verdict =
  | { readonly path: string }
  /** What has to come first. `refused` if the script said no. */
  | { readonly waits: string; readonly refused: boolean }
  /** It will never do like this. */
  | { readonly error: Error };

/**
 * Scripts differ in what they say last, and backends in what they wait for: any of `hotplug-status` = connected
 * (tapback), `physical-device-path` (FreeBSD) and `physical-device` (Linux) will do, but not after an error or busy.
 */
export function storeOf(kind: Kind, keys: BackendKeys): Verdict {
  try {
    // Also where the script names the store: an image of another format would be served as if it were raw.
    const image = imageOf(kind, keys.params, keys.cdrom);
    if (!kind.hotplug) {
      return image === null ? waits("the toolstack to write params, which is empty") : { path: image };
    }
    return published(keys, image);
  } catch (error) {
    return { error: error as Error };
  }
}

function published(keys: BackendKeys, image: string | null): Verdict {
  const { cdrom, hotplugStatus, hotplugError, physicalDevicePath, physicalDevice } = keys;
  if (hotplugStatus === "error" || hotplugStatus === "busy") {
    const why = hotplugError ? `: ${printable(hotplugError)}` : "";
    return { waits: `the hotplug script, which reported ${hotplugStatus}${why}`, refused: true };
  }
  // xl changes a drive's medium in params alone.
  if (cdrom && image !== null && hotplugStatus === "connected" && !isLoop(physicalDevicePath))
    return { path: image };
  if (physicalDevicePath) return { path: physicalDevicePath };
  if (physicalDevice) return { path: pathOfDevice(physicalDevice) };
  if (hotplugStatus !== "connected") {
    const status = hotplugStatus === null ? "not there" : quote(hotplugStatus);
    return waits(`the hotplug script (hotplug-status is ${status})`);
  }
  if (image !== null) return { path: image };
  return waits("the hotplug script, which reported connected but wrote no physical-device-path");
}

/** Xen's own script has bound the image to it. */
function isLoop(path: string | null): boolean {
  return path?.startsWith("/dev/loop") ?? false;
}

/** What a hotplug script publishes of a disk; the numbers are what Xen's own looks for when it checks who else has it. */
export async function publishedKeys(path: string): Promise<Record<string, string>> {
  const keys = { "physical-device-path": path };
  const stats = path.startsWith("/") ? await Place.of(path).stat() : null;
  if (stats === null || !isType(stats, "block")) return keys;
  const number = `${major(stats.rdev).toString(16)}:${minor(stats.rdev).toString(16)}`;
  return { ...keys, "physical-device": number };
}

function waits(what: string): Verdict {
  return { waits: what, refused: false };
}

/** `physical-device` is MAJOR:MINOR in hexadecimal, as Linux's scripts write it and xen-blkback reads it. */
function pathOfDevice(value: string): string {
  const match = /^([0-9a-f]{1,8}):([0-9a-f]{1,8})$/i.exec(value);
  if (!match) throw new Error(`physical-device is ${quote(value)}, not MAJOR:MINOR in hexadecimal`);
  const [major, minor] = match.slice(1).map((part) => Number.parseInt(part, 16));
  let uevent: string;
  try {
    uevent = readFileSync(`/sys/dev/block/${major}:${minor}/uevent`, "utf8");
  } catch {
    throw new Error(`physical-device is ${value}: no block device has the number ${major}:${minor}`);
  }
  const name = /^DEVNAME=(.+)$/m.exec(uevent)?.[1];
  if (!name) throw new Error(`physical-device is ${value}: block device ${major}:${minor} has no name`);
  return `/dev/${name}`;
}
