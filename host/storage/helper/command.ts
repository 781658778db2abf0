/** The program that serves a source over NBD on a private socket, and its command line. */
import { accessSync, constants } from "node:fs";
import { join } from "node:path";
import type { Cache } from "../direct.js";
import { IMAGE_FORMATS, type Source } from "../source.js";

export interface HelperCommand {
  readonly program: string;
  /** Debian's. */
  readonly package: string;
  readonly args: readonly string[];
}

export interface HowToServe {
  readonly readOnly: boolean;
  /** Heeds nobody's locks. */
  readonly shared: boolean;
  readonly cache: Cache;
  /** Where it is to listen. */
  readonly socket: string;
}

/** Sources that another program serves. */
export type HelpedSource = Extract<Source, { kind: "image" | "rbd" | "http" }>;

/** Every one of them serves one client, and ends in good order when that goes. */
export function commandFor(source: HelpedSource, how: HowToServe): HelperCommand {
  if (source.kind === "http") return nbdkit(source.url, how);
  if (source.kind === "image") {
    const { format, path } = source;
    const locking = how.shared ? "off" : "on";
    return qemuNbd(how, "qemu-utils", {
      driver: IMAGE_FORMATS[format],
      "file.driver": isDevice(path) ? "host_device" : "file",
      "file.filename": path,
      "file.locking": locking,
    });
  }
  const { pool, namespace, image } = source;
  const where = { driver: "raw", "file.driver": "rbd", "file.pool": pool, "file.image": image };
  return qemuNbd(
    how,
    "qemu-block-extra",
    namespace === "" ? where : { ...where, "file.namespace": namespace },
  );
}

function qemuNbd(
  { readOnly, cache, socket }: HowToServe,
  from: string,
  node: Readonly<Record<string, string>>,
): HelperCommand {
  // A comma in a value is written twice.
  const image = Object.entries(node).map(([key, value]) => `${key}=${value.replaceAll(",", ",,")}`);
  return {
    program: "qemu-nbd",
    package: from,
    args: [
      // writeback: its cache is the guest's to flush. What is not flushed is ours to write again.
      ...["--socket", socket, "--shared", "1", "--cache", cache === "none" ? "none" : "writeback"],
      ...["--discard", "unmap", ...(readOnly ? ["--read-only"] : [])],
      ...["--image-opts", image.join(",")],
    ],
  };
}

function nbdkit(url: string, { socket }: HowToServe): HelperCommand {
  return {
    program: "nbdkit",
    package: "nbdkit",
    args: [
      "--foreground",
      "--exit-with-parent",
      "--unix",
      socket,
      "--readonly",
      "--filter=exitlast",
      "curl",
      `url=${url}`,
    ],
  };
}

function isDevice(path: string): boolean {
  return path.startsWith("/dev/");
}

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
