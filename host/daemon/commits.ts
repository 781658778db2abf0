/**
 * Commits: what a guest has written to an overlay goes into the image below it, while the guest goes on, and then the guest has
 * that image.
 *
 * The disk is opened again by a helper that may write the base, and a job there copies what the overlay has. The overlay
 * stays the disk and takes all writes, so whatever is in the base is not seen. When nearly all is copied, no connection uses
 * the disk for a moment: the overlay is flushed, the rest is copied, and both have the same content, the base on stable
 * storage. Then it is noted that the guest has the base, and that is opened. Killed before the note, the guest has the
 * overlay, and after it the base: both are right.
 */
import { constants as flags } from "node:fs";
import { constants } from "node:os";
import { Place } from "../storage/calls/place.js";
import { type BlockDevice, flush, Result } from "../storage/device.js";
import { writtenFile } from "../storage/disk.js";
import { CommitJob } from "../storage/helper/commit-job.js";
import { jobsOf } from "../storage/helper/monitor.js";
import { DeviceError, errnoOf, type OpenOptions, refusal } from "../storage/open.js";
import { baseOf, splitWrappers } from "../storage/wrapper/index.js";
import type { VbdId } from "../vbd/name.js";
import { type Commit, type Copied, DiskGone, type Replacing, StillUsed } from "../vbd/snapshot.js";
import type { HelperPlaces } from "./helper-places.js";
import { ImageGuard } from "./image-guard.js";
import type { ReplacedImages, Replacement } from "./replaced-images.js";
import type { Stores } from "./stores.js";

const { EBUSY, EINVAL, EIO, EROFS } = constants.errno;

export interface CommitsOptions {
  readonly stores: Stores;
  readonly replaced: ReplacedImages;
  readonly helpers: HelperPlaces;
}

export class Commits {
  readonly #options: CommitsOptions;

  constructor(options: CommitsOptions) {
    this.#options = options;
  }

  /** Looks whether a vbd's disk, which is open, can be written back. Rejects with a {@link DeviceError} that says why not. */
  async begin(path: string, options: OpenOptions, vbd: VbdId): Promise<Commit> {
    const { stores, replaced } = this.#options;
    const { target, device, releases } = stores.current(path, vbd);
    const { wrappers, disk } = splitWrappers(target);
    const into = baseOf(disk);
    if (into === null)
      throw new DeviceError(EINVAL, target, "is not an overlay: there is nothing to be written back");
    if (device.readOnly) throw new DeviceError(EROFS, target, "is only read, and changes nothing");
    if (splitWrappers(into).wrappers !== "")
      throw new DeviceError(EROFS, into, "is only to be read, as the target says: its overlay remains");
    const base = writtenFile(into) as string;
    if (await stores.guests.hasDeviceModel(vbd.domid)) {
      const why = `domain ${vbd.domid} is an HVM guest, whose device model has the disk open, too`;
      throw new DeviceError(EINVAL, target, `${why}: shut it down, and \`qemu-img commit\` the overlay`);
    }
    await this.#refuseOthers(base, disk, vbd);
    await checkWritable(base);
    await replaced.prune(disk);
    return new OverlayCommit(this.#options, {
      ...{ path, options, vbd, releases, disk, into, base },
      ...{ overlay: writtenFile(disk) as string, target: wrappers + into },
    });
  }

  /** What stands on the base would be over another content than it was made for. */
  async #refuseOthers(base: string, disk: string, vbd: VbdId): Promise<void> {
    const { stores, replaced } = this.#options;
    const user = await stores.otherUser(base, vbd);
    if (user !== null) throw new DeviceError(EBUSY, base, `in use by ${user}, too; detach that first`);
    const [other] = await replaced.othersOn(base, disk);
    if (other === undefined) return;
    const why = `${other} stands on it, too, and would not fit it any more`;
    throw new DeviceError(EBUSY, base, `${why}: \`xbdback replaced\` shows whose that is`);
  }
}

async function checkWritable(path: string): Promise<void> {
  const place = Place.of(path);
  try {
    await place.close(await place.open(flags.O_RDWR));
  } catch (error) {
    throw await refusal(path, errnoOf(error));
  }
}

interface Plan {
  /** As the toolstack names it. */
  readonly path: string;
  readonly options: OpenOptions;
  readonly vbd: VbdId;
  /** See {@link Stores.releasesOf}. */
  readonly releases: number;
  /** The disk before and after, without wrappers, and their files. */
  readonly disk: string;
  readonly into: string;
  readonly overlay: string;
  readonly base: string;
  /** `into` with the wrappers. */
  readonly target: string;
}

