/** What a vbd needs of a snapshot that has begun: host/daemon/snapshots.ts has the rest. */
import type { BlockDevice } from "../storage/device.js";

/** An overlay that nobody has written to yet. */
export interface Snapshot {
  /** What the disk is to be. */
  readonly target: string;
  /**
   * To be called when no connection uses the disk any more. Resolves with the disk for one: the overlay, or the image as it was,
   * after `failed` was told why. Rejects where that cannot be opened either.
   */
  finish(failed: (error: Error) => void): Promise<BlockDevice>;
  /** It is not wanted any more. */
  drop(): Promise<void>;
}
