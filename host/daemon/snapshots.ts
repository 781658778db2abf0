/**
 * Snapshots: a new overlay takes what a guest writes from now on, and the image below it, whatever its kind, is a point in time.
 *
 * The overlay is made while the guest goes on. Then nobody uses the disk; the image is closed, with all that the guest has
 * written, and it is noted that it was replaced before anything can be written to the overlay. Killed before that, the guest
 * has the image, and after it the overlay, which is empty: both are right.
 */
import { constants } from "node:os";
import { Place } from "../storage/calls/place.js";
import type { BlockDevice } from "../storage/device.js";
import { basesOf, writtenFile } from "../storage/disk.js";
import { makeOverlay } from "../storage/helper/make-overlay.js";
import { DeviceError, errnoOf, type OpenOptions, refusal } from "../storage/open.js";
import { overlayOver, splitWrappers } from "../storage/wrapper/index.js";
import type { VbdId } from "../vbd/name.js";
import { DiskGone, type Snapshot, StillUsed } from "../vbd/snapshot.js";
import { ImageGuard } from "./image-guard.js";
import type { ReplacedImages } from "./replaced-images.js";
import type { Stores } from "./stores.js";

const { EEXIST, EINVAL, EROFS } = constants.errno;

export class Snapshots {
  readonly #stores: Stores;
  readonly #replaced: ReplacedImages;

  constructor(stores: Stores, replaced: ReplacedImages) {
    this.#stores = stores;
    this.#replaced = replaced;
  }

  /** Makes an overlay for a vbd's disk, which is open. Rejects with a {@link DeviceError}; nothing has changed then. */
  async begin(path: string, options: OpenOptions, vbd: VbdId, overlay: string): Promise<Snapshot> {
    const { target, device, releases } = this.#stores.current(path, vbd);
    if (device.readOnly)
      throw new DeviceError(EROFS, target, "is only read and changes as little as a snapshot");
    const { wrappers, disk } = splitWrappers(target);
    if (/(^|:)keyfile:/.test(wrappers))
      throw new DeviceError(
        EINVAL,
        target,
        "is encrypted, and an overlay would have what the guest writes as plain text",
      );
    const bases = basesOf(disk);
    const image = writtenFile(disk) as string;
    await this.#refuseDeviceModel(target, vbd);
    await refuseExisting(overlay);
    await makeOverlay(overlay, bases[0], device.size, true);
    const next = overlayOver(overlay, disk);
    let guard: ImageGuard | null = null;
    try {
      guard = await ImageGuard.of(image);
    } catch (error) {
      await Place.of(overlay).call("unlink", overlay);
      throw error;
    }
    return new PendingSnapshot(
      { stores: this.#stores, replaced: this.#replaced },
      { path, options, vbd, releases, overlay, image, disk, next, target: wrappers + next, guard },
    );
  }

  /** Its device model opens the image by the name that the toolstack has, at each start. */
  async #refuseDeviceModel(target: string, vbd: VbdId): Promise<void> {
    if (!(await this.#stores.guests.hasDeviceModel(vbd.domid))) return;
    const why = `domain ${vbd.domid} is an HVM guest, whose device model opens the image itself at each start`;
    throw new DeviceError(
      EINVAL,
      target,
      `${why}, and would boot from the old one: shut it down, and name cow:OVERLAY:IMAGE in its configuration`,
    );
  }
}

async function refuseExisting(overlay: string): Promise<void> {
  if (!overlay.startsWith("/")) throw new DeviceError(EINVAL, overlay, "is not an absolute path");
  const there = await Place.of(overlay)
    .stat()
    .catch(() => null);
  if (there) throw new DeviceError(EEXIST, overlay, "exists; name a file that a snapshot may create");
}

interface Plan {
  /** As the toolstack names it. */
  readonly path: string;
  readonly options: OpenOptions;
  readonly vbd: VbdId;
  /** See {@link Stores.releasesOf}. */
  readonly releases: number;
  readonly overlay: string;
  /** The file or device that is to be only read. */
  readonly image: string;
  /** The disk before and after, without wrappers. */
  readonly disk: string;
  readonly next: string;
  /** `next` with the wrappers. */
  readonly target: string;
  readonly guard: ImageGuard;
}

class PendingSnapshot implements Snapshot {
  readonly #plan: Plan;
  readonly #stores: Stores;
  readonly #replaced: ReplacedImages;

  constructor({ stores, replaced }: { stores: Stores; replaced: ReplacedImages }, plan: Plan) {
    this.#stores = stores;
    this.#replaced = replaced;
    this.#plan = plan;
  }

  get target(): string {
    return this.#plan.target;
  }

  async finish(failed: (error: Error) => void): Promise<BlockDevice> {
    const { path, options, vbd, releases, guard, disk, next } = this.#plan;
    let lost = 0;
    try {
      const closed = async (device: BlockDevice | null): Promise<void> => {
        lost = device?.flushErrno ?? 0;
        if (lost === 0) lost = await guard.sync();
        if (lost !== 0)
          throw new DeviceError(lost, this.#plan.image, "what the guest has written cannot be flushed");
        await this.#replaced.add(disk, next, await this.#stores.guests.diskOf(vbd));
      };
      return await this.#stores.reopen(path, options, vbd, { releases, closed });
    } catch (error) {
      if (error instanceof StillUsed || error instanceof DiskGone) {
        await this.drop();
        throw error;
      }
      // Nobody has written to the overlay.
      await this.#replaced.undo(disk, next);
      await this.drop();
      failed(error instanceof DeviceError ? error : await refusal(path, errnoOf(error)));
      const device = await this.#stores.open(path, options, vbd);
      if (lost !== 0) device.flushErrno = lost;
      return device;
    } finally {
      await guard.release();
    }
  }

  async drop(): Promise<void> {
    const { guard, overlay } = this.#plan;
    await guard.release();
    await Place.of(overlay)
      .call("unlink", overlay)
      .catch(() => {});
  }
}
