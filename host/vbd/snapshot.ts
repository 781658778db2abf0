/** What a vbd needs of operations on its disk that have begun: host/daemon/snapshots.ts and commits.ts have the rest. */
import type { BlockDevice } from "../storage/device.js";
import { DeviceError } from "../storage/open.js";

/** A connection uses the disk that was to be replaced: nothing has been done. */
export class StillUsed extends DeviceError {}

/** The vbd has lost its disk meanwhile, or is gone: nothing is open. */
export class DiskGone extends DeviceError {}

/** Another disk for a vbd, in the place of the one that it has. */
export interface Replacing {
  /**
   * To be called when no connection uses the disk any more. Resolves with the disk for one: the other, or the former, after
   * `failed` was told why. Rejects where that cannot be opened either.
   */
  finish(failed: (error: Error) => void): Promise<BlockDevice>;
  /** It is not wanted any more. */
  drop(): Promise<void>;
}

/** An overlay that nobody has written to yet. */
export interface Snapshot extends Replacing {
  /** What the disk is to be. */
  readonly target: string;
}

/** How much was copied, and of how much: that grows with what the guest writes. In bytes. */
export interface Copied {
  readonly copied: number;
  readonly total: number;
}

/** An overlay that is to be written back into its base. */
export interface Commit {
  /** What the disk is to be. */
  readonly target: string;
  /** The file that is not used any more then. */
  readonly overlay: string;
  /** The same disk, from which that can be done. */
  readonly begin: Replacing;
  /** Copies nearly all, while the guest goes on. Rejects with why not, also when the signal comes; `end` is to follow all the same. */
  copy(signal: AbortSignal, progress: (copied: Copied) => void): Promise<void>;
  /** The base, with the rest; or the disk as it was, where that was not copied or cannot be. */
  readonly end: Replacing;
  /** False where the vbd has lost that disk: there is nothing to be ended. */
  readonly present: boolean;
  /** It is over. */
  close(): void;
}
