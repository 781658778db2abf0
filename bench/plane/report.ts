/** What `npm run bench` finds out. docs/bench.md tells the meaning of each key. */
import type { Aim } from "./aims.js";
import type { AnswerResult } from "./answers.js";
import type { Environment } from "./environment.js";
import type { HungResult } from "./hung.js";
import type { IdleResult } from "./idle-images.js";
import type { Failure } from "./measure.js";
import type { NeighbourResult } from "./neighbours.js";
import type { RowResult, ScaleResult } from "./results.js";

/** What --json prints, and what is written to bench.json. */
export interface Report {
  readonly environment: Environment;
  /** ISO 8601. */
  readonly date: string;
  readonly quick: boolean;
  readonly repeats: number;
  /** Of one run of one contestant. */
  readonly seconds: number;
  /** Bytes of the file. */
  readonly size: number;
  readonly serveOptions: readonly string[];
  /** Why system calls were not counted; null where they were. */
  readonly noSyscalls: string | null;
  readonly rows: readonly RowResult[];
  readonly scale: readonly ScaleResult[];
  readonly idle: readonly IdleResult[];
  readonly answers: readonly AnswerResult[];
  readonly neighbours: readonly NeighbourResult[];
  readonly hung: readonly HungResult[];
  /** Why rows of neighbours were left out, by name. */
  readonly left: Readonly<Record<string, string>>;
  readonly aims: readonly Aim[];
  /** Empty when all went well. */
  readonly failures: readonly Failure[];
  readonly elapsedSeconds: number;
}
