/** What a helper is started with. */
import { accessSync, constants } from "node:fs";
import { join } from "node:path";
import type { Cache } from "../direct.js";
import type { NbdTls } from "../nbd/uri.js";
import type { Source } from "../source.js";
import type { Reach } from "./reach.js";

export interface HelperCommand {
  readonly program: string;
  /** Debian's. */
  readonly package: string;
  readonly args: readonly string[];
  readonly reach: Reach;
  /**
   * It has QEMU's monitor (see monitor.ts), by which it is told to end. It gets no SIGTERM then, which a service manager may
   * send to all processes of a unit at once: it would end before the guests' last requests have. SIGHUP ends it.
   */
  readonly hasMonitor?: boolean;
  /** It is given a connection that this process has made, as the descriptor {@link CONNECTION_FD}. */
  readonly takesConnection?: boolean;
}

/** So high that the program, which takes the lowest that is free, never gives the number to something else when it has closed it. */
export const CONNECTION_FD = 500;

/** One file of an image: itself, or what it is based on. */
export interface Layer {
  /** QEMU's. */
  readonly driver: string;
  readonly path: string;
  /** It is a block device. */
  readonly block: boolean;
}

export interface HowToServe {
  readonly readOnly: boolean;
  /** Heeds nobody's locks. */
  readonly shared: boolean;
  readonly cache: Cache;
  /** Where it is to listen. */
  readonly socket: string;
  /** Bytes. Default: 512. */
  readonly sectorSize?: number;
  /** An image is in a block device, and not in a file. */
  readonly block?: boolean;
  /** What an image is based on, from above: all of it, for it is not looked for. */
  readonly bases?: readonly Layer[];
  /** The first of them may be written, by a job. */
  readonly writesBase?: boolean;
  /** Has the passphrase of an encrypted image. */
  readonly keyFile?: string;
}

/** A disk of an NBD server, as its server describes it. */
export interface NbdExport {
  readonly kind: "nbd";
  readonly exportName: string;
  /** Whole sectors. */
  readonly size: number;
  readonly tls?: NbdTls;
}

/** Sources that another program serves. */
export type HelpedSource = Extract<Source, { kind: "image" | "rbd" }>;

/** Where a program is; null where it is not installed. */
export function findProgram(name: string): string | null {
  for (const directory of [
    ...(process.env["PATH"] ?? "").split(":"),
    "/usr/local/bin",
    "/usr/bin",
    "/bin",
    "/usr/sbin",
  ]) {
    if (!directory.startsWith("/")) continue;
    const path = join(directory, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // The next one.
    }
  }
  return null;
}
