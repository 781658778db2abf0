/** The daemon's metrics. Labels are numbers, names that the toolstack has given, and words of ours: nothing that a guest has chosen. */
import { IO_OPERATIONS } from "../core/blkif.js";
import type { Counters } from "../core/counters.js";
import type { ReactorStatus } from "../reactor/ring-host.js";
import type { VbdStatus } from "../vbd/status.js";
import type { StorageStatus } from "../vbd/storage-status.js";
import type { Family, HistogramSample, Labels, Sample } from "./exposition.js";
import { processFamilies } from "./process.js";

/** How the configuration file was read last. */
export interface ReloadStatus {
  readonly successful: boolean;
  /** Of the last that succeeded, the start included; seconds since the epoch. */
  readonly succeededAt: number;
}

/** What there is to be told of at one moment. */
export interface Observed {
  readonly version: string;
  readonly vbds: readonly VbdStatus[];
  readonly mappedPages: number;
  readonly reactors: readonly ReactorStatus[];
  readonly reload: ReloadStatus;
}

/** Values of one vbd by a label more, or by none. */
type Values = readonly (readonly [labels: Labels, value: number])[];

const SECTOR = 512;
/**
 * Bucket i of a latency table holds what took less than 2^i microseconds, its last one all the rest. Prometheus is told
 * every second bound from 16 µs to 4 s: its quantiles need no finer ones, and each bound is a series of every disk.
 */
const BOUND_BITS = [4, 6, 8, 10, 12, 14, 16, 18, 20, 22];
const BOUNDS = BOUND_BITS.map((bits) => 2 ** bits / 1e6);

function by(label: string, values: Readonly<Record<string, number>>): Values {
  return Object.entries(values).map(([name, value]) => [{ [label]: name }, value]);
}

function one(value: number): Values {
  return [[{}, value]];
}

const STORAGE_STATES: readonly StorageStatus["state"][] = ["none", "opening", "ok", "waiting"];

const COUNTERS: [name: string, help: string, (counters: Counters) => Values][] = [
  [
    "requests_total",
    "Requests taken from rings, by the operation that they ask for.",
    ({ read, write, barrier, flush, discard }) => by("op", { read, write, barrier, flush, discard }),
  ],
  [
    "indirect_requests_total",
    "Requests whose segments were in pages of their own.",
    ({ indirect }) => one(indirect),
  ],
  [
    "bytes_total",
    "Bytes that guests have read and written.",
    (c) => by("direction", { read: c.sectorsRead * SECTOR, write: c.sectorsWritten * SECTOR }),
  ],
  ["segments_total", "Segments of requests.", ({ segments }) => one(segments)],
  ["ios_total", "I/Os started, after coalescing.", ({ ios }) => one(ios)],
  [
    "merged_requests_total",
    "Requests that joined an I/O that another one had opened.",
    ({ merged }) => one(merged),
  ],
  ["held_requests_total", "Requests that had to wait for an earlier one.", ({ held }) => one(held)],
  [
    "rejected_requests_total",
    "Requests that were answered with an error without I/O.",
    (c) =>
      by("reason", {
        operation: c.badOperation,
        segments: c.badSegments,
        range: c.badRange,
        read_only: c.readOnly,
        grant: c.badGrant,
      }),
  ],
  ["failed_requests_total", "Requests that failed with an I/O error.", ({ ioErrors }) => one(ioErrors)],
  ["responses_total", "Responses written.", ({ responses }) => one(responses)],
  [
    "notifications_total",
    "Publications of responses, by whether the frontend had asked for an event.",
    ({ pushes, notifications }) => by("outcome", { sent: notifications, suppressed: pushes - notifications }),
  ],
  ["grant_copies_total", "Grant copies.", ({ copies }) => one(copies)],
  ["grant_maps_total", "Pages mapped persistently.", ({ maps }) => one(maps)],
];

const GAUGES: [name: string, help: string, (vbd: VbdStatus) => number][] = [
  ["inflight_requests", "Requests taken and not yet answered.", ({ inflight }) => inflight],
  [
    "vbd_connected",
    "1 while the disk is connected and not paused, else 0.",
    ({ waitsFor }) => (waitsFor === null ? 1 : 0),
  ],
  ["vbd_paused", "1 while the operator has paused the disk, else 0.", ({ paused }) => (paused ? 1 : 0)],
  [
    "vbd_oldest_request_seconds",
    "Age of the oldest request in flight; 0 when there is none.",
    ({ oldestSeconds }) => oldestSeconds ?? 0,
  ],
  ["vbd_size_bytes", "Size of the disk; 0 while it is not known.", ({ size }) => size],
  ["vbd_rings", "Rings of the disk.", ({ queues }) => queues],
];

