/** Opening device:MODULE[?NAME=VALUE&…]: a disk that a module of another package supplies. */
import { constants } from "node:os";
import { isType } from "../calls/file-stats.js";
import { Place } from "../calls/place.js";
import { isPowerOfTwo, SECTOR } from "../geometry.js";
import { DeviceError, type OpenOptions } from "../open.js";
import { ModuleDevice } from "./device.js";
import type { Description } from "./messages.js";
import { ModuleThread } from "./thread.js";

const { EACCES, EINVAL, EIO, ENOENT, EROFS } = constants.errno;
const OPEN_MS = 30_000;
const LARGEST_SECTOR = 4096;
const LARGEST_TIMEOUT = 86_400;
/** Write permission of group and others. */
const FOREIGN_WRITE = 0o022;

export interface ModuleOptions extends OpenOptions {
  /** Absolute paths of the modules that may be loaded. Default: none. */
  readonly modules?: readonly string[];
}

export interface ModuleSource {
  readonly kind: "device";
  /** Absolute. */
  readonly path: string;
  readonly query: string;
}

/** Null for what is no such target. */
export function parseModuleTarget(text: string): ModuleSource | null {
  const match = /^device:(\/[^?]*)(?:\?(.*))?$/s.exec(text);
  return match && { kind: "device", path: match[1], query: match[2] ?? "" };
}

/** Rejects with a {@link DeviceError}; nothing of the module runs then. */
export async function openModule(
  name: string,
  { path, query }: ModuleSource,
  { readOnly, modules = [], warn = console.warn }: ModuleOptions,
): Promise<ModuleDevice> {
  if (!modules.includes(path)) {
    const remedy = `the daemon's administrator may allow it: \`xbdback serve --device ${path}\``;
    throw new DeviceError(EACCES, name, `a module that is not allowed here; ${remedy}`);
  }
  await checkOwner(name, path);
  const say = (line: string): void => warn(`${name}: ${line}`);
  const how = { parameters: Object.fromEntries(new URLSearchParams(query)), readOnly };
  let open = false;
  const broken = (why: string): void => {
    if (open) say(`${why}; the disk fails until it is attached again`);
  };
  const thread = new ModuleThread(path, how, broken, say);
  try {
    const described = await thread.opened(OPEN_MS);
    const fault = faultOf(described);
    if (fault !== null) throw new DeviceError(EINVAL, name, `the module is wrong: ${fault}`);
    if (!readOnly && !described.writes) throw new DeviceError(EROFS, name, "read-only; attach it read-only");
    open = true;
    return new ModuleDevice(thread, described, { name, path, readOnly });
  } catch (error) {
    await thread.end();
    if (error instanceof DeviceError) throw error;
    throw new DeviceError(EIO, name, `the module cannot open it: ${(error as Error).message}`);
  }
}

/** It runs with the daemon's rights: nobody else may have written it. */
async function checkOwner(name: string, path: string): Promise<void> {
  const stats = await Place.of(path)
    .stat()
    .catch(() => null);
  if (stats === null || !isType(stats, "file"))
    throw new DeviceError(ENOENT, name, `module not found: ${path}`);
  const ours = stats.uid === 0 || stats.uid === process.geteuid?.();
  if (ours && (stats.mode & FOREIGN_WRITE) === 0) return;
  const remedy = `\`chown root ${path} && chmod go-w ${path}\``;
  throw new DeviceError(EACCES, name, `users other than the administrator may write the module; ${remedy}`);
}

/** What is wrong with what a device says of itself; null when nothing is. */
function faultOf({ size, sectorSize = SECTOR, survives, timeoutSeconds = 1 }: Description): string | null {
  if (!isPowerOfTwo(sectorSize) || sectorSize < SECTOR || sectorSize > LARGEST_SECTOR)
    return `its sectorSize is ${sectorSize}, not 512, 1024, 2048 or 4096`;
  if (!Number.isSafeInteger(size) || size < sectorSize)
    return `its size is ${size}, less than a sector or not a number`;
  if (survives !== undefined && survives !== "stop" && survives !== "kill")
    return `its survives is ${String(survives)}, not "stop" or "kill"`;
  if (!(timeoutSeconds > 0 && timeoutSeconds <= LARGEST_TIMEOUT))
    return `its timeoutSeconds is ${timeoutSeconds}, not a number up to ${LARGEST_TIMEOUT}`;
  return null;
}
