/** What the operator can know of a vbd, and why it stands where it stands. */
import type { Counters } from "../core/blkif.js";
import { XenbusState as State, stateName, type XenbusState } from "../platform/xenbus-state.js";
import type { Latency } from "../reactor/latency.js";
import type { ConnectionStatus } from "./connection.js";
import type { ThrottleStatus } from "./throttling.js";
import type { LastError } from "./vbd-log.js";

/** What is worth knowing about a vbd at one moment. */
export interface VbdStatus extends ConnectionStatus, ThrottleStatus {
  readonly name: string;
  readonly kind: string;
  readonly domid: number;
  readonly devid: number;
  readonly state: XenbusState;
  readonly frontendState: XenbusState;
  /** False when the toolstack wants it removed. */
  readonly online: boolean;
  readonly hotplugStatus: string | null;
  /** Why it is not at work, to be read behind "waits for"; null when it is. */
  readonly waitsFor: string | null;
  readonly error: string | null;
  /** What its log said last of something wrong, failed I/O included. */
  readonly lastError: LastError | null;
  readonly counters: Counters;
  readonly latency: Latency;
}

export interface Standing {
  readonly state: XenbusState;
  readonly frontendState: XenbusState;
  readonly online: boolean;
  readonly connected: boolean;
  /** By the operator. */
  readonly paused: boolean;
  /** The guest is known to have died. */
  readonly dead: boolean;
  /** What the hotplug script has to do first. */
  readonly hotplug: string | null;
  /** The store that is being opened. */
  readonly opening: string | null;
  readonly error: string | null;
}

/** What it waits for, to be read behind "waits for"; null when it is at work. */
export function waitsFor(standing: Standing): string | null {
  const { state, online, connected, dead, frontendState } = standing;
  if (state === State.Unknown) return "a store to be let go";
  if (dead) return "the toolstack to remove the disk: the guest is gone";
  const at = frontendState === State.Unknown ? "is not there" : `is at ${stateName(frontendState)}`;
  if (connected && standing.paused) return "the operator: it is paused (`xbdback unpause`)";
  if (connected) return state === State.Connected ? null : `the frontend to close; it ${at}`;
  if (state === State.Connected) return standing.error ?? "the process before to let go of the disk";
  if (state === State.Closed && !online) return "the toolstack to remove the disk";
  if (standing.error !== null) return `the frontend to write its state again after the error; it ${at}`;
  if (state >= State.Closing) return `the frontend to begin again; it ${at}`;
  if (standing.hotplug !== null) return standing.hotplug;
  if (standing.opening !== null) return `${standing.opening} to be opened`;
  return `the frontend; it ${at}`;
}
