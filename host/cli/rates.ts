/** What vbds did between two moments, from their counters at both. */
import { IO_OPERATIONS } from "../core/blkif.js";
import type { Counters } from "../core/counters.js";
import { LATENCY_BUCKETS, type Latency } from "../reactor/latency.js";
import type { VbdStatus } from "../vbd/status.js";
import { word } from "./output.js";

/** What is needed of a VbdStatus. */
export type Sample = Pick<
  VbdStatus,
  "name" | "domid" | "devid" | "domainName" | "vdev" | "inflight" | "counters" | "latency"
>;

export interface Rates {
  readonly name: string;
  readonly domid: number;
  readonly devid: number;
  readonly domainName: string | null;
  readonly vdev: string;
  /** Requests a second, all and by what they are. */
  readonly iops: number;
  readonly reads: number;
  readonly writes: number;
  /** Bytes a second. */
  readonly readBytes: number;
  readonly writtenBytes: number;
  /** Seconds that an I/O took on average, and that 99 of 100 took less than; null without I/O. */
  readonly latency: number | null;
  readonly latency99: number | null;
  readonly inflight: number;
  /** Failed and refused requests a second. */
  readonly errors: number;
}

const REFUSALS = ["badOperation", "badSegments", "badRange", "readOnly", "badGrant"] as const;

/** Requests that were answered with an error without I/O. */
export function refusedRequests(counters: Counters): number {
  return REFUSALS.reduce((sum, name) => sum + counters[name], 0);
}

/** Those of each vbd, over the `seconds` since `before`. */
export function ratesOfAll(now: readonly Sample[], before: readonly Sample[], seconds: number): Rates[] {
  const earlier = new Map(before.map((sample) => [sample.name, sample]));
  return now.map((sample) => ratesOf(sample, earlier.get(sample.name), seconds));
}

/** Rates over `seconds`. A vbd whose counters went back, or that was not there before, began anew. */
function ratesOf(now: Sample, before: Sample | undefined, seconds: number): Rates {
  const restarted = before === undefined || before.counters.responses > now.counters.responses;
  const per = (...names: (keyof Counters)[]): number =>
    names.reduce((sum, name) => sum + now.counters[name] - (restarted ? 0 : before.counters[name]), 0) /
    seconds;
  return {
    name: now.name,
    domid: now.domid,
    devid: now.devid,
    domainName: now.domainName,
    vdev: now.vdev,
    inflight: now.inflight,
    iops: per("responses"),
    reads: per("read"),
    writes: per("write"),
    readBytes: per("sectorsRead") * 512,
    writtenBytes: per("sectorsWritten") * 512,
    ...latencyOf(now.latency, restarted ? undefined : before.latency),
    errors: per("ioErrors", ...REFUSALS),
  };
}

function latencyOf(now: Latency, before: Latency | undefined): Pick<Rates, "latency" | "latency99"> {
  const buckets = new Array<number>(LATENCY_BUCKETS).fill(0);
  let seconds = 0;
  for (const operation of IO_OPERATIONS) {
    seconds += now[operation].seconds - (before?.[operation].seconds ?? 0);
    for (let i = 0; i < LATENCY_BUCKETS; i++) {
      buckets[i] += now[operation].buckets[i] - (before?.[operation].buckets[i] ?? 0);
    }
  }
  const count = buckets.reduce((a, b) => a + b, 0);
  if (count <= 0) return { latency: null, latency99: null };
  let seen = 0;
  const last = buckets.findIndex((bucket) => (seen += bucket) >= count * 0.99);
  return { latency: seconds / count, latency99: 2 ** last / 1e6 };
}

/** "12", "1.2k", "3.4M": at most four characters and the unit. */
export function shortNumber(value: number): string {
  if (value < 1000)
    return value < 10 && value > 0 && !Number.isInteger(value) ? value.toFixed(1) : value.toFixed(0);
  const [scaled, unit] =
    value < 1e6 ? [value / 1e3, "k"] : value < 1e9 ? [value / 1e6, "M"] : [value / 1e9, "G"];
  return `${scaled.toFixed(scaled < 100 ? 1 : 0)}${unit}`;
}

/** "12B", "1.2KiB", "3.4MiB": in the units of sizes, at most four characters before the unit. */
export function shortBytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = value < 1024 ? 0 : Math.min(Math.floor(Math.log2(value) / 10), units.length - 1);
  const scaled = value / 1024 ** power;
  return `${scaled.toFixed(power === 0 || scaled >= 100 ? 0 : 1)}${units[power]}`;
}

/** Seconds as people read them: "85us", "1.2ms", "3.0s"; "-" for null. */
export function shortTime(seconds: number | null): string {
  if (seconds === null) return "-";
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(0)}us`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(1)}ms`;
  return `${seconds.toFixed(1)}s`;
}

/** The guest's name, or its number where the name is not known; without blanks, for a cell of a table. */
export function shownDomain({ domainName, domid }: { domainName: string | null; domid: number }): string {
  return word(domainName ?? String(domid));
}
