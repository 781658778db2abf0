/** What the rounds go through. */
import type { DiskKind } from "./disks.js";

export interface Way {
  readonly engine: "io_uring" | "libuv";
  readonly cache: "none" | "writeback";
  readonly persistent: boolean;
  readonly pollUs: number;
  /** One: all guests share a thread. Default: two. */
  readonly reactors?: number;
  /** What the guest's disk is. Default: a raw image. */
  readonly disk?: DiskKind;
  /** Limits are set, changed and taken away all the time, and the guest is paused now and then. */
  readonly limits?: boolean;
  /** Rings are traced and recorded all the time. */
  readonly observers?: boolean;
}

/** Two of a kind are apart, so that a run that is cut short has seen much. */
export const WAYS: readonly Way[] = [
  { engine: "io_uring", cache: "none", persistent: true, pollUs: 0 },
  { engine: "io_uring", cache: "writeback", persistent: false, pollUs: 0, reactors: 1, limits: true },
  { engine: "io_uring", cache: "writeback", persistent: false, pollUs: 0 },
  { engine: "io_uring", cache: "none", persistent: true, pollUs: 30 },
  { engine: "io_uring", cache: "none", persistent: true, pollUs: 0, observers: true },
  { engine: "libuv", cache: "writeback", persistent: true, pollUs: 0 },
  { engine: "io_uring", cache: "writeback", persistent: false, pollUs: 0, disk: "qcow2" },
  { engine: "io_uring", cache: "writeback", persistent: true, pollUs: 0 },
  { engine: "io_uring", cache: "writeback", persistent: true, pollUs: 0, disk: "vhost-user" },
  { engine: "libuv", cache: "none", persistent: false, pollUs: 0 },
  { engine: "io_uring", cache: "writeback", persistent: false, pollUs: 0, disk: "nbd" },
  { engine: "io_uring", cache: "none", persistent: false, pollUs: 0 },
  { engine: "io_uring", cache: "writeback", persistent: false, pollUs: 200 },
];

export function nameOf({
  engine,
  cache,
  persistent,
  pollUs,
  reactors,
  disk,
  limits,
  observers,
}: Way): string {
  return [
    engine,
    `cache ${cache}`,
    persistent ? "persistent grants" : "grant copy",
    pollUs > 0 && `${pollUs} µs of polling`,
    reactors === 1 && "all guests in one thread",
    limits && "with limits that change",
    observers && "with observers that come and go",
    disk && `a disk of ${disk}`,
  ]
    .filter((part) => part)
    .join(", ");
}
