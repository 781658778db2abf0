/** The rows of a good guest beside one whose storage hangs. */
import { type Measured, summary } from "../statistics.js";
import { type GoodResult, type GoodRuns, goodResult, type NeighbourSetup } from "./neighbours.js";

/**
 * What does not answer, each with requests of the guest in flight: the server of a FUSE file system, with a raw image in it;
 * an NBD server; the helper of a qcow2 image; a vhost-user server.
 */
export const HUNG = ["fuse", "nbd", "qcow2", "vhost-user"] as const;
export type HungKind = (typeof HUNG)[number];

/** What the operator does meanwhile; `show` is of the disk that hangs, and `attach` and `detach` are of another one. */
export const COMMANDS = ["list", "show", "attach", "detach"] as const;
export type Command = (typeof COMMANDS)[number];

/** Of the good guest's disk. */
export const HUNG_SETUP: NeighbourSetup = { cache: "writeback", engine: "io_uring", disk: "file" };

export interface HungRow {
  readonly name: string;
  readonly kind: HungKind;
  readonly quick: boolean;
}

export function hungRows(): HungRow[] {
  return HUNG.map((kind) => ({ name: `neighbours/hung/${kind}`, kind, quick: kind === "fuse" }));
}

export interface HungSamples extends GoodRuns {
  readonly row: HungRow;
  /** Milliseconds from the command's start to its end, one value a repeat. */
  readonly commands: Readonly<Record<Command, readonly number[]>>;
}

export interface HungResult extends GoodResult {
  readonly name: string;
  readonly kind: HungKind;
  /** Milliseconds. */
  readonly commands: Readonly<Record<Command, Measured>>;
}

export function hungResult({ row, commands, ...runs }: HungSamples): HungResult {
  const { name, kind } = row;
  const times = COMMANDS.map((command) => [command, summary(commands[command])!] as const);
  return { name, kind, ...goodResult(runs), commands: Object.fromEntries(times) as HungResult["commands"] };
}

/** Of all commands in all repeats. */
export const slowestCommand = ({ commands }: HungResult): number =>
  Math.max(...COMMANDS.map((command) => commands[command].max));
