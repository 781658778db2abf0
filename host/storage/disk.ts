/** Opening whatever a disk specification's target names. */
import { realpath, stat } from "node:fs/promises";
import { constants } from "node:os";
import type { BlockDevice } from "./device.js";
import { openHelped } from "./helper/open.js";
import { type NbdOptions, openNbd } from "./nbd/open.js";
import { parseNbdUri } from "./nbd/uri.js";
import { DeviceError, type DeviceOptions, openDevice } from "./open.js";
import { parseSource } from "./source.js";

export type DiskOptions = DeviceOptions & NbdOptions;

/** Opens a source for one user alone. Rejects with a {@link DeviceError}. */
export async function openDisk(target: string, options: DiskOptions): Promise<BlockDevice> {
  const source = parseSource(target);
  if (source === null) {
    throw new DeviceError(
      constants.errno.EINVAL,
      target,
      "is no absolute path, and nothing else that is known",
    );
  }
  if (source.kind === "raw") return openDevice(target, options);
  if (source.kind === "nbd") return openNbd(target, options);
  return openHelped(target, source, options);
}

/** The same for two targets that are the same store, by whatever names; "" for what is not there: to open it says why. */
export async function identityOf(target: string): Promise<string> {
  try {
    const source = parseSource(target);
    if (source?.kind === "raw" || source?.kind === "image") return await fileIdentity(source.path);
    if (source?.kind !== "nbd") return target;
    const { socket, host, port, exportName } = parseNbdUri(target);
    return `${socket === null ? `tcp ${host}:${port}` : await socketIdentity(socket)} export ${exportName}`;
  } catch {
    return "";
  }
}

/** By name: a server that is started again makes another socket there, and serves the same. */
async function socketIdentity(path: string): Promise<string> {
  return `unix ${await realpath(path).catch(() => path)}`;
}

async function fileIdentity(path: string): Promise<string> {
  const stats = await stat(path, { bigint: true });
  return stats.isBlockDevice() ? `block ${stats.rdev}` : `file ${stats.dev}:${stats.ino}`;
}
