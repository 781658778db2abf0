/** One run of one contestant, and contestants. */
import { cpus } from "node:os";
import type { Latency } from "./histogram.js";
import type { Row } from "./rows.js";

export interface Sample {
  readonly iops: number;
  /** In nanoseconds, from the call to its end. */
  readonly latency: Latency;
  /** CPU seconds for 100,000 I/Os, of the program that makes the load, and of the one that serves it. */
  readonly clientCpu: number;
  readonly serverCpu: number | null;
  /** Counted by xbdback alone. */
  readonly notifications?: Notifications;
}

/** For each request. */
export interface Notifications {
  /** By the backend, of responses. */
  readonly sent: number;
  /** By the guest, of requests. */
  readonly received: number;
}

export interface Contestant {
  readonly name: string;
  /** Rejects with an Error of one line. */
  run(row: Row, seconds: number): Promise<Sample>;
  /** Whose threads are pinned where the row says so; fio pins itself. */
  readonly pids: readonly number[];
  /** Time that its code takes to become fast. */
  readonly warmUpSeconds?: number;
}

/** A run in which nothing ended has no figures, but it is no error either. */
export const per100k = (cpuSeconds: number, operations: number): number =>
  operations === 0 ? 0 : (cpuSeconds / operations) * 1e5;

/** The CPU of pinned rows. */
export const PINNED_CPU = "0";

/** CPUs of rows whose server and client are kept apart. */
const CPUS = cpus().length;
export const SERVER_CPUS = CPUS === 1 ? "0" : `0-${(CPUS >> 1) - 1}`;
export const CLIENT_CPUS = CPUS === 1 ? "0" : `${CPUS >> 1}-${CPUS - 1}`;
