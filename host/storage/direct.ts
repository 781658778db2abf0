/**
 * I/O past the page cache (O_DIRECT). The flag is set on the one open file that holds the lock, and only where the
 * smallest transfer that a guest can ask for works: so no transfer ever needs the page cache, and the two never meet.
 */
import type { SystemError } from "../platform/libc.js";
import { addressOf, setDirect } from "../platform/libc.js";
import type { Place } from "./calls/place.js";

/** none: past the page cache. writeback: through it. auto: what Linux's backend does, none on block devices only. */
export const CACHES = ["auto", "none", "writeback"] as const;
export type Cache = (typeof CACHES)[number];

/**
 * What counts for one disk: as QEMU does, a disk that is direct-io-safe is opened with O_DIRECT, image or not, where the
 * daemon's own option leaves the choice.
 */
export function cacheFor(cache: Cache, directIoSafe: boolean): Cache {
  return cache === "auto" && directIoSafe ? "none" : cache;
}

/**
 * Switches an open store to direct I/O, if it can read one sector to where a guest may want it: into memory that is
 * aligned to 512 bytes and no more. Resolves with null, or with the name of the errno, and then nothing is changed.
 */
export async function makeDirect(
  fd: number,
  place: Place,
  sectorSize: number,
  bytes: number,
): Promise<string | null> {
  try {
    setDirect(fd, true);
  } catch (error) {
    return (error as SystemError).code;
  }
  const position = bytes >= 2 * sectorSize ? sectorSize : 0;
  const code = await place.read(fd, badlyAligned(sectorSize), position).then(
    () => null,
    ({ code }: SystemError) => code,
  );
  if (code !== null) setDirect(fd, false);
  return code;
}

/** Memory at an odd multiple of 512. */
function badlyAligned(bytes: number): Uint8Array {
  const memory = new Uint8Array(new ArrayBuffer(bytes + 2048));
  const past = addressOf(memory) % 1024;
  return memory.subarray((1536 - past) % 1024).subarray(0, bytes);
}
