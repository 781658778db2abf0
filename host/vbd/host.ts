/** What a vbd needs of the daemon. */
import type { Domain, Xenstore } from "../platform/ports.js";
import type { RingHost } from "../reactor/ring-host.js";
import type { BlockDevice, Outage } from "../storage/device.js";
import type { OpenOptions } from "../storage/open.js";
import type { Features } from "./backend-keys.js";
import type { Prepared } from "./exchange.js";
import type { AssumedProtocol } from "./frontend.js";
import type { Journals } from "./journals.js";
import type { DefaultLimits } from "./limit-defaults.js";
import type { VbdId } from "./name.js";
import type { Commit, Snapshot } from "./snapshot.js";
import type { ImageStatus } from "./status.js";
import type { Open } from "./store-opener.js";
import type { Log, TellEvent } from "./vbd-log.js";

export interface VbdHost {
  readonly xenstore: Xenstore;
  readonly reactor: RingHost;
  readonly features: Features;
  /** Our own domid. */
  readonly domid: number;
  readonly log: Log;
  /** Nobody, where it is left out. */
  readonly tell?: TellEvent;
  /** The limits of a disk of this guest that has none of its own; those of its target where it is left out. */
  readonly limits?: (guest: string | null, target: string | null) => DefaultLimits;
  /** Opens a store; openDisk where it is left out. */
  readonly open?: Open;
  /** Opens a disk and keeps it open for a vbd, whether a frontend is connected or not, until `release`. */
  readonly hold?: (path: string, options: OpenOptions, vbd: VbdId) => Promise<void>;
  readonly release?: (vbd: VbdId) => Promise<void>;
  /** Opens another disk beside the one that a vbd has; where it is left out, disks are not exchanged. */
  readonly prepare?: (path: string, options: OpenOptions, vbd: VbdId) => Promise<Prepared>;
  /** The vbd is without its disk until it is opened again: somebody else may have it meanwhile. Resolves when it is closed. */
  readonly leave?: (vbd: VbdId) => Promise<void>;
  /** Whether a guest is suspended; where it is left out, that is not known, and nothing follows from it. */
  readonly isSuspended?: Domain["isSuspended"];
  /** Begins a snapshot of the disk that a vbd has; where it is left out, there are none. */
  readonly snapshot?: (path: string, options: OpenOptions, vbd: VbdId, overlay: string) => Promise<Snapshot>;
  /** Looks whether the overlay that a vbd has can be written back; where it is left out, none is. */
  readonly commit?: (path: string, options: OpenOptions, vbd: VbdId) => Promise<Commit>;
  /** Whether the log tells already that our own check refused the vbd's disk. */
  readonly told?: (vbd: VbdId, why: string) => boolean;
  /** The disk that is held for a vbd; null where none is. */
  readonly held?: (vbd: VbdId) => BlockDevice | null;
  /** Whether the path still leads to that disk; null where none is held. */
  readonly image?: (vbd: VbdId) => ImageStatus | null;
  /** What opening or closing a vbd's disk waits for; null where nothing takes long. */
  readonly outage?: (vbd: VbdId) => Outage | null;
  /** The layout of a frontend that does not say; where it is left out, x86_32-abi, as on every Xen on x86. */
  readonly assumedProtocol?: AssumedProtocol;
  /** Where rings outlive this process. */
  readonly journals?: Journals;
  /** What is known of vbds that are gone can be removed there. */
  readonly records?: { sweep(exists: (name: string) => boolean): void };
}
