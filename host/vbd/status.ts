/** What the operator can know of a vbd, and what it waits for. */
import type { Counters } from "../core/counters.js";
import { XenbusState as State, stateInWords, type XenbusState } from "../platform/xenbus-state.js";
import type { Latency } from "../reactor/latency.js";
import type { ConnectionStatus } from "./connection.js";
import type { StorageStatus } from "./storage-status.js";
import type { ThrottleStatus } from "./throttling.js";
import type { LastError } from "./vbd-log.js";

/** "replaced": the path leads to another file by now; "deleted": to none. */
export type ImageState = "ok" | "replaced" | "deleted";

export interface ImageStatus {
  /** Whether the disk's path still leads to what is open; null when no disk is open. */
  readonly imageState: ImageState | null;
  /** The service manager keeps what is open for the next daemon, wherever the path leads. */
  readonly imageKept: boolean;
}

/** What is worth knowing about a vbd at one moment. */
export interface VbdStatus extends ConnectionStatus, ThrottleStatus, ImageStatus {
  readonly name: string;
  readonly kind: string;
  readonly domid: number;
  readonly devid: number;
  /** The guest's name, as the toolstack has it; null where that is not known. */
  readonly domainName: string | null;
  /** What the guest calls the disk: xvda; the number where no name stands for it. */
  readonly vdev: string;
  readonly state: XenbusState;
  readonly frontendState: XenbusState;
  /** False when the toolstack wants it removed. */
  readonly online: boolean;
  readonly hotplugStatus: string | null;
  /** What it waits for, to be read behind "waiting for"; null when it is connected. */
  readonly waitsFor: string | null;
  readonly error: string | null;
  readonly storage: StorageStatus;
  /** The age of the oldest request in flight, in seconds; null when there is none. */
  readonly oldestSeconds: number | null;
  /** What its log said last of something wrong, failed I/O included. */
  readonly lastError: LastError | null;
  readonly counters: Counters;
  readonly latency: Latency;
}

/** What decides what a vbd waits for. */
export interface Facts {
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
  /** The disk that is being opened. */
  readonly opening: string | null;
  readonly error: string | null;
}

/** What it waits for, to be read behind "waiting for"; null when it is connected. */
export function waitsFor(facts: Facts): string | null {
  const { state, online, connected, dead, frontendState } = facts;
  if (state === State.Unknown) return "the disk to be released";
  if (dead) return "the toolstack to remove the disk: the guest is gone";
  const at = frontendState === State.Unknown ? "not there" : stateInWords(frontendState);
  if (connected && facts.paused) return "the operator: it is paused (`xbdback unpause`)";
  if (connected) return state === State.Connected ? null : `the frontend to close (${at})`;
  if (state === State.Connected) return facts.error ?? "the previous daemon to release the disk";
  if (state === State.Closed && !online) return "the toolstack to remove the disk";
  if (facts.error !== null) return `the frontend to write its state again after the error (${at})`;
  if (state >= State.Closing) return `the frontend to connect again (${at})`;
  if (facts.hotplug !== null) return facts.hotplug;
  if (facts.opening !== null) return `${facts.opening} to be opened`;
  const paused = facts.paused ? "; the disk is paused (`xbdback unpause`)" : "";
  return `the frontend (${at})${paused}`;
}

/** For people, behind the disk's name. */
export function describeImage({ imageState, imageKept }: ImageStatus): string {
  if (imageState !== "deleted" && imageState !== "replaced")
    return "the path leads to the guest's disk again";
  const what = imageState === "deleted" ? "deleted" : "replaced: another file is there now";
  const until = imageKept
    ? "until its unit is stopped (a restart keeps it): "
    : "which the next daemon will not find: ";
  const remedy = "put it back, or detach the disk and attach it again";
  return `${what}; the guest continues with the former one, ${until}${remedy}`;
}

/** In one sentence, what it does or waits for. */
export function describeStatus(vbd: VbdStatus): string {
  const { waitsFor: wanted, storage, oldestSeconds, inflight } = vbd;
  if (storage.state === "waiting") {
    const seconds = Math.max(0, (Date.now() - (storage.since ?? Date.now())) / 1000).toFixed(0);
    const requests = inflight === 1 ? "1 request" : `${inflight} requests`;
    const oldest = oldestSeconds === null ? "" : `, the oldest for ${oldestSeconds.toFixed(0)} s`;
    const wait = inflight === 0 ? "" : `; ${requests} waiting${oldest}`;
    return `waiting for storage for ${seconds} s: ${storage.reason}${wait}`;
  }
  if (wanted !== null) return `waiting for ${wanted}`;
  return inflight > 0 ? "active" : "idle";
}
