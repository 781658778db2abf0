/** The program that serves a source on a private socket over NBD, and its command line. */
import { accessSync, constants, existsSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Cache } from "../direct.js";
import { IMAGE_FORMATS, type Source } from "../source.js";
import type { Reach } from "./reach.js";

export interface HelperCommand {
  readonly program: string;
  /** Debian's. */
  readonly package: string;
  readonly args: readonly string[];
  readonly reach: Reach;
  /**
   * It has QEMU's monitor (QMP) on its standard input, by which it is told to end. It gets no SIGTERM then, which systemd sends
   * to all processes of a unit at once: it would end before the guests' last requests have. SIGHUP ends it.
   */
  readonly hasMonitor?: boolean;
}

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
  /** An image is in a block device, and not in a file. */
  readonly block?: boolean;
  /** What an image is based on, from above: all of it, for it is not looked for. */
  readonly bases?: readonly Layer[];
}

/** Sources that another program serves. */
export type HelpedSource = Extract<Source, { kind: "image" | "rbd" | "http" }>;

/** Every one of them serves one client, and ends in good order when that goes. */
export function commandFor(source: HelpedSource, how: HowToServe): HelperCommand {
  if (source.kind === "http") return nbdkit(source.url, how);
  if (source.kind === "image") {
    const image = { driver: IMAGE_FORMATS[source.format], path: source.path, block: how.block ?? false };
    const node = nodeOf(image, how.shared ? "off" : "on", how.bases ?? []);
    return qemuNbd(how, "qemu-utils", reachOfImage(image, how), [`json:${JSON.stringify(node)}`]);
  }
  const { pool, namespace, image } = source;
  const where = { driver: "raw", "file.driver": "rbd", "file.pool": pool, "file.image": image };
  const node = Object.entries(namespace === "" ? where : { ...where, "file.namespace": namespace });
  // A comma in a value is written twice.
  const options = node.map(([key, value]) => `${key}=${value.replaceAll(",", ",,")}`);
  return qemuNbd(how, "qemu-block-extra", reachOfCeph(how), ["--image-opts", options.join(",")]);
}

/** Formats whose images may have a base. Where nothing is said of it, QEMU opens the one that the header names. */
const WITH_BASES: readonly string[] = ["qcow", "qcow2", "qed", "vmdk"];

/** QEMU's description of an image and its bases, which leaves it nothing to guess and no file to choose. */
export function nodeOf(
  { driver, path, block }: Layer,
  locking: string,
  [base, ...bases]: readonly Layer[],
  ofFiles: object = {},
): object {
  const file = { driver: block ? "host_device" : "file", filename: path, locking, ...ofFiles };
  if (!WITH_BASES.includes(driver)) return { driver, file };
  return { driver, file, backing: base ? nodeOf(base, "auto", bases, ofFiles) : null };
}

/** An image and its bases, and nothing else. */
export function reachOfImage(image: Layer, { readOnly, bases = [], socket }: HowToServe): Reach {
  return {
    files: [image, ...bases].map(({ path }, i) => ({ path, writable: i === 0 && !readOnly })),
    configuration: [],
    directory: dirname(socket),
    remote: false,
  };
}

/** Its configuration, and the keys that lie beside it. */
function reachOfCeph({ socket }: HowToServe): Reach {
  const conf = process.env["CEPH_CONF"];
  const directories = ["/etc/ceph", ...(conf?.startsWith("/") ? [dirname(conf)] : [])];
  const files = directories.flatMap((directory) => {
    try {
      return readdirSync(directory).map((name) => join(directory, name));
    } catch {
      return [];
    }
  });
  const configuration = [...directories, ...files].filter((path) => existsSync(path));
  return { files: [], configuration, directory: dirname(socket), remote: true };
}

function qemuNbd(
  { readOnly, cache, socket }: HowToServe,
  from: string,
  reach: Reach,
  image: string[],
): HelperCommand {
  return {
    program: "qemu-nbd",
    package: from,
    reach,
    args: [
      // writeback: its cache is the guest's to flush. What is not flushed is ours to write again.
      ...["--socket", socket, "--shared", "1", "--cache", cache === "none" ? "none" : "writeback"],
      ...["--discard", "unmap", ...(readOnly ? ["--read-only"] : [])],
      ...image,
    ],
  };
}

function nbdkit(url: string, { socket }: HowToServe): HelperCommand {
  return {
    program: "nbdkit",
    package: "nbdkit",
    reach: { files: [], configuration: [], directory: dirname(socket), remote: true },
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
