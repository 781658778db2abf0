/**
 * What a wrapper is in a target: a word, perhaps an argument, and the target below it, with colons between them, like
 * delay:5ms:/disk.img. An argument has no colon, and no comma, so that the target fits into any disk specification; it is a
 * path, in which %3A, %2C and %25 stand for ":", "," and "%", or words with "+" between them.
 */
import { IO_OPERATIONS, type IoOperation } from "../../core/blkif.js";
import type { BlockDevice } from "../device.js";
import type { OpenOptions } from "../open.js";

export interface WrapperOptions extends OpenOptions {
  /** The whole target, for people. */
  readonly name: string;
  /** False: files that are not there are not left behind. Default true. */
  readonly create?: boolean;
}

/** A wrapper with its argument. */
export type Layer = Filter | Overlay | Property;

/** What operations pass through. */
export interface Filter {
  /** Puts it before a disk that is open, which it takes over. Rejects with a DeviceError, and the disk stays the caller's. */
  open(inner: BlockDevice, options: WrapperOptions): BlockDevice | Promise<BlockDevice>;
}

/** What is true of the disk below, which is served as if it stood alone. */
export interface Property {
  /** It is only read, whatever the disk's mode. */
  readonly readsOnly?: boolean;
  readonly rates?: Readonly<Rates>;
  /** The file that has its passphrase or password. */
  readonly keyFile?: string;
}

/** A second; 0: as many as there are. */
export interface Rates {
  iops: number;
  /** Bytes. */
  bps: number;
}

/** An image over the target below, of which it has one user. */
export interface Overlay {
  /** Its path. */
  readonly overlay: string;
}

export interface WrapperKind {
  /** How it is written, for people. */
  readonly usage: string;
  readonly hasArgument: boolean;
  /** Throws an Error that says what is wrong with an argument. */
  parse(argument: string): Layer;
}

/** The path that an argument is. Throws an Error when it is none. */
export function pathOf(argument: string): string {
  let path: string;
  try {
    path = decodeURIComponent(argument);
  } catch {
    throw new Error(`"${argument}" is badly encoded: % must be followed by two hexadecimal digits`);
  }
  if (!path.startsWith("/") || path.includes("\0")) throw new Error(`"${argument}" is not an absolute path`);
  return path;
}

/** A path as an argument: the other way round. */
export function argumentOf(path: string): string {
  return path.replace(/[%:,]/g, (one) => `%${one.charCodeAt(0).toString(16).toUpperCase()}`);
}

/**
 * The words of an argument: operations, and others, each of which `take` must know (true). Without an operation in it, all
 * are meant. Throws an Error that names a word that is neither.
 */
export function wordsOf(argument: string, take: (word: string) => boolean): ReadonlySet<IoOperation> {
  const operations = new Set<IoOperation>();
  for (const word of argument.split("+")) {
    const operation = IO_OPERATIONS.find((name) => name === word);
    if (operation) operations.add(operation);
    else if (!take(word)) throw new Error(`"${word}" is not known here`);
  }
  return operations.size > 0 ? operations : new Set(IO_OPERATIONS);
}

/** For people: " for reads and flushes"; "" where all are meant. */
export function described(operations: ReadonlySet<IoOperation>): string {
  if (operations.size === IO_OPERATIONS.length) return "";
  return ` on ${[...operations].join(", ")}`;
}