class OverlayCommit implements Commit {
  readonly begin: Replacing = { finish: (failed) => this.#begin(failed), drop: async () => {} };
  readonly end: Replacing = { finish: (failed) => this.#end(failed), drop: async () => {} };
  readonly #options: CommitsOptions;
  readonly #plan: Plan;
  /** The one whose helper may write the base. */
  #device: BlockDevice | null = null;
  #job: CommitJob | null = null;
  #copied = false;

  constructor(options: CommitsOptions, plan: Plan) {
    this.#options = options;
    this.#plan = plan;
  }

  get target(): string {
    return this.#plan.target;
  }

  get overlay(): string {
    return this.#plan.overlay;
  }

  get present(): boolean {
    return this.#device !== null && this.#options.stores.deviceOf(this.#plan.vbd) === this.#device;
  }

  async copy(signal: AbortSignal, progress: (copied: Copied) => void): Promise<void> {
    const { helpers } = this.#options;
    try {
      this.#job = await CommitJob.begin(jobsOf(helpers.of(this.#plan.vbd).socket));
      await this.#job.copy(signal, progress);
      this.#copied = true;
    } catch (error) {
      // Its helper may have died; else it would be waited for while the guest waits.
      await this.#job?.cancel().catch(() => {});
      throw this.#failure(error);
    }
  }

  close(): void {
    this.#job?.close();
  }

  async #begin(failed: (error: Error) => void): Promise<BlockDevice> {
    const { stores, replaced } = this.#options;
    const { path, options, vbd, releases, disk } = this.#plan;
    const closed = async (device: BlockDevice | null): Promise<void> => {
      this.#checkFlushed(device);
      await replaced.changing(disk);
    };
    try {
      this.#device = await stores.reopen(path, { ...options, writesBase: true }, vbd, { releases, closed });
      return this.#device;
    } catch (error) {
      return this.#goBack(error, failed);
    }
  }

  async #end(failed: (error: Error) => void): Promise<BlockDevice> {
    const { stores, replaced } = this.#options;
    const { path, options, vbd, releases, disk, into, base } = this.#plan;
    // It was said why.
    if (!this.#copied) return this.#asItWas(0);
    const done: { guard?: ImageGuard; noted?: { readonly former: Replacement | null } } = {};
    const closing = async (): Promise<void> => {
      await this.#complete();
      done.guard = await ImageGuard.of(base);
    };
    const closed = async (device: BlockDevice | null): Promise<void> => {
      this.#checkFlushed(device);
      const errno = (await done.guard?.sync()) ?? EIO;
      if (errno !== 0) throw new DeviceError(errno, base, "what was written back cannot be flushed");
      done.noted = { former: await replaced.commit(disk, into, await stores.guests.diskOf(vbd)) };
      await done.guard?.release();
    };
    try {
      return await stores.reopen(path, options, vbd, { releases, closing, closed });
    } catch (error) {
      await done.guard?.release();
      if (done.noted) await replaced.undoCommit(into, done.noted.former);
      return this.#goBack(error, failed);
    }
  }

  /** Until the next request, the overlay and the base have the same content. */
  async #complete(): Promise<void> {
    try {
      const { result, error } = await flush(this.#device as BlockDevice);
      if (result !== Result.Success) throw error ?? new Error("it cannot be flushed");
      await (this.#job as CommitJob).complete();
    } catch (error) {
      throw this.#failure(error);
    }
  }

  /** The disk as it was, where nothing was written since that only the base has. */
  async #goBack(error: unknown, failed: (error: Error) => void): Promise<BlockDevice> {
    if (error instanceof StillUsed || error instanceof DiskGone) throw error;
    failed(error instanceof DeviceError ? error : await refusal(this.#plan.path, errnoOf(error)));
    return this.#asItWas(error instanceof LostWrites ? error.errno : 0);
  }

  /** `lost`: the errno of a flush that has failed, or 0. */
  async #asItWas(lost: number): Promise<BlockDevice> {
    const { path, options, vbd, releases } = this.#plan;
    // The helper that has failed a flush may be gone by now.
    let errno = lost || (this.#device?.flushErrno ?? 0);
    const closed = async (before: BlockDevice | null): Promise<void> => {
      errno ||= before?.flushErrno ?? 0;
    };
    const device = await this.#options.stores.reopen(path, options, vbd, { releases, closed });
    if (errno !== 0) device.flushErrno = errno;
    return device;
  }

  /** The guest does not learn of a failed flush from another disk. */
  #checkFlushed(device: BlockDevice | null): void {
    const errno = device?.flushErrno ?? 0;
    if (errno !== 0)
      throw new LostWrites(errno, this.#plan.overlay, "what the guest has written cannot be flushed");
  }

  #failure(error: unknown): DeviceError {
    if (error instanceof DeviceError) return error;
    const { overlay, base } = this.#plan;
    return new DeviceError(EIO, overlay, `cannot be written back into ${base}: ${(error as Error).message}`);
  }
}

class LostWrites extends DeviceError {}
