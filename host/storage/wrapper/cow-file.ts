/** Opening an overlay's file, for one user alone, or making it where there is none. */
import { randomUUID } from "node:crypto";
import { constants as flags } from "node:fs";
import { readFile } from "node:fs/promises";
import { constants } from "node:os";
import { dirname } from "node:path";
import { Place } from "../calls/place.js";
import type { BlockDevice } from "../device.js";
import { DeviceError, errnoOf, openDevice } from "../open.js";
import { type CowHeader, dataAt, decodeHeader, encodeHeader, PAGE } from "./cow-header.js";
import { CowMap } from "./cow-map.js";
import { flushed, PageMover } from "./cow-pages.js";
import type { WrapperOptions } from "./kind.js";

const { EEXIST, EIO, ENOENT } = constants.errno;

export interface OpenOverlay {
  /** Of the file, whatever its device was opened as. */
  readonly path: string;
  readonly device: BlockDevice;
  readonly header: CowHeader;
  readonly map: CowMap;
}

type BaseSize = Pick<CowHeader, "size" | "sectorSize">;

/** Rejects with a {@link DeviceError}; nothing is open then. */
export async function openOverlay(
  path: string,
  base: BaseSize,
  options: WrapperOptions,
): Promise<OpenOverlay> {
  // Two users would not see each other's writes, whoever takes the blame.
  const own = { ...options, shared: false };
  let device: BlockDevice;
  try {
    device = await openDevice(path, own);
  } catch (error) {
    if (!(error instanceof DeviceError) || error.errno !== ENOENT || options.readOnly) throw error;
    device = await make(path, base, options.create ?? true, (made) => openDevice(made, own));
  }
  try {
    return await loadOverlay(path, device, await bootId());
  } catch (error) {
    await device.close();
    if (error instanceof DeviceError) throw error;
    throw new DeviceError(EIO, path, `cannot be read as an overlay: ${(error as Error).message}`);
  }
}

/** What is on an overlay's device, which stays the caller's. Rejects with a DeviceError, or with why it cannot be read. */
export async function loadOverlay(path: string, device: BlockDevice, boot: Buffer): Promise<OpenOverlay> {
  const mover = new PageMover(device);
  const first = device.size < PAGE ? Buffer.alloc(PAGE) : Buffer.from(await mover.read(0));
  const header = decodeHeader(path, first, device.size);
  const sameBoot = header.bootId.equals(boot);
  const { readOnly } = device;
  const map = await CowMap.load(path, device, header, { sameBoot, readOnly });
  if (!sameBoot && !readOnly) {
    // Not before the written pages are what they are to be in this boot.
    await mover.write(0, encodeHeader({ ...header, bootId: boot }));
    await flushed(device);
  }
  return { path, device, header, map };
}

/** The machine's, 16 bytes. */
async function bootId(): Promise<Buffer> {
  const text = await readFile("/proc/sys/kernel/random/boot_id", "latin1");
  return Buffer.from(text.trim().replaceAll("-", ""), "hex");
}

/** Makes an overlay, all at once or not at all, and opens it. Without `keep` it has no name any more then. */
async function make(
  path: string,
  base: BaseSize,
  keep: boolean,
  openMade: (path: string) => Promise<BlockDevice>,
): Promise<BlockDevice> {
  const unfinished = `${path}.${randomUUID()}`;
  const place = Place.of(path);
  try {
    await write(place, unfinished, base);
    try {
      if (keep) {
        await place.call("link", unfinished, path);
        await sync(place, await place.open(flags.O_RDONLY, { path: dirname(path) }));
      }
      return await openMade(keep ? path : unfinished);
    } finally {
      await place.call("unlink", unfinished);
    }
  } catch (error) {
    if (error instanceof DeviceError) throw error;
    const { code = "EIO" } = error as NodeJS.ErrnoException;
    // Somebody was faster, and has it.
    if (errnoOf(error) === EEXIST) return openMade(path);
    throw new DeviceError(errnoOf(error), path, `the overlay does not exist and cannot be created (${code})`);
  }
}

async function write(place: Place, path: string, base: BaseSize): Promise<void> {
  const fd = await place.open(flags.O_WRONLY | flags.O_CREAT | flags.O_EXCL, { path, mode: 0o600 });
  try {
    const header = new Uint8Array(PAGE);
    header.set(encodeHeader({ ...base, bootId: await bootId() }));
    await place.write(fd, header, 0);
    await place.call("truncate", fd, dataAt(base) + base.size);
  } catch (error) {
    await place.close(fd);
    await place.call("unlink", path);
    throw error;
  }
  await sync(place, fd);
}

/** Closes it, too. */
async function sync(place: Place, fd: number): Promise<void> {
  try {
    await place.call("sync", fd);
  } finally {
    await place.close(fd);
  }
}
