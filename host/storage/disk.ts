/** Opening whatever a disk specification's target names. */
import { constants } from "node:os";
import { Place } from "./calls/place.js";
import type { BlockDevice } from "./device.js";
import { EmptyDrive } from "./empty-drive.js";
import type { KnownBase } from "./helper/chain.js";
import { openNbd } from "./helper/nbd.js";
import { openHelped } from "./helper/open.js";
import { type OverlayOptions, openOverlay } from "./helper/overlay.js";
import { openWeb } from "./helper/web-server.js";
import { fileIdentity } from "./identity.js";
import { type ModuleOptions, openModule } from "./module/open.js";
import { parseNbdUri } from "./nbd/uri.js";
import { DeviceError, type DeviceOptions, openDevice } from "./open.js";
import { IMAGE_FORMATS, parseSource } from "./source.js";
import { openVhostUser } from "./vhost-user/open.js";
import { layerOf, type Wrapped } from "./wrapper/index.js";
import type { Layer } from "./wrapper/kind.js";

export interface DiskOptions extends DeviceOptions, OverlayOptions, ModuleOptions {
  /** False: files that a wrapper would make are not left behind. Default true. */
  readonly create?: boolean;
}

/** Opens a source for one user alone. Rejects with a {@link DeviceError}. */
export async function openDisk(target: string, options: DiskOptions): Promise<BlockDevice> {
  if (target === "" && options.cdrom) return new EmptyDrive();
  const source = parseSource(target);
  if (source === null) {
    throw new DeviceError(constants.errno.EINVAL, target, "is neither an absolute path nor a known target");
  }
  if (options.keyFile !== undefined && !["image", "http", "wrapped"].includes(source.kind)) {
    const why = "needs no secret: leave out keyfile:, or name an encrypted image, like luks:/PATH";
    throw new DeviceError(constants.errno.EINVAL, target, why);
  }
  if (source.kind === "raw") return openDevice(target, options);
  if (source.kind === "nbd") return openNbd(target, options);
  if (source.kind === "http") return openWeb(target, source.url, options);
  if (source.kind === "vhost-user") return openVhostUser(target, source.path, options);
  if (source.kind === "device") return openModule(target, source, options);
  if (source.kind === "wrapped") return openWrapped(target, source, options);
  return openHelped(target, source, options);
}

async function openWrapped(target: string, source: Wrapped, options: DiskOptions): Promise<BlockDevice> {
  const layer = readLayer(target, source);
  if ("overlay" in layer) return openOverlay(target, layer.overlay, basesOf(source.inner), options);
  if (!("open" in layer)) {
    const { readsOnly = false, keyFile = options.keyFile } = layer;
    const readOnly = options.readOnly || readsOnly;
    return openDisk(source.inner, { ...options, readOnly, ...(keyFile !== undefined && { keyFile }) });
  }
  const inner = await openDisk(source.inner, options);
  try {
    return await layer.open(inner, { ...options, name: target });
  } catch (error) {
    await inner.close();
    throw error;
  }
}

function readLayer(target: string, source: Wrapped): Layer {
  try {
    return layerOf(source);
  } catch (error) {
    throw new DeviceError(constants.errno.EINVAL, target, (error as Error).message);
  }
}

/** What an overlay is to be over, from above. Throws a {@link DeviceError} for a target that cannot be a base. */
export function basesOf(target: string): KnownBase[] {
  const source = parseSource(target);
  if (source?.kind === "raw") return [{ path: source.path, format: "raw" }];
  if (source?.kind === "image") return [{ path: source.path, format: IMAGE_FORMATS[source.format] }];
  if (source?.kind === "wrapped") {
    const layer = readLayer(target, source);
    if ("overlay" in layer) return [{ path: layer.overlay, format: "qcow2" }, ...basesOf(source.inner)];
    // It is only read in any case.
    if ("readsOnly" in layer) return basesOf(source.inner);
    throw notBase(target, "is not an image; put the wrapper before the overlay instead of behind it");
  }
  if (source === null) throw notBase(target, "is neither an absolute path nor a known target");
  throw notBase(
    target,
    "cannot be the base of an overlay, which is an image or a block device: copy it into one",
  );
}

