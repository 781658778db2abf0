/** Making an overlay with qemu-img: all at once or not at all. */
import { randomUUID } from "node:crypto";
import { constants as flags } from "node:fs";
import { constants } from "node:os";
import { dirname } from "node:path";
import { Place } from "../calls/place.js";
import { DeviceError, errnoOf } from "../open.js";
import type { KnownBase } from "./chain.js";
import { runQemuImg } from "./qemu-img.js";

const { EBUSY, EEXIST, EIO } = constants.errno;

/**
 * A cluster of 128 KiB has 32 parts that are in the overlay or in the base. So a write of 4 KiB needs nothing of the base; with
 * QEMU's defaults, each first write to 64 KiB would copy the rest from there.
 */
const LAYOUT = "cluster_size=128k,extended_l2=on";

/**
 * Makes the overlay of a path, of `size` bytes, over a base whose disk is at least that large. Without `keep` it is made under
 * another name, for the caller to remove. Resolves with its name. Rejects with a {@link DeviceError}.
 */
export async function makeOverlay(
  path: string,
  base: KnownBase,
  size: number,
  keep: boolean,
): Promise<string> {
  const unfinished = `${path}.${randomUUID()}`;
  const place = Place.of(path);
  try {
    // qemu-img, which makes no files, finds one that is nobody else's.
    await place.close(
      await place.open(flags.O_WRONLY | flags.O_CREAT | flags.O_EXCL, { path: unfinished, mode: 0o600 }),
    );
    try {
      await write(path, unfinished, base, size);
      if (!keep) return unfinished;
      await sync(place, unfinished);
      await place.call("link", unfinished, path);
      await sync(place, dirname(path));
    } catch (error) {
      await place.call("unlink", unfinished);
      throw error;
    }
    await place.call("unlink", unfinished);
    return path;
  } catch (error) {
    if (error instanceof DeviceError) throw error;
    if (errnoOf(error) === EEXIST)
      throw new DeviceError(EBUSY, path, "another process has just created it; attach the disk again");
    const { code = "EIO" } = error as NodeJS.ErrnoException;
    throw new DeviceError(errnoOf(error), path, `the overlay does not exist and cannot be created (${code})`);
  }
}

/** The base is not opened for it: its size is known, and nothing else of it is needed. */
async function write(
  path: string,
  file: string,
  { path: base, format }: KnownBase,
  size: number,
): Promise<void> {
  const how = ["-u", "-f", "qcow2", "-o", LAYOUT, "-b", base, "-F", format];
  try {
    await runQemuImg(path, ["create", "-q", ...how, "--", file, String(size)], {
      path: file,
      writable: true,
    });
  } catch (error) {
    if (error instanceof DeviceError) throw error;
    throw new DeviceError(EIO, path, `the overlay cannot be created: ${(error as Error).message}`);
  }
}

async function sync(place: Place, path: string): Promise<void> {
  const fd = await place.open(flags.O_RDONLY, { path });
  try {
    await place.call("sync", fd);
  } finally {
    await place.close(fd);
  }
}
