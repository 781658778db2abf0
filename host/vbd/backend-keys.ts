/** The keys of a backend's directory: what the toolstack wrote, and what we publish (blkif.h; facts of libxl). */
import { MAX_SEGMENTS } from "../../assembly/abi.js";
import type { Xenstore } from "../platform/ports.js";
import { parseState, scanNumber, type XenbusState } from "../platform/xenbus-state.js";
import type { BlockDevice } from "../storage/device.js";
import type { OpenOptions } from "../storage/open.js";

/** What we offer before the frontend chooses. */
export interface Features {
  readonly maxQueues: number;
  readonly maxRingPageOrder: number;
  /** 0 offers no indirect requests. */
  readonly maxIndirectSegments: number;
  readonly persistent: boolean;
}

export const DEFAULT_FEATURES: Features = {
  maxQueues: 4,
  maxRingPageOrder: 4,
  maxIndirectSegments: MAX_SEGMENTS,
  persistent: true,
};

/** blkif.h: VDISK_* bits of `info`. */
const VDISK_CDROM = 1;
const VDISK_REMOVABLE = 2;
const VDISK_READONLY = 4;

/** The toolstack's part of the directory, at one moment. */
export interface BackendKeys {
  readonly state: XenbusState;
  readonly online: boolean;
  readonly frontend: string | null;
  readonly frontendId: string | null;
  readonly params: string | null;
  readonly hotplugStatus: string | null;
  readonly hotplugError: string | null;
  readonly physicalDevicePath: string | null;
  readonly physicalDevice: string | null;
  readonly mode: string;
  readonly cdrom: boolean;
  readonly removable: boolean;
  readonly discardEnable: boolean;
  /** libxl lets QEMU open such an image with O_DIRECT. */
  readonly directIoSafe: boolean;
  /** xapi asks us to look at the store's size again. */
  readonly resizeDevice: boolean;
}

/** In one transaction: a directory that is made anew meanwhile must not lend its path to the old one's mode. */
export function readBackendKeys(xenstore: Xenstore, directory: string): Promise<BackendKeys> {
  return xenstore.transaction((t) => readAll((key) => t.read(`${directory}/${key}`)));
}

const TOOLSTACK_KEYS = [
  "state",
  "online",
  "frontend",
  "frontend-id",
  "params",
  "hotplug-status",
  "hotplug-error",
  "physical-device-path",
  "physical-device",
  "mode",
  "device-type",
  "removable",
  "discard-enable",
  "direct-io-safe",
  "resize-device",
] as const;

async function readAll(read: (key: string) => Promise<string | null>): Promise<BackendKeys> {
  const values = await Promise.all(TOOLSTACK_KEYS.map(read));
  const value = (key: (typeof TOOLSTACK_KEYS)[number]): string | null => values[TOOLSTACK_KEYS.indexOf(key)];
  const cdrom = value("device-type") === "cdrom";
  return {
    state: parseState(value("state")),
    online: scanNumber(value("online")) === 1,
    frontend: value("frontend"),
    frontendId: value("frontend-id"),
    params: value("params"),
    hotplugStatus: value("hotplug-status"),
    hotplugError: value("hotplug-error"),
    physicalDevicePath: value("physical-device-path"),
    physicalDevice: value("physical-device"),
    mode: modeFor(value("mode"), cdrom),
    cdrom,
    removable: scanNumber(value("removable")) === 1,
    directIoSafe: scanNumber(value("direct-io-safe")) === 1,
    discardEnable: scanNumber(value("discard-enable")) !== 0,
    resizeDevice: value("resize-device") !== null,
  };
}

/** The mode that counts: nobody writes to a CD-ROM, as xl has it. */
export function modeFor(mode: string | null, cdrom: boolean): string {
  return cdrom ? "r" : (mode ?? "r");
}

/**
 * What a mode allows: "w" and "rw" write, everything else reads, whatever it says (XSA-142). A "!" at the end of a mode
 * that libxl knows leaves out the check for other users.
 */
export function parseMode(mode: string): { readOnly: boolean; shared: boolean } {
  return { readOnly: !/^r?w!?$/.test(mode), shared: /^(r|ro|w|rw)!$/.test(mode) };
}

/** What the toolstack's keys say of how a disk is opened. */
export function howToOpen({
  mode,
  cdrom,
  directIoSafe,
}: Pick<BackendKeys, "mode" | "cdrom" | "directIoSafe">): Omit<OpenOptions, "warn"> {
  return { ...parseMode(mode), cdrom, directIoSafe };
}

/** What the frontend must know before it makes its ring; published before state 2. */
export function offerKeys(features: Features): Record<string, string> {
  const keys: Record<string, string> = {
    "max-ring-page-order": String(features.maxRingPageOrder),
    // The deprecated name of the same, which FreeBSD reads; blkif.h wants both.
    "max-ring-pages": String(1 << features.maxRingPageOrder),
    "multi-queue-max-queues": String(features.maxQueues),
  };
  // "If a backend does not recognize BLKIF_OP_INDIRECT, it should not create" the key (blkif.h).
  if (features.maxIndirectSegments > 0) {
    keys["feature-max-indirect-segments"] = String(features.maxIndirectSegments);
  }
  return keys;
}

/** Names of {@link deviceKeys}. */
export const DEVICE_KEYS = [
  "sectors",
  "info",
  "sector-size",
  "physical-sector-size",
  "feature-flush-cache",
  "feature-barrier",
  "feature-persistent",
  "feature-discard",
  "discard-granularity",
  "discard-alignment",
  "discard-secure",
] as const;

/** What the frontend must know before it uses the disk; published before state 4, all at once. */
export function deviceKeys(
  device: BlockDevice,
  keys: BackendKeys,
  features: Features,
): Record<string, string> {
  const info =
    (keys.cdrom ? VDISK_CDROM : 0) |
    (keys.removable ? VDISK_REMOVABLE : 0) |
    (device.readOnly ? VDISK_READONLY : 0);
  const discard = canDiscard(device, keys);
  const published: Record<string, string> = {
    // Units of 512 bytes, whatever the sector size.
    sectors: String(Math.floor(device.size / 512)),
    info: String(info),
    "sector-size": String(device.sectorSize),
    "physical-sector-size": String(device.physicalSectorSize),
    "feature-flush-cache": "1",
    "feature-barrier": "1",
    "feature-persistent": features.persistent && !device.mapsNoGrants ? "1" : "0",
    "feature-discard": discard ? "1" : "0",
  };
  if (discard) {
    published["discard-granularity"] = String(device.discardGranularity);
    published["discard-alignment"] = String(device.discardAlignment);
    published["discard-secure"] = device.canSecureDiscard ? "1" : "0";
  }
  return published;
}

export function canDiscard(device: BlockDevice, keys: BackendKeys): boolean {
  return keys.discardEnable && device.canDiscard && !device.readOnly;
}