function notBase(target: string, why: string): DeviceError {
  return new DeviceError(constants.errno.EINVAL, target, why);
}

/** What a target has open, and whether for reading alone. */
export interface Use {
  /** What leads to it. */
  readonly path: string;
  /** As {@link identityOf}. */
  readonly identity: string;
  readonly readOnly: boolean;
  /** No file of this name is there. */
  readonly missing: boolean;
}

/**
 * All that a target has open: the store below all wrappers, an overlay in front of its base; and the bases of an image,
 * which only its device knows (see {@link BlockDevice.bases}). Rejects as {@link openDisk} does.
 */
export async function usesOf(
  target: string,
  readOnly: boolean,
  bases: readonly string[] = [],
): Promise<Use[]> {
  const source = parseSource(target);
  const known = (): Promise<Use[]> =>
    Promise.all(bases.map(async (base) => ({ ...(await lookUp(base)), readOnly: true })));
  if (source?.kind !== "wrapped") return [{ ...(await lookUp(target)), readOnly }, ...(await known())];
  const layer = readLayer(target, source);
  if (!("overlay" in layer)) return usesOf(source.inner, readOnly || "readsOnly" in layer, bases);
  const below = bases.length > 0 ? await known() : await usesOf(source.inner, true);
  return [{ ...(await lookUp(layer.overlay)), readOnly }, ...below];
}

/** The file or block device to which a disk without wrappers is written; null where it has none of this machine. */
export function writtenFile(disk: string): string | null {
  const source = parseSource(disk);
  if (source?.kind === "raw" || source?.kind === "image") return source.path;
  if (source?.kind !== "wrapped") return null;
  const layer = readLayer(disk, source);
  return "overlay" in layer ? layer.overlay : null;
}

/** The files that a target names: its own and those of its wrappers. */
export function placesOf(target: string): string[] {
  const source = parseSource(target);
  if (source?.kind === "raw" || source?.kind === "image" || source?.kind === "device") return [source.path];
  if (source?.kind === "vhost-user") return [source.path];
  if (source?.kind === "nbd") return [parseNbdUri(target).socket ?? []].flat();
  if (source?.kind !== "wrapped") return [];
  const below = placesOf(source.inner);
  try {
    const layer = layerOf(source);
    if ("overlay" in layer) return [layer.overlay, ...below];
    return "keyFile" in layer && layer.keyFile !== undefined ? [layer.keyFile, ...below] : below;
  } catch {
    // It is not opened.
    return below;
  }
}

/** The same for two targets that are the same store, by whatever names; "" for what is not there: to open it says why. */
export async function identityOf(target: string): Promise<string> {
  return (await lookUp(target)).identity;
}

async function lookUp(target: string): Promise<Omit<Use, "readOnly">> {
  try {
    return { path: target, identity: await findIdentity(target), missing: false };
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return { path: target, identity: "", missing: code === "ENOENT" || code === "ENOTDIR" };
  }
}

async function findIdentity(target: string): Promise<string> {
  const source = parseSource(target);
  if (source?.kind === "raw" || source?.kind === "image") return fileIdentity(source.path);
  if (source?.kind === "vhost-user") return `vhost-user ${await socketIdentity(source.path)}`;
  if (source?.kind !== "nbd") return target;
  const { socket, host, port, exportName } = parseNbdUri(target);
  return `${socket === null ? `tcp ${host}:${port}` : await socketIdentity(socket)} export ${exportName}`;
}

/** By name: a server that is started again makes another socket there, and serves the same. */
async function socketIdentity(path: string): Promise<string> {
  const place = Place.of(path).call("realpath", path);
  return `unix ${await place.catch(() => path)}`;
}
