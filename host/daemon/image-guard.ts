/** What keeps an image from others for the moments in which it is closed and opened again. */
import { constants as flags } from "node:fs";
import { constants } from "node:os";
import { FileLocks } from "../storage/calls/locks.js";
import { Place } from "../storage/calls/place.js";
import { errnoOf, refusal } from "../storage/open.js";
import { lockAsQemu } from "../storage/qemu-locks.js";

/** Keeps others from writing an image while nobody has it: xbdback and QEMU's programs, which heed these locks. */
export class ImageGuard {
  readonly #place: Place;
  readonly #fd: number;
  #released: Promise<void> | null = null;

  private constructor(place: Place, fd: number) {
    this.#place = place;
    this.#fd = fd;
  }

  static async of(path: string): Promise<ImageGuard> {
    const place = Place.of(path);
    try {
      const guard = new ImageGuard(place, await place.open(flags.O_RDONLY));
      try {
        await lockAsQemu(new FileLocks(guard.#fd, place), true, false);
        return guard;
      } catch (error) {
        await guard.release();
        throw error;
      }
    } catch (error) {
      throw await refusal(path, errnoOf(error));
    }
  }

  /** All that was written is on the disk, with the time of the last change; else the errno. */
  async sync(): Promise<number> {
    try {
      await this.#place.call("sync", this.#fd);
      return 0;
    } catch (error) {
      return errnoOf(error) || constants.errno.EIO;
    }
  }

  release(): Promise<void> {
    this.#released ??= this.#place.close(this.#fd);
    return this.#released;
  }
}
