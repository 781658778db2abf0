/** Opening whatever a disk specification's target names. */
import { stat } from "node:fs/promises";
import type { BlockDevice } from "./device.js";
import { type NbdOptions, openNbd } from "./nbd/open.js";
import { isNbdUri, parseNbdUri } from "./nbd/uri.js";
import { type DeviceOptions, openDevice } from "./open.js";

export type DiskOptions = DeviceOptions & NbdOptions;

/** Whether a target is what xl calls one with a script: no path below /dev, but a name that we understand. */
export function isUri(target: string): boolean {
  return isNbdUri(target);
}

/** Opens a raw image, a block device or an NBD export for one user alone. Rejects with a DeviceError. */
export function openDisk(target: string, options: DiskOptions): Promise<BlockDevice> {
  return isNbdUri(target) ? openNbd(target, options) : openDevice(target, options);
}

/** The same for two targets that are the same store, by whatever names; "" for what is not there: to open it says why. */
export async function identityOf(target: string): Promise<string> {
  try {
    if (!isNbdUri(target)) return await fileIdentity(target);
    const { socket, host, port, exportName } = parseNbdUri(target);
    return `${socket === null ? `tcp ${host}:${port}` : await fileIdentity(socket)} export ${exportName}`;
  } catch {
    return "";
  }
}

async function fileIdentity(path: string): Promise<string> {
  const stats = await stat(path, { bigint: true });
  return stats.isBlockDevice() ? `block ${stats.rdev}` : `file ${stats.dev}:${stats.ino}`;
}