/** Every metric of the daemon. */
export function collect({ version, vbds, mappedPages, reactors, reload }: Observed): Family[] {
  const label = ({ domid, devid }: VbdStatus): Labels => ({ domid, devid });
  const counters = COUNTERS.map(([name, help, values]): Family => {
    const samples = vbds.flatMap((vbd) =>
      values(vbd.counters).map(([more, value]): Sample => ({ labels: { ...label(vbd), ...more }, value })),
    );
    return { name: `xbdback_${name}`, help, type: "counter", samples };
  });
  const gauges = GAUGES.map(([name, help, value]): Family => {
    const samples = vbds.map((vbd): Sample => ({ labels: label(vbd), value: value(vbd) }));
    return { name: `xbdback_${name}`, help, type: "gauge", samples };
  });
  const single = (name: string, help: string, value: number, labels: Labels = {}): Family => ({
    name: `xbdback_${name}`,
    help,
    type: "gauge",
    samples: [{ labels, value }],
  });
  return [
    single("build_info", "1; the versions are the labels.", 1, { version, node: process.version }),
    single(
      "config_last_reload_successful",
      "1 when the configuration file was read without error the last time, else 0.",
      reload.successful ? 1 : 0,
    ),
    single(
      "config_last_reload_success_timestamp_seconds",
      "When the configuration was read without error, in seconds since the epoch.",
      reload.succeededAt,
    ),
    ...processFamilies(),
    {
      name: "xbdback_vbd_info",
      help: "1; the labels say what the disk is called, by the daemon and the guest, what is served, and for whom.",
      type: "gauge",
      samples: vbds.map((vbd): Sample => ({ labels: { ...label(vbd), ...names(vbd) }, value: 1 })),
    },
    {
      name: "xbdback_vbd_storage_state",
      help: "1 for the state that the disk's storage is in, 0 for the others.",
      type: "gauge",
      samples: vbds.flatMap((vbd) =>
        STORAGE_STATES.map(
          (state): Sample => ({
            labels: { ...label(vbd), state },
            value: vbd.storage.state === state ? 1 : 0,
          }),
        ),
      ),
    },
    ...counters,
    ...gauges,
    {
      name: "xbdback_io_duration_seconds",
      help: "How long I/Os took, from the pass that started one to the pass that took in its end.",
      type: "histogram",
      samples: vbds.flatMap((vbd) => durations(vbd, label(vbd))),
    },
    single("mapped_pages", "Pages of guests that are mapped.", mappedPages),
    ...reactorFamilies(reactors),
  ];
}

function names({ name, vdev, device, domainName }: VbdStatus): Labels {
  return { name, vdev, device: device ?? "", domain: domainName ?? "" };
}

/** An operation that never happened has no series. */
function durations({ latency }: VbdStatus, labels: Labels): HistogramSample[] {
  return IO_OPERATIONS.flatMap((op) => {
    const { buckets, seconds } = latency[op];
    if (buckets.every((count) => count === 0)) return [];
    return [{ labels: { ...labels, op }, bounds: BOUNDS, counts: coarse(buckets), sum: seconds }];
  });
}

/** The buckets of a latency table, added up to those of {@link BOUNDS}. */
function coarse(buckets: readonly number[]): number[] {
  const counts = new Array<number>(BOUNDS.length + 1).fill(0);
  buckets.forEach((count, i) => {
    const at = BOUND_BITS.findIndex((bits) => i <= bits);
    counts[at < 0 ? BOUNDS.length : at] += count;
  });
  return counts;
}

function reactorFamilies(reactors: readonly ReactorStatus[]): Family[] {
  const family = (
    name: string,
    help: string,
    type: "counter" | "gauge",
    value: (one: ReactorStatus) => number,
  ): Family => ({
    name: `xbdback_reactor_${name}`,
    help,
    type,
    samples: reactors.map((status, reactor) => ({ labels: { reactor }, value: value(status) })),
  });
  return [
    family("rings", "Rings that a reactor thread serves.", "gauge", ({ rings }) => rings),
    family("passes_total", "Passes of rings.", "counter", ({ passes }) => passes),
    family("enters_total", "Calls of io_uring_enter.", "counter", ({ enters }) => enters),
  ];
}
