/** What the samples say: medians, spreads, and ratios to fio in the same repeat. */
import { type Measured, median, summary } from "../statistics.js";
import type { Latency } from "./histogram.js";
import type { RowSamples, SyscallsPerRequest } from "./measure.js";
import type { Row } from "./rows.js";
import type { Notifications, Sample } from "./sample.js";
import type { ScaleSamples } from "./scale.js";

export interface ContestantResult {
  readonly iops: Measured;
  /** 10^6 bytes a second. */
  readonly megabytesPerSecond: Measured;
  /** Of the ratios in each repeat: what disturbs one contestant disturbs its neighbours. */
  readonly ratioToFio: Measured | null;
  /** Medians of the repeats, in nanoseconds. */
  readonly latency: Latency;
  /** CPU seconds for 100,000 I/Os. */
  readonly clientCpu: Measured;
  readonly serverCpu: Measured | null;
  /** CPU of the server to fio's own: what serving costs beside doing it oneself. */
  readonly serverCpuToFio: Measured | null;
  /** For each request; medians. */
  readonly notifications: Notifications | null;
}

export interface RowResult extends Omit<Row, "peers" | "quick"> {
  readonly contestants: Readonly<Record<string, ContestantResult>>;
  /** Contestants that were left out, and why. */
  readonly left: Readonly<Record<string, string>>;
  readonly syscalls: SyscallsPerRequest | null;
  /** p50 of xbdback less that of fio, in nanoseconds. */
  readonly addedLatency: Measured | null;
  /** What xbdback is beside each of the others, by name and repeat. */
  readonly compared: Readonly<Record<string, Comparison>>;
}

export interface Comparison {
  /** xbdback's IOPS to the other's. */
  readonly ratio: Measured;
  /** p50 of xbdback less the other's, in nanoseconds. */
  readonly added: Measured;
}

export interface ScaleResult extends Omit<ScaleSamples, "loads"> {
  readonly name: string;
  readonly loads: readonly LoadResult[];
}

export interface LoadResult {
  readonly depth: number;
  readonly iops: Measured;
  readonly serverCpu: Measured;
}

const LATENCIES = ["mean", "p50", "p90", "p99", "p999", "max"] as const;

function ratios(above: readonly number[], below: readonly number[] | undefined): Measured | null {
  return below ? summary(above.map((value, i) => value / below[i])) : null;
}

function contestantResult(
  { blockSize }: Row,
  samples: readonly Sample[],
  fio: readonly Sample[] | undefined,
): ContestantResult {
  const iops = samples.map((sample) => sample.iops);
  const server = samples.flatMap(({ serverCpu }) => serverCpu ?? []);
  const latency = Object.fromEntries(
    LATENCIES.map((name) => [name, Math.round(median(samples.map((sample) => sample.latency[name])))]),
  );
  const notifications = samples.flatMap((sample) => sample.notifications ?? []);
  return {
    iops: summary(iops)!,
    megabytesPerSecond: summary(iops.map((value) => (value * blockSize) / 1e6))!,
    ratioToFio: ratios(
      iops,
      fio?.map((sample) => sample.iops),
    ),
    latency: latency as unknown as Latency,
    clientCpu: summary(samples.map(({ clientCpu }) => clientCpu))!,
    serverCpu: summary(server),
    serverCpuToFio:
      server.length === 0
        ? null
        : ratios(
            server,
            fio?.map(({ clientCpu }) => clientCpu),
          ),
    notifications:
      notifications.length === 0
        ? null
        : {
            sent: median(notifications.map(({ sent }) => sent)),
            received: median(notifications.map(({ received }) => received)),
          },
  };
}

function comparison(own: readonly Sample[], other: readonly Sample[]): Comparison {
  return {
    ratio: summary(own.map(({ iops }, i) => iops / other[i].iops))!,
    added: summary(own.map(({ latency }, i) => latency.p50 - other[i].latency.p50))!,
  };
}

export function rowResult({ row, samples, syscalls, left }: RowSamples): RowResult {
  const { peers: _peers, quick: _quick, ...described } = row;
  const fio = samples.get("fio");
  const xbdback = samples.get("xbdback")!;
  return {
    ...described,
    contestants: Object.fromEntries(
      [...samples].map(([name, own]) => [name, contestantResult(row, own, fio)]),
    ),
    left,
    syscalls,
    compared: Object.fromEntries(
      [...samples]
        .filter(([name]) => name !== "xbdback")
        .map(([name, other]) => [name, comparison(xbdback, other)]),
    ),
    addedLatency: fio ? summary(xbdback.map(({ latency }, i) => latency.p50 - fio[i].latency.p50)) : null,
  };
}

export function scaleResult(name: string, { loads, ...rest }: ScaleSamples): ScaleResult {
  const summarised = loads.map(({ depth, iops, serverCpu }) => ({
    depth,
    iops: summary(iops)!,
    serverCpu: summary(serverCpu)!,
  }));
  return { name, ...rest, loads: summarised };
}

/** The load that all vbds together did most of. */
export function bestLoad({ loads }: ScaleResult): LoadResult {
  return loads.reduce((best, load) => (load.iops.median > best.iops.median ? load : best));
}
